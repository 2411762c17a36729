"""Feet on a real Open vSwitch: who reaches whom, and what is left after accidents."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bmi import process
from bmi.drivers import netns
from bmi.drivers.switch import PortConfig
from bmi.drivers.switch import ovs as switch_ovs
from bmi.drivers.uplink import Foot, ovs
from bmi.drivers.uplink.ovs import OvsUplink
from bmi.errors import DriverError
from tests.wires import SwitchYard, give_address, mac_of, reaches, switch_yard, unique

pytestmark = pytest.mark.real

RED = Foot(unique("red"), 101, "10.96.1.1/24")
BLUE = Foot(unique("blue"), 102, "10.96.1.1/24")


@pytest.fixture
def yard() -> Iterator[SwitchYard]:
    with switch_yard() as made:
        yield made


@pytest.fixture
def uplink(yard: SwitchYard) -> OvsUplink:
    return ovs.create(bridge=yard.bridge, db=yard.db, netns=yard.netns)


def _links(namespace: str) -> dict[str, str]:
    return {link["ifname"]: link["operstate"] for link in json.loads(netns.ip(namespace, "-json", "link"))}


def _addresses(foot: Foot) -> list[str]:
    [link] = json.loads(netns.ip(foot.netns, "-json", "-4", "address", "show", "dev", foot.interface))
    return [f"{address['local']}/{address['prefixlen']}" for address in link["addr_info"]]


def test_a_foot_reaches_the_nodes_of_its_network_only(yard: SwitchYard, uplink: OvsUplink) -> None:
    """Two networks may even use the same addresses."""
    switch = switch_ovs.create(bridge=yard.bridge, db=yard.db)
    node = yard.plug("node")
    give_address(node, "10.96.1.2/24")
    uplink.ensure(RED)
    uplink.ensure(BLUE)
    assert not reaches(RED.netns, "10.96.1.2")
    switch.apply({"node": PortConfig(RED.vlan)})
    assert reaches(RED.netns, "10.96.1.2")
    assert not reaches(BLUE.netns, "10.96.1.2")
    switch.apply({"node": PortConfig(BLUE.vlan)})
    netns.ip(node, "neighbour", "flush", "dev", "e0")
    assert not reaches(RED.netns, "10.96.1.2")
    assert reaches(BLUE.netns, "10.96.1.2")


def test_tcp_connects(yard: SwitchYard, uplink: OvsUplink) -> None:
    node = yard.plug("node", "tag=101", "vlan_mode=access")
    give_address(node, "10.96.1.2/24")
    uplink.ensure(RED)
    talk = (
        "import socket, subprocess, sys;"
        "server = socket.create_server(('10.96.1.1', 3260));"
        "code = \"import socket; socket.create_connection(('10.96.1.1', 3260), 5).sendall(b'x' * 100000)\";"
        f"client = subprocess.Popen(['nsenter', '--net=/run/netns/{node}', 'python3', '-c', code]);"
        "server.settimeout(5); connection = server.accept()[0]; connection.settimeout(5); got = 0\n"
        "while data := connection.recv(65536): got += len(data)\n"
        "client.wait(); print(got)"
    )
    assert process.run(["python3", "-c", talk], netns=RED.netns).stdout.strip() == "100000"


def test_nothing_is_forwarded_and_nothing_else_is_in_there(yard: SwitchYard, uplink: OvsUplink) -> None:
    uplink.ensure(RED)
    assert set(_links(RED.netns)) == {"lo", RED.interface}
    assert "bmi-v101" not in netns.ip(yard.netns, "-6", "address", "show")
    sysctl = ["sysctl", "-n", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]
    assert process.run(sysctl, netns=RED.netns).stdout.split() == ["0", "0"]


def test_a_foot_that_is_well_is_left_alone(uplink: OvsUplink) -> None:
    uplink.ensure(RED)
    mac = mac_of(RED.netns, RED.interface)
    uplink.ensure(RED)
    assert mac_of(RED.netns, RED.interface) == mac


def test_a_changed_address_replaces_the_old_one(uplink: OvsUplink) -> None:
    uplink.ensure(RED)
    uplink.ensure(replace(RED, address="10.96.7.1/24"))
    assert _addresses(RED) == ["10.96.7.1/24"]


def _break(yard: SwitchYard, damage: str) -> None:
    """Does one of many kinds of damage to the foot RED."""
    port = "bmi-v101"
    match damage:
        case "foot end":
            netns.ip(RED.netns, "link", "delete", RED.interface)
        case "switch end":
            netns.ip(yard.netns, "link", "delete", port)
        case "namespace":
            netns.remove(RED.netns)
        case "port":
            yard.database.run("del-port", yard.bridge, port)
        case "address":
            netns.ip(RED.netns, "address", "flush", "dev", RED.interface)
        case "down":
            netns.ip(RED.netns, "link", "set", RED.interface, "down")
        case "tag":
            yard.database.run("set", "Port", port, "tag=7")


@pytest.mark.parametrize("damage", ["foot end", "switch end", "namespace", "port", "address", "down", "tag"])
def test_ensure_repairs(yard: SwitchYard, uplink: OvsUplink, damage: str) -> None:
    uplink.ensure(RED)
    _break(yard, damage)
    uplink.ensure(RED)
    node = yard.plug("node", "tag=101", "vlan_mode=access")
    give_address(node, "10.96.1.2/24")
    assert reaches(RED.netns, "10.96.1.2")
    assert uplink.list() == [RED.netns]


@pytest.mark.parametrize("damage", ["foot end", "switch end", "namespace", "port"])
def test_a_broken_foot_is_not_listed(yard: SwitchYard, uplink: OvsUplink, damage: str) -> None:
    uplink.ensure(RED)
    uplink.ensure(BLUE)
    _break(yard, damage)
    assert uplink.list() == [BLUE.netns]


def test_a_half_made_foot_is_not_listed_but_removed(yard: SwitchYard, uplink: OvsUplink) -> None:
    mark = f"external_ids:bmi-uplink={RED.netns}"
    add = ("add-port", yard.bridge, "bmi-v101", "tag=101", "--", "set", "Port", "bmi-v101", mark)
    yard.database.run("--no-wait", *add)
    netns.ensure(RED.netns)
    assert uplink.list() == []
    uplink.remove(RED.netns)
    assert not netns.exists(RED.netns)
    [ports] = yard.database.rows(Port="name")
    assert {"name": "bmi-v101"} not in ports


def test_removing_leaves_nothing(yard: SwitchYard, uplink: OvsUplink) -> None:
    uplink.ensure(RED)
    uplink.remove(RED.netns)
    assert not netns.exists(RED.netns)
    assert "bmi-v101" not in _links(yard.netns)
    [ports] = yard.database.rows(Port="name")
    assert {"name": "bmi-v101"} not in ports


def test_two_networks_cannot_share_a_vlan(uplink: OvsUplink) -> None:
    uplink.ensure(RED)
    with pytest.raises(DriverError, match="has a foot already") as caught:
        uplink.ensure(replace(BLUE, vlan=RED.vlan))
    assert not caught.value.retryable
    assert not netns.exists(BLUE.netns)


def test_a_vlan_that_is_none(uplink: OvsUplink) -> None:
    with pytest.raises(DriverError, match="no VLAN 4095"):
        uplink.ensure(replace(RED, vlan=4095))
    assert not netns.exists(RED.netns)
    assert uplink.list() == []


def test_check_names_what_is_missing(yard: SwitchYard) -> None:
    with pytest.raises(DriverError, match="no network namespace 'h4-none'"):
        ovs.create(bridge=yard.bridge, db=yard.db, netns="h4-none").check()
    with pytest.raises(DriverError, match="br9"):
        ovs.create(bridge="br9", db=yard.db, netns=yard.netns).check()
