"""The boot listener's application: who may read what, and what it does with the rest."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from bmi.domain.boot import Boot, Foot, ipxe_script, nothing_script, trouble_script
from bmi.netboot.http import boot_url, create_app
from tests.asgi import AsgiTransport, running_loop
from tests.netboot.desk import KERNEL_BOOT, TOKEN, FakeDesk

RED = Foot("red", "", "boot0", "10.96.0.1/24")
BLUE = Foot("blue", "", "boot0", "10.96.1.1/24")
BASE = f"http://10.96.0.1:8080/boot/{TOKEN}"
SECRET_PATHS = ["ipxe", "kernel", "initrd", "boot.env", "meta-data", "user-data", "failed"]


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk(boots={(TOKEN, "red"): KERNEL_BOOT})


@pytest.fixture
def boot_dir(tmp_path: Path) -> Path:
    image = tmp_path / "boot" / KERNEL_BOOT.image_id
    image.mkdir(parents=True)
    (image / "kernel").write_bytes(b"the kernel")
    (image / "initrd").write_bytes(b"the initrd")
    (image / "secret").write_bytes(b"not for you")
    (tmp_path / "secrets.key").write_bytes(b"not for you")
    return tmp_path / "boot"


@pytest.fixture
def red(desk: FakeDesk, boot_dir: Path) -> Iterator[httpx.Client]:
    yield from _client(desk, RED, boot_dir)


@pytest.fixture
def blue(desk: FakeDesk, boot_dir: Path) -> Iterator[httpx.Client]:
    yield from _client(desk, BLUE, boot_dir)


def _client(desk: FakeDesk, foot: Foot, boot_dir: Path) -> Iterator[httpx.Client]:
    with running_loop() as loop:
        transport = AsgiTransport(create_app(desk, foot, 8080, boot_dir), loop)
        with httpx.Client(transport=transport, base_url="http://10.96.0.1:8080") as client:
            yield client


def test_the_address_of_a_script() -> None:
    assert boot_url(RED, 8080, TOKEN) == f"{BASE}/ipxe"
    assert boot_url(RED, 8080, None) == "http://10.96.0.1:8080/nothing"


def test_a_machine_with_nothing_to_boot_is_told_so(red: httpx.Client) -> None:
    answer = red.get("/nothing")
    assert (answer.status_code, answer.text) == (200, nothing_script())


def test_a_boot_reads_all_that_it_needs(red: httpx.Client, desk: FakeDesk) -> None:
    read = {name: red.get(f"/boot/{TOKEN}/{name}") for name in SECRET_PATHS if name != "failed"}
    assert {name: answer.text for name, answer in read.items()} == {
        "ipxe": ipxe_script(KERNEL_BOOT, BASE),
        "kernel": "the kernel",
        "initrd": "the initrd",
        "boot.env": f"BMI_REPORT_URL='{BASE}/report'\nBMI_HOSTNAME='n1'\n",
        "meta-data": KERNEL_BOOT.meta_data,
        "user-data": KERNEL_BOOT.user_data,
    }
    assert {answer.status_code for answer in read.values()} == {200}
    assert {answer.headers["cache-control"] for answer in read.values()} == {"no-store"}
    assert read["kernel"].headers["content-length"] == "10"
    assert desk.told == [("script", "kernel"), ("kernel", "bytes=10"), ("initrd", "bytes=10")]


def test_a_secret_is_in_the_script_and_nowhere_else(red: httpx.Client) -> None:
    holding = [name for name in SECRET_PATHS if "chap-s3cret" in red.get(f"/boot/{TOKEN}/{name}").text]
    assert holding == ["ipxe"]


def test_a_boot_that_waits_leaves_no_mark(red: httpx.Client, desk: FakeDesk) -> None:
    desk.boots[TOKEN, "red"] = waiting = Boot("wait", "n1")
    assert red.get(f"/boot/{TOKEN}/ipxe").text == ipxe_script(waiting, BASE)
    assert desk.told == []


@pytest.mark.parametrize("name", ["ipxe", "kernel", "initrd"])
def test_only_a_whole_file_counts_as_fetched(red: httpx.Client, desk: FakeDesk, name: str) -> None:
    assert red.head(f"/boot/{TOKEN}/{name}").status_code == 200
    assert red.get(f"/boot/{TOKEN}/{name}", headers={"Range": "bytes=0-0"}).status_code in {200, 206}
    assert desk.told == []


@pytest.mark.parametrize("name", ["kernel", "initrd"])
def test_a_boot_without_boot_files_finds_none(
    red: httpx.Client, desk: FakeDesk, boot_dir: Path, name: str
) -> None:
    desk.boots[TOKEN, "red"] = replace(KERNEL_BOOT, method="sanboot")
    assert red.get(f"/boot/{TOKEN}/{name}").status_code == 404
    desk.boots[TOKEN, "red"] = replace(KERNEL_BOOT, image_id="image-2")
    assert red.get(f"/boot/{TOKEN}/{name}").status_code == 404
    assert desk.told == []


# ---- who may not ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["x", "-", TOKEN[:-1], f"{TOKEN}0", "ä", "%00", "a" * 5000, "..", "%2e%2e"])
@pytest.mark.parametrize("name", [*SECRET_PATHS, "report/up"])
def test_a_wrong_token_finds_nothing(red: httpx.Client, desk: FakeDesk, name: str, token: str) -> None:
    method = "POST" if name == "report/up" else "GET"
    answer = red.request(method, f"/boot/{token}/{name}")
    assert answer.status_code == 404
    assert "s3cret" not in answer.text
    assert desk.told == []


@pytest.mark.parametrize("name", [*SECRET_PATHS, "report/up"])
def test_a_token_of_another_network_finds_nothing(blue: httpx.Client, desk: FakeDesk, name: str) -> None:
    method = "POST" if name == "report/up" else "GET"
    assert blue.request(method, f"/boot/{TOKEN}/{name}").status_code == 404
    assert desk.told == []


@pytest.mark.parametrize(
    "path",
    [
        "/",
        f"/boot/{TOKEN}",
        f"/boot/{TOKEN}/secret",
        f"/boot/{TOKEN}/../../secrets.key",
        f"/boot/{TOKEN}/%2e%2e/secret",
        f"/boot/{TOKEN}/..%2f..%2fsecrets.key",
        f"/boot/{TOKEN}/kernel/../secret",
        f"/boot/{TOKEN}/kernel%00",
        f"/boot/{TOKEN}/kernel%2fsecret",
        f"//boot/{TOKEN}/kernel",
        "/docs",
        "/openapi.json",
    ],
)
def test_nothing_else_is_there(red: httpx.Client, path: str) -> None:
    answer = red.get(path)
    assert answer.status_code == 404
    assert "not for you" not in answer.text


@pytest.mark.parametrize("host", ["x/secret#", "x/../secret?", "x/secret", "", "[", "x:y"])
def test_the_host_header_chooses_no_file(red: httpx.Client, host: str) -> None:
    answer = red.get(f"/boot/{TOKEN}/kernel", headers={"Host": host})
    assert answer.content in {b"the kernel", b"Invalid host header"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_reading_is_the_only_way(red: httpx.Client, desk: FakeDesk, method: str) -> None:
    for name in SECRET_PATHS:
        assert red.request(method, f"/boot/{TOKEN}/{name}").status_code == 405
    assert desk.told == []


# ---- reports -------------------------------------------------------------------------------------------


def test_ipxe_reports_a_failure_with_a_get(red: httpx.Client, desk: FakeDesk) -> None:
    assert red.get(f"/boot/{TOKEN}/failed?stage=sanhook&errno=0x2c0a6092").status_code == 200
    assert desk.told == [("failed", "iPXE: stage=sanhook, errno=0x2c0a6092")]


@pytest.mark.parametrize("stage", ["initramfs", "disk", "root", "up", "failed"])
def test_a_node_reports_how_far_it_is(red: httpx.Client, desk: FakeDesk, stage: str) -> None:
    assert red.post(f"/boot/{TOKEN}/report/{stage}", content=b"uptime=4.5 nic=eth0").status_code == 200
    assert desk.told == [(stage, "uptime=4.5 nic=eth0")]


def test_what_is_reported_becomes_one_printable_line(red: httpx.Client, desk: FakeDesk) -> None:
    red.post(f"/boot/{TOKEN}/report/failed", content=b"no\nroot\x1b[31m \xff\x00")
    assert desk.told == [("failed", "no root [31m \ufffd")]


@pytest.mark.parametrize("stage", ["script", "power-on", "UP", "up/", "%75p%0a", ""])
def test_a_stage_that_is_not_the_nodes_to_report_is_not_there(
    red: httpx.Client, desk: FakeDesk, stage: str
) -> None:
    assert red.post(f"/boot/{TOKEN}/report/{stage}").status_code in {307, 404}
    assert desk.told == []


def test_a_long_report_is_refused(red: httpx.Client, desk: FakeDesk) -> None:
    assert red.post(f"/boot/{TOKEN}/report/failed", content=b"x" * 2001).status_code == 413
    assert desk.told == []


# ---- trouble -------------------------------------------------------------------------------------------


def test_a_defect_or_an_absent_database_says_not_now(
    red: httpx.Client, desk: FakeDesk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    desk.trouble = OSError("database at db.example is away")
    for name in SECRET_PATHS:
        answer = red.get(f"/boot/{TOKEN}/{name}")
        # iPXE gives up over an error in place of its script.
        expected = (200, trouble_script()) if name == "ipxe" else (500, "not now\n")
        assert (answer.status_code, answer.text) == expected
    assert "database at db.example is away" in caplog.text
    desk.trouble = None
    assert red.get(f"/boot/{TOKEN}/ipxe").status_code == 200
    desk.boots[TOKEN, "red"] = replace(KERNEL_BOOT, chap_secret="chap-s3cret; shell")
    assert red.get(f"/boot/{TOKEN}/ipxe").text == trouble_script()
    assert "s3cret" not in caplog.text
    assert TOKEN not in "".join(record.getMessage() for record in caplog.records if record.name[:3] == "bmi")
