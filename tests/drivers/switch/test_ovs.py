"""Open vSwitch with real traffic: what a port's setting means for frames."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from bmi.drivers.ovsdb import OvsDatabase
from bmi.drivers.switch import CLOSED, PortConfig, ovs
from bmi.drivers.switch.ovs import OvsSwitch
from bmi.errors import DriverError, TimedOutError
from bmi.lab import switch as lab_switch
from tests.wires import SwitchYard, give_address, reaches, send_frame, sniffing, switch_yard

pytestmark = pytest.mark.real


@pytest.fixture
def yard() -> Iterator[SwitchYard]:
    with switch_yard() as made:
        yield made


@pytest.fixture
def switch(yard: SwitchYard) -> OvsSwitch:
    return ovs.create(bridge=yard.bridge, db=yard.db, timeout_s=2)


def _vswitchd(yard: SwitchYard) -> int:
    return int((yard.spec.switch_directory / "vswitchd.pid").read_text())


def test_ports_of_one_vlan_reach_each_other_and_nobody_else(yard: SwitchYard, switch: OvsSwitch) -> None:
    one, two, other = (yard.plug(name) for name in ("one", "two", "other"))
    for number, namespace in enumerate((one, two, other), start=1):
        give_address(namespace, f"10.9.0.{number}/24")
    switch.apply({"one": PortConfig(101)})
    switch.apply({"two": PortConfig(101)})
    switch.apply({"other": PortConfig(102)})
    assert reaches(one, "10.9.0.2")
    assert not reaches(one, "10.9.0.3")
    switch.apply({"two": PortConfig(102)})
    assert not reaches(one, "10.9.0.2")
    assert reaches(other, "10.9.0.2")


def test_a_closed_port_reaches_nothing(yard: SwitchYard, switch: OvsSwitch) -> None:
    closed = yard.plug("closed", "tag=101")
    peers = {
        "also closed": yard.plug("closed2", "tag=101"),
        "VLAN 4094": yard.plug("last", "tag=4094"),
        "VLAN 1": yard.plug("first", "tag=1"),
        "untagged": yard.plug("untagged"),
    }
    give_address(closed, "10.9.0.1/24")
    for number, namespace in enumerate(peers.values(), start=2):
        give_address(namespace, f"10.9.0.{number}/24")
    assert reaches(closed, "10.9.0.2")
    switch.apply({"closed": CLOSED})
    switch.apply({"closed2": CLOSED})
    reached = [name for number, name in enumerate(peers, start=2) if reaches(closed, f"10.9.0.{number}")]
    assert reached == []
    assert switch.list() == {
        "port1": CLOSED,
        "closed": CLOSED,
        "closed2": CLOSED,
        "last": PortConfig(4094),
        "first": None,
        "untagged": None,
    }


@pytest.mark.parametrize("tag", [None, 0, 101, 4000, 4095], ids=str)
def test_no_forged_frame_leaves_a_closed_port(yard: SwitchYard, switch: OvsSwitch, tag: int | None) -> None:
    """Not to another closed port, nor to an open one on the VLAN that the frame claims."""
    closed = yard.plug("closed")
    receivers = [yard.plug("closed2"), yard.plug("open1")]
    for port in ("closed", "closed2"):
        switch.apply({port: CLOSED})
    switch.apply({"open1": PortConfig(tag if tag in {101, 4000} else 2)})
    forged = b"" if tag is None else b"\x81\x00" + tag.to_bytes(2)
    with sniffing(receivers[0], "e0") as first, sniffing(receivers[1], "e0") as second:
        for _ in range(3):
            send_frame(closed, forged + b"\x88\xb5forged")
        time.sleep(0.3)
        assert "88b5" not in first.read_text() + second.read_text()


def test_an_open_port_cannot_forge_another_vlan(yard: SwitchYard, switch: OvsSwitch) -> None:
    red, blue = yard.plug("red"), yard.plug("blue")
    switch.apply({"red": PortConfig(101)})
    switch.apply({"blue": PortConfig(102)})
    with sniffing(blue, "e0") as seen:
        send_frame(red, b"\x81\x00" + (102).to_bytes(2) + b"\x88\xb5forged")
        switch.apply({"red": PortConfig(102)})
        while "0x88b5" not in seen.read_text():
            send_frame(red, b"\x88\xb5honest")
        assert "forged" not in seen.read_text()
        assert seen.read_text().count("802.1Q") == 0


def test_a_tagged_only_port_passes_its_vlans_tagged_and_nothing_else(
    yard: SwitchYard, switch: OvsSwitch
) -> None:
    red, blue, green = (yard.plug(name) for name in ("red", "blue", "green"))
    switch.apply(
        {"red": PortConfig(None, frozenset({101})), "blue": PortConfig(101), "green": PortConfig(102)}
    )
    with sniffing(blue, "e0") as at_blue, sniffing(green, "e0") as at_green:
        send_frame(red, b"\x88\xb5untagged")
        send_frame(red, b"\x81\x00" + (102).to_bytes(2) + b"\x88\xb5forged")
        while "0x88b5" not in at_blue.read_text():
            send_frame(red, b"\x81\x00" + (101).to_bytes(2) + b"\x88\xb5honest")
        assert "untagged" not in at_blue.read_text()
        assert "0x88b5" not in at_green.read_text()


def test_a_trunk_with_a_native_vlan_sends_untagged_frames_there(yard: SwitchYard, switch: OvsSwitch) -> None:
    red, blue, green = (yard.plug(name) for name in ("red", "blue", "green"))
    switch.apply(
        {"red": PortConfig(101, frozenset({103})), "blue": PortConfig(101), "green": PortConfig(103)}
    )
    with sniffing(blue, "e0") as at_blue, sniffing(green, "e0") as at_green:
        while not ("0x88b5" in at_blue.read_text() and "0x88b6" in at_green.read_text()):
            send_frame(red, b"\x88\xb5native")
            send_frame(red, b"\x81\x00" + (103).to_bytes(2) + b"\x88\xb6tagged")
        assert "0x88b6" not in at_blue.read_text()
        assert "0x88b5" not in at_green.read_text()
    with sniffing(red, "e0") as at_red:
        while not at_red.read_text().count("vlan 103"):
            send_frame(green, b"\x88\xb5to red")


def test_a_port_that_is_neither_closed_nor_on_one_vlan_is_not_called_closed(
    yard: SwitchYard, switch: OvsSwitch
) -> None:
    yard.plug("wide")
    yard.plug("unprotected", "vlan_mode=trunk", "trunks=4095")
    yard.plug("trunk", "tag=5", "trunks=6,7", "vlan_mode=native-tagged")
    yard.plug("everything", "vlan_mode=trunk")
    yard.plug("first", "tag=1")
    listed = switch.list()
    assert [name for name in listed if listed[name] is not None] == ["port1"]


def test_a_port_that_does_not_exist_cannot_be_opened(switch: OvsSwitch) -> None:
    refused = switch.apply({"nowhere": PortConfig(101)})["nowhere"]
    assert isinstance(refused, DriverError)
    assert not refused.retryable
    assert "no node-side port 'nowhere'" in str(refused)


def test_a_foot_is_no_node_side_port(yard: SwitchYard, switch: OvsSwitch) -> None:
    yard.plug("foot", "tag=101", "external_ids:bmi-uplink=somewhere")
    assert "foot" not in switch.list()
    assert isinstance(switch.apply({"foot": PortConfig(102)})["foot"], DriverError)
    switch.apply({"foot": CLOSED})
    [ports] = yard.database.rows(Port="name,tag")
    assert {"name": "foot", "tag": 101} in ports


def test_a_bridge_that_does_not_exist(yard: SwitchYard) -> None:
    with pytest.raises(DriverError, match="no bridge 'br9'") as caught:
        ovs.create(bridge="br9", db=yard.db).list()
    assert not caught.value.retryable


def test_a_switch_that_is_away_is_said_to_be_so() -> None:
    with pytest.raises(DriverError, match="Open vSwitch refused") as caught:
        ovs.create(bridge="br0", db="unix:/nonexistent/db.sock").check()
    assert caught.value.retryable


def test_a_stuck_switch_has_not_closed_a_port_until_it_has(yard: SwitchYard, switch: OvsSwitch) -> None:
    """The database takes the change at once; repeating the call must not mistake that for the effect."""
    switch.apply({"port1": PortConfig(101)})
    daemon = _vswitchd(yard)
    os.kill(daemon, signal.SIGSTOP)
    try:
        for _ in range(2):
            with pytest.raises(TimedOutError):
                switch.apply({"port1": CLOSED})
        with pytest.raises(TimedOutError):
            switch.check()
    finally:
        os.kill(daemon, signal.SIGCONT)
    switch.apply({"port1": CLOSED})
    assert switch.list()["port1"] == CLOSED


def test_ports_stay_as_they_are_when_the_switch_restarts(yard: SwitchYard, switch: OvsSwitch) -> None:
    switch.apply({"port1": PortConfig(101)})
    os.kill(_vswitchd(yard), signal.SIGKILL)
    while lab_switch.answers(yard.spec):
        time.sleep(0.01)
    lab_switch.up(yard.spec)
    assert switch.list()["port1"] == PortConfig(101)
    switch.check()


def test_the_database_is_read_in_pythons_terms(yard: SwitchYard) -> None:
    yard.plug("wide", "external_ids:a=b", "external_ids:c=d")
    [ports] = OvsDatabase(yard.db, 5).rows(Port="name,tag,trunks,external_ids,protected")
    assert {
        "name": "wide",
        "tag": [],
        "trunks": [],
        "external_ids": {"a": "b", "c": "d"},
        "protected": False,
    } in ports
