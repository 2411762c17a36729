"""What every uplink driver promises."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from bmi.drivers import load, netns
from bmi.drivers.uplink import Foot, Uplink, fake
from tests.wires import switch_yard, unique


@dataclass
class Subject:
    """An uplink, two feet for it, and what a reboot of the machine does to the first."""

    uplink: Uplink
    red: Foot
    blue: Foot
    reboot: Callable[[], None]


@pytest.fixture(
    params=["fake", *(pytest.param(name, marks=pytest.mark.real) for name in ("ovs", "existing"))]
)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    red = Foot(unique("red"), 101, "10.96.1.1/24")
    blue = Foot(unique("blue"), 102, "10.96.2.1/24")
    if request.param == "fake":
        imagined = fake.create()
        yield Subject(imagined, red, blue, imagined.reboot)
        return
    if request.param == "existing":
        names = {str(vlan): f"h4-{vlan}-{os.getpid()}" for vlan in (101, 102, 103)}
        for name in names.values():
            _prepare(name)

        def reboot() -> None:
            netns.ip(red.netns, "link", "delete", red.interface)
            netns.remove(red.netns)
            _prepare(names[str(red.vlan)])

        existing: Uplink = load("uplink", "existing")(interfaces=names)
        yield Subject(existing, red, blue, reboot)
        for foot in (red, blue):
            existing.remove(foot.netns)
        assert set(names.values()) <= set(netns.links(None)), "an interface was not given back"
        for name in names.values():
            netns.ip(None, "link", "delete", name)
        return
    with switch_yard() as yard:
        uplink: Uplink = load("uplink", "ovs")(bridge=yard.bridge, db=yard.db, netns=yard.netns)
        yield Subject(uplink, red, blue, lambda: netns.remove(red.netns))


def _prepare(name: str) -> None:
    """What the administrator does, at each boot of the machine."""
    netns.ip(None, "link", "add", name, "type", "veth", "peer", "name", f"{name}-p")


def test_feet_come_and_go(subject: Subject) -> None:
    uplink, red, blue = subject.uplink, subject.red, subject.blue
    assert list(uplink.list()) == []
    uplink.ensure(red)
    uplink.ensure(blue)
    assert sorted(uplink.list()) == sorted([red.netns, blue.netns])
    uplink.remove(red.netns)
    assert list(uplink.list()) == [blue.netns]


def test_all_calls_can_be_repeated(subject: Subject) -> None:
    for _ in range(2):
        subject.uplink.ensure(subject.red)
    assert list(subject.uplink.list()) == [subject.red.netns]
    for _ in range(2):
        subject.uplink.remove(subject.red.netns)
    assert list(subject.uplink.list()) == []


def test_removing_what_never_was_succeeds(subject: Subject) -> None:
    subject.uplink.remove("no-such-namespace")
    assert list(subject.uplink.list()) == []


def test_a_foot_can_change_its_vlan_and_address(subject: Subject) -> None:
    subject.uplink.ensure(subject.red)
    subject.uplink.ensure(replace(subject.red, vlan=103, address="10.96.3.1/24"))
    assert list(subject.uplink.list()) == [subject.red.netns]


def test_a_foot_that_a_reboot_took_is_not_listed_and_can_be_made_again(subject: Subject) -> None:
    subject.uplink.ensure(subject.red)
    subject.reboot()
    assert list(subject.uplink.list()) == []
    subject.uplink.ensure(subject.red)
    assert list(subject.uplink.list()) == [subject.red.netns]


def test_check_says_a_sentence(subject: Subject) -> None:
    assert subject.uplink.check().endswith(".")
