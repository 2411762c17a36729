"""What red's machine can do to be a nuisance, and who boots all the same."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from bmi.netboot import dhcp
from bmi.netboot.dhcp import Message
from bmi.netboot.namespace import inside
from tests.attack import frames
from tests.attack.conftest import Attempt, Battlefield
from tests.attack.initiator import Initiator
from tests.attack.machine import HTTP_PORT, PORTAL_PORT, Machine
from tests.attack.test_volumes import credentials
from tests.netboot.test_dhcp import request

pytestmark = [pytest.mark.real, pytest.mark.attack]

PACKETS, CONNECTIONS = 3000, 600


def others_boot(field: Battlefield, attempt: Attempt) -> None:
    """Red's n3 and blue's n5 come from DHCP to their volume, under whatever is going on."""
    for name in ("n3", "n5"):
        machine = field[name]
        began = time.monotonic()
        told = machine.boot(up=False)
        foot = field.foot("red" if name == "n3" else "blue").address
        with machine.connect(foot, PORTAL_PORT) as connection:
            assert Initiator(connection).log_in(*credentials(told)).is_full
        attempt.seen(f"{name} got address, script and volume in {time.monotonic() - began:.1f} s")


def test_a_flood_of_dhcp(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    attempt.tried(f"{PACKETS} DHCP requests from as many made-up MAC addresses")
    with red.wire() as wire:
        for _ in range(PACKETS):
            mac = (b"\2" + os.urandom(5)).hex(":")
            asked = dhcp.build(request(Message.DISCOVER, firmware="ipxe", mac=mac))
            said = frames.udp(("0.0.0.0", 68), ("255.255.255.255", 67), asked)
            wire.send(frames.ethernet(frames.BROADCAST, mac, frames.IPV4, said))
    others_boot(field, attempt)


def test_half_open_connections(field: Battlefield, red: Machine, attempt: Attempt) -> None:
    attempt.tried(
        f"{PACKETS} half-open TCP connections each to boot server and portal, from made-up addresses"
    )
    foot = field.foot("red")
    with red.wire() as wire:
        for number in range(PACKETS):
            source = (f"{red.address.rpartition('.')[0]}.{100 + number % 100}", 1024 + number)
            for port in (HTTP_PORT, PORTAL_PORT):
                wire.send(
                    frames.ethernet(foot.mac, red.mac, frames.IPV4, frames.syn(source, (foot.address, port)))
                )
    others_boot(field, attempt)


@contextmanager
def idle(field: Battlefield, red: Machine, port: int) -> Iterator[None]:
    place = (field.foot("red").address, port)

    def connect() -> list[socket.socket]:
        return [socket.socket() for _ in range(CONNECTIONS)]

    with ExitStack() as stack:
        for opened in inside(red.netns, connect):
            stack.enter_context(opened)
            opened.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                opened.connect(place)
        yield


@pytest.mark.parametrize("port", [HTTP_PORT, PORTAL_PORT])
def test_idle_connections(field: Battlefield, red: Machine, attempt: Attempt, port: int) -> None:
    attempt.tried(f"{CONNECTIONS} connections to port {port} that say nothing")
    with idle(field, red, port):
        others_boot(field, attempt)
