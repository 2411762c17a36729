"""The lab as a whole: nodes that behave like hardware, and no trace of it afterwards, whatever happened."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from bmi.drivers import netns
from bmi.drivers.bmc import BmcAccess, redfish
from bmi.drivers.switch import CLOSED, PortConfig
from bmi.drivers.switch import ovs as switch_ovs
from bmi.drivers.uplink import Foot
from bmi.drivers.uplink import ovs as uplink_ovs
from bmi.errors import AlreadyExistsError, ConflictError, DriverError, NotFoundError
from bmi.lab import processes
from bmi.lab.lab import Lab, LabNode
from tests.wires import short_directory, sniffing, unique

pytestmark = pytest.mark.real

PATIENCE_S = 90
NAME = unique("lab")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory for a lab, which is taken down in the end."""
    with short_directory() as parent:
        yield parent / "lab"
        try:
            lab = Lab.open(parent / "lab")
        except NotFoundError:
            return
        lab.down()


@pytest.fixture
def lab(directory: Path) -> Lab:
    return Lab.up(directory, nodes=1, name=NAME, memory_mib=128)


@pytest.fixture
def bmc() -> redfish.RedfishBmc:
    return redfish.create()


def _access(lab: Lab, node: LabNode | None = None) -> BmcAccess:
    url = (node or lab.nodes[0]).bmc_url.removeprefix("redfish+")
    return BmcAccess(url, lab.bmc_username, lab.bmc_password_file.read_text())


def _system(lab: Lab) -> dict[str, Any]:
    access = _access(lab)
    answer = requests.get(access.address, auth=(access.username, access.password), timeout=5)
    answer.raise_for_status()
    document: dict[str, Any] = answer.json()
    return document


def _act(lab: Lab, **request: Any) -> int:
    """PATCHes the system, or with `ResetType` resets it; returns the status."""
    access = _access(lab)
    credentials = (access.username, access.password)
    if "ResetType" in request:
        path = f"{access.address}/Actions/ComputerSystem.Reset"
        return requests.post(path, json=request, auth=credentials, timeout=10).status_code
    return requests.patch(access.address, json=request, auth=credentials, timeout=10).status_code


def _await(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.1)


def _console(lab: Lab) -> str:
    path = lab.nodes[0].console_path
    return path.read_text(errors="replace") if path.exists() else ""


def _pid(lab: Lab, part: str) -> int:
    at = lab.spec.directory
    files = {
        "bmc": at / "bmc" / "pid",
        "qemu": at / "nodes" / "n1" / "qemu.pid",
        "ovsdb": at / "switch" / "ovsdb.pid",
        "vswitchd": at / "switch" / "vswitchd.pid",
    }
    return int(files[part].read_text())


def _qemu_pid(lab: Lab) -> int | None:
    try:
        return _pid(lab, "qemu")
    except (FileNotFoundError, ValueError):  # ended, or just being started
        return None


def _kill(lab: Lab, part: str) -> None:
    processes.end(_pid(lab, part), str(lab.spec.directory))


def test_a_node_asks_for_an_address_on_its_network_once_its_port_is_open(
    lab: Lab, bmc: redfish.RedfishBmc
) -> None:
    [node] = lab.nodes
    foot = Foot(unique("foot"), 101, "10.96.1.1/24")
    uplink_ovs.create(bridge=lab.bridge, db=lab.switch_db, netns=lab.netns).ensure(foot)
    with sniffing(foot.netns, foot.interface, "udp", "port", "67") as seen:
        bmc.power_on(_access(lab))
        _await(lambda: "Configuring (net0" in _console(lab), "the PXE ROM")
        time.sleep(2)
        assert seen.read_text() == ""
        switch_ovs.create(bridge=lab.bridge, db=lab.switch_db).apply({node.switch_port: PortConfig(101)})
        _await(lambda: "BOOTP/DHCP, Request" in seen.read_text(), "DHCPDISCOVER")
        assert node.mac in seen.read_text()
    lab.down()
    assert lab.leftovers() == []
    assert not netns.exists(foot.netns)


def test_ports_are_closed_and_nodes_off_at_first(lab: Lab) -> None:
    assert switch_ovs.create(bridge=lab.bridge, db=lab.switch_db).list() == {"port1": CLOSED}
    assert "port1" not in netns.ip(lab.netns, "-6", "address", "show")
    status = lab.status()
    assert (status.switch_answers, status.bmc_answers, status.power) == (True, True, {"n1": "off"})


