"""Files to and from a real server, over connections that break."""

import hashlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bmi.api.app import create_app
from bmi.client import Client, transfers
from bmi.errors import InvalidImageError, InvalidStateError, UnavailableError
from tests.installation import Site
from tests.live import serving

DATA = bytes(1 << 20) + os.urandom(3 << 20) + bytes(2 << 20) + os.urandom(200 * 512)
SHA256 = hashlib.sha256(DATA).hexdigest()


@contextmanager
def breaking(url: str, after: list[int]) -> Iterator[str]:
    """A way to the server on which the connections end after so many bytes, either way; then they stay."""
    host, port = url.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket, budget: list[float]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                budget[0] -= len(data)
                if budget[0] < 0:
                    break
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                budget: list[float] = [after.pop(0) if after else float("inf")]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=pump, args=(*ends, budget), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(DATA)
    return path


def uploaded(site: Site, upload_id: str) -> bytes:
    return (site.uploads / upload_id).read_bytes()


def test_an_upload_goes_on_after_broken_connections(
    site: Site, url: str, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "_PIECE_BYTES", 2 << 20)
    told: list[int] = []
    ends = [1_500_000, 400_000, 3_000_000, 1 << 30]
    with (
        breaking(url, ends) as way,
        Client(way, site.token("uploader")) as client,
    ):
        upload = client.upload_file(disk, sha256=SHA256, on_progress=lambda done, _total: told.append(done))
        assert uploaded(site, upload) == DATA
        assert client.get_upload(upload)["sha256"] == SHA256
        client.delete_upload(upload)
    assert told[-1] == len(DATA)
    assert ends == [], "the first three connections broke"


def test_an_upload_waits_for_a_server_that_restarts(
    site: Site, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "_PIECE_BYTES", 1 << 20)
    token, begun = site.token("uploader"), threading.Event()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    found: list[str] = []

    def upload() -> None:
        with Client(f"http://127.0.0.1:{port}", token) as client:
            found.append(client.upload_file(disk, on_progress=lambda *_: begun.set()))

    thread = threading.Thread(target=upload)
    with serving(create_app(site.core, uploads_dir=site.uploads), port=port):
        thread.start()
        assert begun.wait(20)
    with serving(create_app(site.core, uploads_dir=site.uploads), port=port):
        thread.join(60)
    assert uploaded(site, found[0]) == DATA


def test_patience_ends(site: Site, client: Client, disk: Path) -> None:
    with Client("http://127.0.0.1:9", "bmi_x_y") as nobody:
        nobody.patience_s = 0
        with pytest.raises(UnavailableError):
            nobody.upload_file(disk)
    with pytest.raises(InvalidImageError):
        client.upload_file(disk, sha256="0" * 64)


def store(site: Site, name: str) -> None:
    image_id = site.add_image(name)
    storage = site.fakes["storage"]
    ref = next(found.ref for found in storage.list() if found.ref.id == image_id)
    storage._file(ref).write_bytes(DATA)


def test_a_download_goes_on_and_leaves_out_what_is_zero(site: Site, url: str, tmp_path: Path) -> None:
    store(site, "mine")
    file = tmp_path / "mine.raw"
    with breaking(url, [1 << 30, 2_500_000, 1_500_000]) as way, Client(way, site.token("loader")) as client:
        with pytest.raises(InvalidStateError):
            client.download_image("mine", file, "raw")
        client.prepare_download("mine", "raw")
        site.settle()
        told: list[int] = []
        sha256 = client.download_image(
            "mine", file, "raw", on_progress=lambda done, _total: told.append(done)
        )
    assert (sha256, file.read_bytes()) == (SHA256, DATA)
    assert file.stat().st_blocks * 512 <= len(DATA) - (2 << 20)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []
    assert told[-1] == len(DATA)


def test_a_download_goes_on_where_an_earlier_one_was_stopped(
    site: Site, client: Client, tmp_path: Path
) -> None:
    store(site, "mine")
    client.prepare_download("mine", "raw")
    site.settle()
    file = tmp_path / "mine.raw"
    (tmp_path / f"mine.raw.{SHA256[:16]}.part").write_bytes(DATA[:2_000_000])
    told: list[int] = []
    client.download_image("mine", file, "raw", on_progress=lambda done, _total: told.append(done))
    assert told[0] > 2_000_000
    assert file.read_bytes() == DATA


def test_a_round_trip_gives_the_same_disk(site: Site, client: Client, tmp_path: Path) -> None:
    """A file goes in as qcow2, and comes out as qcow2 and as raw."""
    disk, raw = tmp_path / "disk.raw", tmp_path / "in.qcow2"
    with disk.open("wb") as file:
        file.truncate(8 << 20)
        file.seek(1 << 20)
        file.write(os.urandom(1 << 20))
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, raw], check=True)
    made = client.import_image("trip", raw, labels={"a": "b"}, description="There and back.")
    site.settle()
    assert client.get_operation(made["id"])["state"] == "succeeded"
    for image_format in ("raw", "qcow2"):
        client.prepare_download("trip", image_format)
        site.settle()
        out, back = tmp_path / f"out.{image_format}", tmp_path / "back.raw"
        client.download_image("trip", out, image_format)
        subprocess.run(["qemu-img", "convert", "-f", image_format, "-O", "raw", out, back], check=True)
        assert back.read_bytes() == disk.read_bytes()


def test_calls_about_images(site: Site, client: Client) -> None:
    for _ in range(2):
        site.add_image("os", "red")
    assert client.change_image("os", description="Ours.", labels={"a": "b"}, protected=True)["protected"]
    assert [image["version"] for image in client.list_images(labels={"a": "b"})] == [2]
    assert len(client.list_images(name="os", all_versions=True)) == 2
    assert client.share_image("os", "blue")["shared_with"] == ["blue"]
    assert client.unshare_image("os", "blue")["shared_with"] == []
    assert client.change_image("os", new_name="linux", public=False, protected=False)["name"] == "linux"
    assert client.move_image("linux", "blue", project="red")["project"] == "blue"
    client.make_image("copy", {"image": "linux@1", "project": "blue"}, public=True)
    site.settle()
    client.flatten_image("copy")
    site.settle()
    client.publish_image("copy", "pool/copy")
    site.settle()
    client.delete_image("linux", project="blue", all_versions=True)
    site.settle()
    assert [image["name"] for image in client.list_images()] == ["debian-12", "copy"]
