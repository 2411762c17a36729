"""Every command: what it does, what it prints for people and for programs, how it exits."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from bmi.cli.main import main
from tests.cli.conftest import Shell
from tests.installation import BMC_PASSWORD, Site

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@example.net"


@pytest.fixture
def password(tmp_path: Path) -> str:
    file = tmp_path / "password"
    file.write_text(f"{BMC_PASSWORD}\n")
    return str(file)


def test_a_node_from_registration_to_removal(site: Site, bmi: Shell, password: str) -> None:
    where = ("--mac", "52:54:00:00:00:99", "--bmc", "fake+https://bmc.example.net/n9")
    with site.working():
        said = bmi(
            "node", "register", "n9", *where, "--bmc-user", "root", "--bmc-password-file", password, "--wait"
        )
        assert "The register of node n9 has succeeded after" in said.stdout
        assert "check_bmc          done" in said.stderr
        shown = bmi("node", "show", "n9").stdout
        assert "state:       free" in shown
        assert "BMC:         fake+https://bmc.example.net/n9" in shown
        assert bmi.json("node", "show", "n9")["state"] == "free"
        bmi("node", "delete", "n9", "--wait")
    assert "n9" not in bmi("node", "list").stdout


def test_a_node_is_provisioned_and_released(site: Site, bmi: Shell, red: Shell, tmp_path: Path) -> None:
    keys, user_data = tmp_path / "keys.pub", tmp_path / "user-data"
    keys.write_text(f"# mine\n{PUBLIC_KEY}\n\n")
    user_data.write_text("#cloud-config\n")
    site.will_boot("n1")
    with site.working():
        told = ("--ssh-key", str(keys), "--user-data", str(user_data), "--hostname", "web")
        said = red("provision", "n1", "--image", "debian-12", *told, "--wait")
        assert "The provision of node n1 has succeeded after" in said.stdout
        assert "await_up           done" in said.stderr
        assert "active" in red("node", "list").stdout
        assert "power-on" in red("node", "events", "n1").stdout
        assert red.json("node", "events", "n1")[0]["stage"] == "allocated"
        assert red.json("node", "power", "n1", "off", "--wait")["state"] == "succeeded"
        red("snapshot", "create", "n1", "before-upgrade", "--wait")
        assert "before-upgrade" in red("snapshot", "list").stdout
        assert red.json("snapshot", "show", "before-upgrade")["node"] == "n1"
        site.will_boot("n2")
        assert red("node", "allocate").stdout == "n2\n"
        red("provision", "n2", "--snapshot", "before-upgrade", "--wait")
        refused = red("snapshot", "delete", "before-upgrade", exits=4)
        assert "Release the nodes" in refused.stderr
        for node in ("n1", "n2"):
            red("release", node, "--wait")
            assert "The free of node" in red("node", "free", node, "--wait").stdout
        red("snapshot", "delete", "before-upgrade", "--wait")
        assert bmi.json("snapshot", "list") == []


def test_nodes_are_labelled_and_allocated(bmi: Shell, red: Shell) -> None:
    assert bmi.json("node", "label", "n2", "gpu", "old")["labels"] == ["gpu", "old"]
    assert "gpu" in bmi("node", "label", "n2", "--remove", "old").stdout
    bmi("node", "label", "n2", exits=2)
    assert red("node", "pool").stdout.split() == ["LABELS", "FREE", "-", "1", "gpu", "1"]
    assert "this asks for 3" in red("node", "allocate", "--count", "3", exits=4).stderr
    assert red.json("node", "allocate", "--label", "gpu") == {"nodes": ["n2"], "operations": []}
    assert [node["name"] for node in red.json("node", "list")] == ["n1", "n2"]


def test_networks(site: Site, bmi: Shell, red: Shell, password: str) -> None:
    with site.working():
        where = ("--mac", "52:54:00:00:00:99", "--bmc", "fake+https://bmc.example.net/n9")
        said = (*where, "--label", "two-nics", "--bmc-user", "root", "--bmc-password-file", password)
        nic = "data=52:54:00:00:01:99@sw1/Ethernet1/9"
        bmi("node", "register", "n9", *said, "--nic", nic, "--wait")
        bmi("node", "register", "n8", *said, "--nic", "data", exits=2)
        assert red("node", "allocate", "--label", "two-nics").stdout == "n9\n"
        assert "VLAN:        102" in red("network", "create", "backend").stdout
        red("network", "attach", "backend", "n9", "--nic", "data", "--wait")
        assert "members:     n9 data" in red("network", "show", "backend").stdout
        assert "used by node n9 (data)" in red("network", "delete", "backend", exits=4).stderr
        assert red.json("network", "share", "backend", "--with", "blue")["shared_with"] == ["blue"]
        assert red.json("network", "unshare", "backend", "--with", "blue")["shared_with"] == []
        red("network", "share", "backend", exits=2)
        red("network", "share", "backend", "--public", exits=5)
        assert bmi.json("network", "share", "backend", "--public")["public"]
        assert not bmi.json("network", "unshare", "backend", "--public")["public"]
        red("network", "detach", "backend", "n9", "--nic", "data", "--wait")
        assert [network["name"] for network in red.json("network", "list")] == ["red", "backend"]
        bmi("network", "create", "theirs", "--project", "blue")
        bmi("network", "share", "theirs", "--with", "red", "--project", "blue")
        on_theirs = ("theirs", "n9", "--nic", "data", "--of", "blue", "--wait")
        red("network", "attach", *on_theirs, "--tagged")
        assert "data 52:54:00:00:01:99 on theirs tagged" in red("node", "show", "n9").stdout
        assert "(sw1 Ethernet1/9) on theirs tagged" in bmi("node", "show", "n9").stdout
        red("network", "detach", *on_theirs)
        red("network", "unshare", "theirs", "--with", "red", "--of", "blue")
        red("network", "show", "theirs", exits=3)
        assert "deleted" in red("network", "delete", "backend").stdout
    assert bmi.json("network", "create", "storage", "--vlan", "300")["project"] is None


def test_without_waiting_a_command_says_how_to_watch(site: Site, red: Shell) -> None:
    said = red("provision", "n1", "--image", "debian-12").stdout
    [operation] = red.json("operation", "list", "--live")
    assert f"Watch it: bmi operation wait {operation['id']}" in said
    assert red.json("operation", "show", operation["id"])["state"] == "queued"
    assert "clone_volume" in red("operation", "show", operation["id"]).stdout
    assert "it goes on" in red("operation", "wait", operation["id"], "--timeout", "0", exits=1).stderr
    site.will_boot("n1")
    with site.working():
        assert red.json("operation", "wait", operation["id"])["state"] == "succeeded"
    assert "7/7" in red("operation", "list", "--subject", "n1").stdout


def test_a_failure_says_what_to_do_and_can_be_retried(site: Site, red: Shell) -> None:
    site.bmc.world.set_fault("power_on", error="It refuses.", retryable=False)
    with site.working():
        failed = red("provision", "n1", "--image", "debian-12", "--wait", exits=1)
        assert (
            "Error: The provision of node n1 has failed. The site's equipment failed at step power_on."
            in failed.stderr
        )
        assert "ask an administrator" in failed.stderr
        operation = red.json("operation", "list")[0]
        assert red.json("operation", "wait", operation["id"], exits=1)["problem"]["step"] == "power_on"
        assert "The site's equipment failed" in red("node", "show", "n1").stdout
        site.bmc.world.set_fault("power_on")
        site.will_boot("n1")
        red("operation", "retry", operation["id"], "--wait")
    assert red.json("node", "show", "n1")["state"] == "active"


def test_a_cancelled_operation_is_what_was_wanted(site: Site, red: Shell) -> None:
    operation = red.json("provision", "n1", "--image", "debian-12")
    with site.working():
        assert "has cancelled" in red("operation", "cancel", operation["id"], "--wait").stdout
    assert red.json("node", "show", "n1")["state"] == "allocated"
    red("operation", "cancel", operation["id"], exits=4)


def test_an_image_from_file_to_removal(site: Site, bmi: Shell, tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
    with site.working():
        assert bmi.json("image", "import", "new", str(disk), "--public", "--wait")["state"] == "succeeded"
        assert "16.0 MiB" in bmi("image", "list").stdout
        assert "qcow2" in bmi("image", "show", "new").stdout
        bmi("image", "delete", "new", "--wait")
    assert [image["name"] for image in bmi.json("image", "list")] == ["debian-12"]
    bmi("image", "import", "new", str(tmp_path / "missing"), exits=2)
    bmi("image", "import", "new", exits=2)
    bmi("image", "import", "new", str(disk), "--rbd", "a/b", exits=2)
    bmi("image", "import", "new@2", str(disk), exits=4)


def test_images_as_people_keep_them(site: Site, bmi: Shell, red: Shell, tmp_path: Path) -> None:
    site.add_image("os", "red")
    site.add_image("os", "red")
    assert "version:     2" in red("image", "show", "os").stdout
    said = red(
        "image", "set", "os", "--description", "Ours.", "--label", "a=b", "--label", "c=d", "--protect"
    )
    assert "labels:      a=b c=d" in said.stdout
    assert red.json("image", "set", "os", "--unlabel", "c", "--unprotect")["labels"] == {"a": "b"}
    assert [image["version"] for image in red.json("image", "list", "--label", "a=b")] == [2]
    assert len(red.json("image", "list", "--all-versions")) == 3
    red("image", "list", "--label", "a", exits=2)
    assert red.json("image", "share", "os", "--with", "blue")["shared_with"] == ["blue"]
    assert red.json("image", "unshare", "os", "--with", "blue")["shared_with"] == []
    red("image", "share", "os", "--with", "blue")
    receiving = ("--with", "blue", "--of", "red", "--project", "blue")
    assert bmi.json("image", "unshare", "os", *receiving)["shared_with"] == []
    assert red.json("image", "rename", "os", "linux")["name"] == "linux"
    red("image", "set", "linux", "--public", exits=5)
    bmi("image", "move", "linux", exits=2)
    assert bmi.json("image", "move", "linux", "--to-site")["public"]
    with site.working():
        red("image", "copy", "linux@1", "mine", "--wait")
        assert "image linux@1 (shares data with it)" in red("image", "show", "mine").stdout
        red("image", "flatten", "mine", "--wait")
        red("image", "delete", "linux", exits=5)
        bmi("image", "delete", "linux", exits=4)
        bmi("image", "delete", "linux", "--all-versions", "--wait")
        bmi("image", "export", "mine", "--rbd", "pool/mine", "--wait")
        file = tmp_path / "mine.raw"
        told = red.json("image", "download", "mine", str(file), "--format", "raw")
        assert (told["size_bytes"], file.read_bytes()) == (4096, bytes(4096))
        site.will_boot("n1")
        red("provision", "n1", "--image", "debian-12@1", "--wait")
        red("snapshot", "create", "n1", "s", "--wait")
        red("snapshot", "promote", "s", "--as", "mine", "--wait")
        assert red.json("image", "show", "mine")["origin"]["kind"] == "snapshot"
        red("image", "import", "other", "--volume", "n1", "--wait")
    assert red.json("image", "show", "mine")["version"] == 2


def test_projects_tokens_and_switches(site: Site, url: str, bmi: Shell) -> None:
    with site.working():
        bmi("project", "create", "green", "--vlan", "150", "--wait")
        assert "150" in bmi("project", "list").stdout
        assert bmi.json("project", "show", "green")["network"]["vlan"] == 150
        secret = bmi("token", "create", "ci", "--project", "green", "--days", "1").stdout.strip()
        me = Shell(url, secret).json("whoami")
        assert (me["name"], me["role"], me["project"]) == ("ci", "member", "green")
        assert "ci" in bmi("token", "list").stdout
        assert bmi.json("token", "create", "cd")["secret"].startswith("bmi_")
        assert "revoked" in bmi("token", "revoke", "ci").stdout
        assert bmi.json("token", "revoke", "cd") == {}
        Shell(url, secret)("whoami", exits=5)
        bmi("project", "delete", "green", "--wait")
        bmi("project", "show", "green", exits=3)
    bmi("switch", "register", "sw2", "--driver", "ovs", "--option", "bridge=br0", "--option", "timeout_s=5")
    listed = {switch["name"]: switch["options"] for switch in bmi.json("switch", "list")}
    assert listed["sw2"] == {"bridge": "br0", "timeout_s": 5}
    assert "bridge=br0 timeout_s=5" in bmi("switch", "list").stdout
    assert "removed" in bmi("switch", "delete", "sw2").stdout
    bmi("switch", "delete", "sw1", exits=4)
    bmi("switch", "register", "sw3", "--driver", "ovs", "--option", "bridge", exits=2)


def test_the_exit_code_says_what_kind_of_failure_it_was(url: str, bmi: Shell, red: Shell) -> None:
    bmi("node", "list", "--colour", exits=2)
    bmi("provision", "n1", exits=2)
    bmi("provision", "n1", "--image", "a", "--snapshot", "b", exits=2)
    red("provision", "n1", "--image", "missing", exits=3)
    bmi("node", "show", "n7", exits=3)
    assert "mac" in bmi("node", "register", "n9", "--mac", "x", "--bmc", "fake+https://h", exits=4).stderr
    red("switch", "list", exits=5)
    Shell(url, "")("node", "list", exits=5)
    Shell(url, "bmi_wrong_token")("node", "list", exits=5)
    unreachable = bmi("--url", "http://127.0.0.1:9", "node", "list", exits=6)
    assert "bmi server run" in unreachable.stderr


def test_with_json_a_failure_is_a_problem_document(bmi: Shell) -> None:
    problem = bmi.json("node", "show", "n7", exits=3)
    assert (problem["type"], problem["status"]) == ("urn:bmi:problem:not-found", 404)


def test_a_password_comes_from_anywhere_but_the_command_line(site: Site, bmi: Shell, tmp_path: Path) -> None:
    where = ("--mac", "52:54:00:00:00:99", "--bmc", "fake+https://bmc.example.net/n9", "--bmc-user", "root")
    bmi("node", "register", "n9", *where, "--bmc-password", BMC_PASSWORD, exits=2)
    assert "BMI_BMC_PASSWORD" in bmi("node", "register", "n9", *where, exits=2).stderr
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    bmi("node", "register", "n9", *where, "--bmc-password-file", str(binary), exits=2)
    bmi("node", "register", "n9", *where, BMI_BMC_PASSWORD=BMC_PASSWORD)
    site.settle()
    assert bmi.json("node", "show", "n9")["state"] == "free"


def test_a_private_key_is_not_sent(red: Shell, tmp_path: Path) -> None:
    key = tmp_path / "id_ed25519"
    key.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert (
        "private key" in red("provision", "n1", "--image", "debian-12", "--ssh-key", str(key), exits=2).stderr
    )


def test_columns_are_aligned_and_never_cut(bmi: Shell) -> None:
    head, *rows = bmi("node", "list").stdout.splitlines()
    assert head.split() == ["NAME", "STATE", "PROJECT", "LABELS", "ADDRESS", "IMAGE", "MAC", "OPERATION"]
    assert [row.index("free") for row in rows] == [head.index("STATE")] * 3
    assert all("52:54:00:00:00:0" in row for row in rows)


def test_a_token_is_found_in_order(site: Site, url: str, tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text(site.token("t") + "\n")
    bad.write_text("bmi_wrong_token\n")
    nobody = Shell(url, "")
    nobody("--token-file", str(good), "whoami")
    nobody("whoami", BMI_TOKEN_FILE=str(good))
    Shell(url, "bmi_wrong_token")("--token-file", str(good), "whoami")
    Shell(url, good.read_text())("whoami", BMI_TOKEN_FILE=str(bad))
    nobody("--token-file", str(tmp_path / "missing"), "whoami", exits=1)


def test_the_local_administrators_token_goes_to_the_local_server_only(
    site: Site, url: str, tmp_path: Path
) -> None:
    (site.directory / "admin-token").write_text(site.token("local") + "\n")
    config = tmp_path / "bmi.toml"
    config.write_text(f'[server]\ndata_dir = "{site.directory}"\nport = {url.rpartition(":")[2]}\n')
    local = Shell("", "")
    assert local.json("--config", str(config), "whoami", BMI_URL="")["name"] == "local"
    local("--config", str(config), "--url", url, "whoami", exits=5)
    local("--config", str(tmp_path / "missing.toml"), "whoami", exits=1, BMI_URL="")


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("bmi.cli.main", ("httpx", "pydantic", "rich")),
        ("bmi.cli.main, bmi.client", ("sqlalchemy", "fastapi", "sushy", "uvicorn", "pydantic")),
    ],
)
def test_nothing_heavy_is_loaded_to_talk_to_a_server(modules: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys, {modules}; print([name for name in {unwanted} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_every_command_has_help_and_every_list_and_show_speaks_json() -> None:
    def walk(command: object, *words: str) -> list[tuple[str, ...]]:
        found = getattr(command, "commands", None)
        if found is None:
            assert getattr(command, "help", None), words
            options = {option for parameter in getattr(command, "params", []) for option in parameter.opts}
            if words != ("server", "run"):
                assert "--json" in options, words
            assert ("--wait" in options) <= ("--timeout" in options)
            return [words]
        return list(itertools.chain.from_iterable(walk(sub, *words, name) for name, sub in found.items()))

    assert len(walk(main)) >= 30
