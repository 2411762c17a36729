"""Prepared interfaces: lent to a foot's namespace, given back under their own name."""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bmi.drivers import netns
from bmi.drivers.uplink import Foot, existing
from bmi.errors import DriverError
from tests.wires import CABLE, give_address, reaches, unique

pytestmark = pytest.mark.real

FOOT = Foot(unique("foot"), 101, "10.96.1.1/24")
NAME = f"h4-wire-{os.getpid()}"


@pytest.fixture
def node() -> Iterator[str]:
    """A namespace whose cable ends in the prepared interface."""
    name = unique("node")
    netns.ensure(name)
    netns.ip(None, "link", "add", NAME, "type", "veth", "peer", "name", CABLE, "netns", name)
    netns.ip(name, "link", "set", CABLE, "up")
    yield name
    # A namespace takes its time to end; its interfaces shall be gone now.
    netns.ip(name, "link", "delete", CABLE)
    netns.remove(FOOT.netns)
    netns.remove(name)


def test_the_foot_reaches_what_the_interface_reaches(node: str) -> None:
    give_address(node, "10.96.1.2/24")
    uplink = existing.create(interfaces={"101": NAME})
    uplink.ensure(FOOT)
    assert reaches(FOOT.netns, "10.96.1.2")
    assert NAME not in netns.links(None)
    assert uplink.check() == "1 prepared interfaces are there."
    uplink.remove(FOOT.netns)
    assert NAME in netns.links(None)
    assert not netns.exists(FOOT.netns)


def test_a_foot_without_its_interface_is_not_listed(node: str) -> None:
    uplink = existing.create(interfaces={"101": NAME})
    uplink.ensure(FOOT)
    assert uplink.list() == [FOOT.netns]
    netns.ip(node, "link", "delete", CABLE)  # and with it the other end of the pair
    assert uplink.list() == []
    netns.ip(None, "link", "add", NAME, "type", "veth", "peer", "name", CABLE, "netns", node)
    uplink.ensure(FOOT)
    assert uplink.list() == [FOOT.netns]
    uplink.remove(FOOT.netns)


def test_a_vlan_without_interface(node: str) -> None:
    with pytest.raises(DriverError, match="for VLAN 102") as caught:
        existing.create(interfaces={"101": NAME}).ensure(replace(FOOT, vlan=102))
    assert not caught.value.retryable


def test_an_interface_that_is_not_there(node: str) -> None:
    uplink = existing.create(interfaces={"101": "h4-none"})
    for call in (uplink.check, lambda: uplink.ensure(FOOT)):
        with pytest.raises(DriverError, match="no interface 'h4-none'"):
            call()
    assert not netns.exists(FOOT.netns)