def test_the_password_is_for_the_owner_only(lab: Lab) -> None:
    assert lab.bmc_password_file.stat().st_mode & 0o777 == 0o600
    assert lab.spec.directory.stat().st_mode & 0o777 == 0o700
    password = lab.bmc_password_file.read_text()
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    assert not any(password in processes.command_line(pid) for pid in pids)
    url = lab.nodes[0].bmc_url.removeprefix("redfish+")
    assert requests.get(url, timeout=5).status_code == 401


def test_redfish_power_actions(lab: Lab) -> None:
    assert _act(lab, ResetType="On") == 204
    first = _pid(lab, "qemu")
    assert _system(lab)["PowerState"] == "On"
    assert _act(lab, ResetType="GracefulShutdown") == 204  # firmware does not listen
    assert _act(lab, ResetType="ForceRestart") == 204
    assert _pid(lab, "qemu") != first
    assert _act(lab, ResetType="ForceOff") == 204
    assert _system(lab)["PowerState"] == "Off"
    assert _act(lab, ResetType="Nmi") == 400
    assert _act(lab, ResetType="ForceRestart") == 204
    assert _system(lab)["PowerState"] == "On"


def test_a_boot_override_for_once_is_used_up_and_a_continuous_one_stays(lab: Lab) -> None:
    boot = {"BootSourceOverrideTarget": "Pxe", "BootSourceOverrideEnabled": "Once"}
    assert _act(lab, Boot=boot) == 204
    assert boot.items() <= _system(lab)["Boot"].items()
    _act(lab, ResetType="On")
    assert _system(lab)["Boot"]["BootSourceOverrideEnabled"] == "Disabled"
    boot["BootSourceOverrideEnabled"] = "Continuous"
    assert _act(lab, Boot=boot) == 204
    _act(lab, ResetType="ForceRestart")
    assert boot.items() <= _system(lab)["Boot"].items()
    assert _act(lab, Boot={"BootSourceOverrideTarget": "None"}) == 204
    assert _system(lab)["Boot"]["BootSourceOverrideEnabled"] == "Disabled"
    assert _act(lab, Boot={"BootSourceOverrideTarget": "Cd"}) == 400


def _boot_sector(lab: Lab) -> None:
    """Puts onto the node's disk a boot sector that writes DISK to the serial port, waits about a second
    (reads of port 80h) and resets the machine (port CF9h).
    """
    code = bytes.fromhex("ba f8 03".replace(" ", ""))
    for letter in b"DISK":
        code += bytes([0xB0, letter, 0xEE])
    code += bytes.fromhex("ba f9 0c b0 06 ee eb fe".replace(" ", ""))
    with lab.spec.nodes[0].disk_path.open("r+b") as disk:
        disk.write(code.ljust(510, b"\0") + b"\x55\xaa")


def test_a_node_with_a_disk_boots_it_first_unless_told_otherwise(
    directory: Path, bmc: redfish.RedfishBmc
) -> None:
    lab = Lab.up(directory, nodes=1, name=NAME, memory_mib=128, disk_gib=1)
    disk = lab.spec.nodes[0].disk_path
    assert disk.stat().st_size == 1 << 30
    assert disk.stat().st_blocks == 0
    _boot_sector(lab)
    access = _access(lab)
    bmc.power_on(access)
    first = _pid(lab, "qemu")
    # The node reboots; QEMU is started again for it, and boots the disk again. It does so over and over:
    # between one QEMU and the next there is none.
    _await(lambda: _console(lab).count("DISK") >= 2, "a second boot from the disk")
    _await(lambda: _qemu_pid(lab) not in (None, first), "a QEMU of the second boot")
    assert "iPXE initialising" not in _console(lab)
    bmc.power_off(access)
    bmc.boot_network_once(access)
    bmc.power_on(access)
    _await(lambda: "iPXE initialising" in _console(lab), "a boot from the network")
    bmc.power_off(access)
    booted = _console(lab).count("DISK")
    bmc.power_on(access)
    _await(lambda: _console(lab).count("DISK") > booted, "the disk's turn again")


def test_nodes_outlive_their_bmc_and_the_next_one_takes_them_over(lab: Lab, bmc: redfish.RedfishBmc) -> None:
    bmc.power_on(_access(lab))
    node = _pid(lab, "qemu")
    _kill(lab, "bmc")
    with pytest.raises(DriverError):
        bmc.power_state(_access(lab))
    assert lab.status().power == {"n1": "on"}
    again = Lab.up(lab.spec.directory, nodes=1, name=NAME, memory_mib=128)
    assert again.nodes == lab.nodes
    assert bmc.power_state(_access(again)) == "on"
    assert _pid(again, "qemu") == node
    bmc.power_off(_access(again))
    assert again.status().power == {"n1": "off"}


