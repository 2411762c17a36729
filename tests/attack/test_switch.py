"""What red's machine puts on the wire, and who hears it."""

import secrets
import time

import pytest

from tests.attack import frames
from tests.attack.conftest import Attempt, Battlefield
from tests.attack.machine import Machine, hear

pytestmark = [pytest.mark.real, pytest.mark.attack]

NOBODY = "02:00:00:00:00:99"
LINK_LOCAL = "fe80::99"
# How long a frame is listened for that should not come; those that should take milliseconds.
_SILENCE_S = 0.3


def heard_by(field: Battlefield, red: Machine, made: bytes, *hearers: Machine) -> list[str]:
    """Who of them hears a frame; the frame is known again by what is written at its end."""
    mark = secrets.token_bytes(16)
    with field.ears(*hearers) as ears:
        red.send(made + mark)
        time.sleep(_SILENCE_S)
        heard = [hear(ear, lambda frame: mark in frame, 0.01) for ear in ears]
    return [hearer.name for hearer, frame in zip(hearers, heard, strict=True) if frame]


def everybody_else(field: Battlefield) -> list[Machine]:
    return [field["n4"], field["n5"], field["n6"], field["n7"], field.foot("blue")]


def frames_of(field: Battlefield, red: Machine) -> dict[str, bytes]:
    blue, foot = field["n4"], field.foot("blue")
    question = frames.arp(1, (red.mac, red.address), ("00:00:00:00:00:00", blue.address))
    solicitation = frames.icmpv6(LINK_LOCAL, "ff02::1", frames.neighbour_solicitation("fe80::1"))
    text = frames.udp((red.address, 9), (blue.address, 9), b"hello")
    return {
        "an ARP question for blue's node, to everybody": frames.ethernet(
            frames.BROADCAST, red.mac, frames.ARP, question
        ),
        "a broadcast of UDP": frames.ethernet(frames.BROADCAST, red.mac, frames.IPV4, text),
        "an IPv6 neighbour solicitation to all nodes": frames.ethernet(
            frames.ALL_NODES, red.mac, frames.IPV6, solicitation
        ),
        "a frame to a MAC address that nobody has": frames.ethernet(NOBODY, red.mac, frames.IPV4, text),
        "a frame to the MAC address of blue's node": frames.ethernet(blue.mac, red.mac, frames.IPV4, text),
        "a frame to the MAC address of BMI in blue": frames.ethernet(foot.mac, red.mac, frames.IPV4, text),
        "a broadcast from the MAC address of blue's node": frames.ethernet(
            frames.BROADCAST, blue.mac, frames.IPV4, text
        ),
        "a broadcast from the IP address of blue's node": frames.ethernet(
            frames.BROADCAST,
            red.mac,
            frames.IPV4,
            frames.udp((blue.address, 9), ("255.255.255.255", 9), b"hello"),
        ),
        "a router advertisement": frames.ethernet(
            frames.ALL_NODES,
            red.mac,
            frames.IPV6,
            frames.icmpv6(LINK_LOCAL, "ff02::1", frames.router_advertisement()),
        ),
    }


KINDS = 9


@pytest.mark.parametrize("number", range(KINDS))
def test_frames_stay_in_red(field: Battlefield, red: Machine, attempt: Attempt, number: int) -> None:
    made = frames_of(field, red)
    assert len(made) == KINDS
    name, frame = list(made.items())[number]
    attempt.tried(f"{name}, from red's port")
    heard = heard_by(field, red, frame, field["n2"], *everybody_else(field))
    attempt.seen(f"heard by {' and '.join(heard) or 'nobody'}; nothing came to blue or to a closed port")
    assert set(heard) <= {"n2"}
    if frame[:6] == frames.raw(frames.BROADCAST):
        assert heard == ["n2"], "red's own neighbour hears it, or else this test hears nothing"


