"""The sockets of one link: whom a reply reaches, and what is left of one that could not be opened."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path
from types import ModuleType

import pytest

from bmi.domain.boot import Offer
from bmi.netboot import dhcp, ra
from bmi.netboot import link as dhcp_link
from bmi.netboot.dhcp import Message, Packet, answer
from bmi.netboot.namespace import inside
from tests.netboot.link import CLIENT, CLIENT_MAC, FOOT, Link, link
from tests.netboot.test_dhcp import request

pytestmark = pytest.mark.real

ADDRESS = "10.96.0.10"
BROADCAST = ("ff:ff:ff:ff:ff:ff", "255.255.255.255")


@pytest.fixture
def cable() -> Iterator[Link]:
    with link() as made:
        yield made


@pytest.fixture
def server(cable: Link) -> Iterator[socket.socket]:
    with inside(cable.server, lambda: dhcp_link.open_socket(FOOT)) as opened:
        yield opened


@pytest.fixture
def wire(cable: Link) -> Iterator[socket.socket]:
    """All that arrives at the client's end."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        made.bind((CLIENT, 0x0800))
        made.settimeout(10)
        return made

    with inside(cable.client, make) as opened:
        yield opened


def reply_to(cable: Link, asked: Packet) -> Packet:
    reply = answer(
        replace(asked, mac=CLIENT_MAC), IPv4Interface(cable.foot.address), Offer(ADDRESS, "t"), "u"
    )
    assert reply is not None
    return reply


def arrived(wire: socket.socket) -> tuple[str, str, Packet]:
    """The next UDP datagram: to which MAC, to which address, and what it says."""
    while (frame := wire.recv(2000))[23] != socket.IPPROTO_UDP:
        pass
    return frame[:6].hex(":"), socket.inet_ntoa(frame[30:34]), dhcp.parse(frame[42:])


@pytest.mark.parametrize("kind", [Message.DISCOVER, Message.REQUEST])
def test_a_reply_is_its_clients_alone(
    cable: Link, server: socket.socket, wire: socket.socket, kind: Message
) -> None:
    reply = reply_to(cable, request(kind, firmware="ipxe"))
    for _ in range(2):
        dhcp_link.send(server, FOOT, reply)
        assert arrived(wire) == (CLIENT_MAC, ADDRESS, reply)


def test_who_asks_for_a_broadcast_gets_one(cable: Link, server: socket.socket, wire: socket.socket) -> None:
    reply = reply_to(cable, request(Message.DISCOVER, flags=0x8000))
    dhcp_link.send(server, FOOT, reply)
    assert arrived(wire) == (*BROADCAST, reply)


def test_a_reply_that_cannot_be_its_clients_alone_is_sent_to_everybody(
    cable: Link, server: socket.socket, wire: socket.socket
) -> None:
    reply = reply_to(cable, request(Message.DISCOVER))
    dhcp_link.send(server, "absent0", reply)
    assert arrived(wire) == (*BROADCAST, reply)


@pytest.mark.parametrize("module", [ra, dhcp_link])
def test_a_socket_that_cannot_be_set_up_is_closed(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise OSError("not this one")

    monkeypatch.setattr(socket.socket, "setsockopt", refuses)
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(OSError, match="not this one"):
        module.open_socket("lo")
    assert set(Path("/proc/self/fd").iterdir()) == before