def test_up_on_a_lab_that_is_up_changes_nothing(lab: Lab) -> None:
    switch_ovs.create(bridge=lab.bridge, db=lab.switch_db).apply({"port1": PortConfig(101)})
    before = [_pid(lab, part) for part in ("bmc", "ovsdb", "vswitchd")]
    password = lab.bmc_password_file.read_text()
    Lab.up(lab.spec.directory, nodes=1, name=NAME, memory_mib=128)
    assert [_pid(lab, part) for part in ("bmc", "ovsdb", "vswitchd")] == before
    assert lab.bmc_password_file.read_text() == password
    assert switch_ovs.create(bridge=lab.bridge, db=lab.switch_db).list() == {"port1": PortConfig(101)}


def test_up_starts_what_has_died(lab: Lab) -> None:
    switch = switch_ovs.create(bridge=lab.bridge, db=lab.switch_db)
    switch.apply({"port1": PortConfig(101)})
    for part in ("vswitchd", "ovsdb", "bmc"):
        _kill(lab, part)
    assert (lab.status().switch_answers, lab.status().bmc_answers) == (False, False)
    Lab.up(lab.spec.directory, nodes=1, name=NAME, memory_mib=128)
    assert (lab.status().switch_answers, lab.status().bmc_answers) == (True, True)
    assert switch.list() == {"port1": PortConfig(101)}
    switch.check()


def test_a_lab_is_not_built_upon_another(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(ConflictError):
        Lab.up(lab.spec.directory, nodes=2, name=NAME, memory_mib=128)
    with short_directory() as elsewhere, pytest.raises(AlreadyExistsError, match=str(lab.spec.directory)):
        Lab.up(elsewhere / "lab", nodes=1, name=NAME, memory_mib=128)


def test_down_ends_everything_and_can_be_repeated(lab: Lab, bmc: redfish.RedfishBmc) -> None:
    bmc.power_on(_access(lab))
    left = "\n".join(lab.leftovers())
    for part in ("bmi.lab.bmc", "qemu-system", "ovsdb-server", "ovs-vswitchd", "network namespace"):
        assert part in left
    lab.down()
    assert lab.leftovers() == []
    assert not lab.spec.directory.exists()
    lab.down()
    with pytest.raises(NotFoundError):
        Lab.open(lab.spec.directory)


@pytest.mark.parametrize(
    "killed", [("bmc",), ("ovsdb",), ("vswitchd",), ("qemu",), ("bmc", "ovsdb", "vswitchd")]
)
def test_down_after_a_crash_leaves_nothing(
    lab: Lab, bmc: redfish.RedfishBmc, killed: tuple[str, ...]
) -> None:
    foot = Foot(unique("foot"), 101, "10.96.1.1/24")
    uplink_ovs.create(bridge=lab.bridge, db=lab.switch_db, netns=lab.netns).ensure(foot)
    bmc.power_on(_access(lab))
    for part in killed:
        _kill(lab, part)
    again = Lab.open(lab.spec.directory)
    again.down()
    assert again.leftovers() == []
    assert not netns.exists(foot.netns)


@pytest.mark.parametrize("after_s", [0.02, 0.1, 0.2, 0.3, 0.45, 0.6, 0.9])
def test_down_after_an_interrupted_up_leaves_nothing(directory: Path, after_s: float) -> None:
    """Wherever `up` is killed: the moments are counted from the first thing it writes down."""
    code = (
        "from pathlib import Path; from bmi.lab.lab import Lab;"
        f"Lab.up(Path({str(directory)!r}), nodes=1, name={NAME!r}, memory_mib=128)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as up:
        _await((directory / "lab.json").exists, "the start of up")
        time.sleep(after_s)
        up.send_signal(signal.SIGKILL)
    lab = Lab.open(directory)
    lab.down()
    _await(lambda: lab.leftovers() == [], "the end of everything")
    assert not directory.exists()


def test_up_goes_on_after_an_interrupted_down(lab: Lab) -> None:
    lab.spec.save(wanted="down")
    _kill(lab, "vswitchd")
    again = Lab.up(lab.spec.directory, nodes=1, name=NAME, memory_mib=128)
    assert again.status().switch_answers
    assert again.status().bmc_answers


def test_the_namespace_of_another_lab_is_left_alone(lab: Lab) -> None:
    netns.ip(lab.netns, "link", "set", "lo", "alias", "/somebody/else")
    lab.down()
    assert netns.exists(lab.netns)
    netns.ip(lab.netns, "link", "set", "lo", "alias", str(lab.spec.directory))
    lab.spec.save(wanted="down")
    lab.down()
    assert lab.leftovers() == []