@pytest.mark.parametrize("outer", [frames.VLAN, frames.PROVIDER_VLAN], ids=["802.1Q", "802.1ad"])
@pytest.mark.parametrize("tags", ["blue", "red blue", "none blue", "blue red", "blue blue"])
def test_tags_open_no_other_network(
    field: Battlefield, red: Machine, attempt: Attempt, tags: str, outer: int
) -> None:
    vlans = {"red": field.vlan("red"), "blue": field.vlan("blue"), "none": 0}
    stack = [(outer if not at else frames.VLAN, vlans[tag]) for at, tag in enumerate(tags.split())]
    attempt.tried(
        f"broadcast with forged tags, {' in '.join(reversed([f'VLAN {vlans[tag]}' for tag in tags.split()]))}"
        f" ({'802.1Q' if outer == frames.VLAN else '802.1ad'}), into red's access port"
    )
    text = frames.udp((red.address, 9), ("255.255.255.255", 9), b"hello")
    heard = heard_by(
        field,
        red,
        frames.ethernet(frames.BROADCAST, red.mac, frames.IPV4, text, stack),
        *everybody_else(field),
    )
    attempt.seen(f"heard by {' and '.join(heard) or 'nobody'} of blue")
    assert heard == []


def test_a_forged_mac_takes_no_traffic_of_blue_away(
    field: Battlefield, red: Machine, attempt: Attempt
) -> None:
    blue = field["n4"]
    attempt.tried(
        "100 frames with the MAC address of blue's node as their source, to draw its traffic to red's port"
    )
    forged = frames.ethernet(frames.BROADCAST, blue.mac, frames.ARP, b"")
    red.send(*[forged] * 100)
    with field.ears(red) as [ear]:
        answered = field.foot("blue").pings(blue.address)
        stray = hear(ear, lambda frame: frame[:6] == frames.raw(blue.mac))
    attempt.seen("blue's node answers BMI as before, and red gets none of it")
    assert answered
    assert stray is None


def test_a_port_that_is_closed_neither_hears_nor_is_heard(field: Battlefield, attempt: Attempt) -> None:
    free = field["n6"]
    attempt.tried("broadcasts and DHCP from a free node on a closed port")
    text = frames.ethernet(
        frames.BROADCAST, free.mac, frames.IPV4, frames.udp(("0.0.0.0", 9), ("255.255.255.255", 9), b"x")
    )
    others = [field[name] for name in ("n1", "n4", "n7")] + [field.foot("red"), field.foot("blue")]
    assert heard_by(field, free, text, *others) == []
    assert free.discover() is None
    attempt.seen("nobody hears it, not even the other closed port, and DHCP does not answer")


def test_a_false_dhcp_server_is_not_heard_by_blue(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    attempt.tried("DHCP offers and acknowledgements from red's port, to blue's booting node")
    blue = field["n5"]
    reply = frames.udp((red.address, 67), ("255.255.255.255", 68), bytes(300))
    offers = [frames.ethernet(to, red.mac, frames.IPV4, reply) for to in (frames.BROADCAST, blue.mac)]
    with field.ears(blue) as [ear]:
        red.send(*offers * 20)
        assert hear(ear, lambda frame: frames.raw(red.mac) in frame) is None
    asked = blue.discover()
    assert asked is not None
    attempt.seen(f"blue's node hears one server only: {asked.server}")
    assert str(asked.server) == field.foot("blue").address


def test_blue_cannot_be_routed_to(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    attempt.tried("packets for blue's network, given to BMI in red as to a router")
    blue = field["n4"]
    red.run("ip", "route", "add", "10.0.0.0/8", "via", field.foot("red").address)
    try:
        found = {place: red.pings(place) for place in (blue.address, field.foot("blue").address)}
    finally:
        red.run("ip", "route", "del", "10.0.0.0/8")
    attempt.seen("no answer from blue's node, nor from BMI's address in blue")
    assert not any(found.values())
