"""The socket that answers DHCP on one link, and its way to a client that has no address yet."""

import fcntl
import socket
import struct
from contextlib import ExitStack

from bmi.netboot import dhcp

# A mass power-on sends thousands of packets before one is read.
_BUFFER_BYTES = 4 << 20
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h: not limited by net.core.rmem_max
_SIOCSARP = 0x8955  # linux/sockios.h
_ARPHRD_ETHER, _ATF_COM, _ATF_PERM = 1, 2, 4  # linux/if_arp.h
_FOR_EVER = b"\xff\xff\xff\xff"


def open_socket(interface: str) -> socket.socket:
    """A socket that receives the DHCP requests of one link; made in the namespace it is called in."""
    with ExitStack() as unless_open:
        listener = unless_open.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        listener.bind(("", dhcp.SERVER_PORT))
        listener.setblocking(False)
        unless_open.pop_all()
    return listener


def send(listener: socket.socket, interface: str, reply: dhcp.Packet) -> None:
    """Sends a reply where it belongs; raises OSError. Where the client cannot be told apart from the rest of
    its link (a full neighbour table), everybody hears it.
    """
    host, port = dhcp.destination(reply)
    if int(reply.yours):
        try:
            _introduce(listener, interface, reply)
        except OSError:
            host = dhcp.EVERYBODY
    listener.sendto(dhcp.build(reply), (host, port))


def _introduce(listener: socket.socket, interface: str, reply: dhcp.Packet) -> None:
    """Tells the kernel whose the address will be: its owner does not answer ARP for it yet (arp(7)). An address that
    is a NIC's for ever stays so, whoever claims it later.
    """
    for_ever = reply.options.get(dhcp.Option.LEASE_TIME) == _FOR_EVER
    request = struct.pack(
        "H2x4s8x H14s i16x 16s",
        *(socket.AF_INET, reply.yours.packed),
        *(_ARPHRD_ETHER, bytes.fromhex(reply.mac.replace(":", ""))),
        *(_ATF_COM | (_ATF_PERM if for_ever else 0), interface.encode()),
    )
    fcntl.ioctl(listener, _SIOCSARP, request)
