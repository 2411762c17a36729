"""The empty router advertisement: tells iPXE at once that there is no IPv6 router to wait for.

Without one, iPXE waits 13 to 16 seconds for an answer to its router solicitation (RFC 4861, 6.3.7).
"""

import socket
import struct
from contextlib import ExitStack

_SOLICITATION, _ADVERTISEMENT = 133, 134
_HOP_LIMIT = 255  # RFC 4861, 6.1: anything less was routed and is dropped
_ALL_NODES = "ff02::1"
_ICMP6_FILTER, _ICMPV6_LEVEL = 1, 58  # linux/icmpv6.h


def advertisement() -> bytes:
    """Type 134, code 0, checksum left to the kernel, no hop limit, no flags, lifetime 0, no options."""
    return struct.pack("!BBHBBHII", _ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0)


def is_solicitation(data: bytes) -> bool:
    """Whether an ICMPv6 message asks for routers."""
    return len(data) >= 8 and data[0] == _SOLICITATION and data[1] == 0


def open_socket(interface: str) -> socket.socket:
    """A socket that receives the router solicitations of one link; made in the namespace it is called in."""
    index = socket.if_nametoindex(interface)
    # One bit a type, set means blocked: everything but solicitations.
    blocked = [0xFFFFFFFF] * 8
    blocked[_SOLICITATION // 32] &= ~(1 << _SOLICITATION % 32)
    all_routers = socket.inet_pton(socket.AF_INET6, "ff02::2") + struct.pack("=I", index)
    with ExitStack() as unless_open:
        listener = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        unless_open.enter_context(listener)
        listener.setsockopt(_ICMPV6_LEVEL, _ICMP6_FILTER, struct.pack("=8I", *blocked))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, all_routers)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, _HOP_LIMIT)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        listener.setblocking(False)
        unless_open.pop_all()
    return listener


def reply(listener: socket.socket) -> None:
    """Reads one message and answers it, to all nodes of the link, if it is a solicitation."""
    data, sender = listener.recvfrom(1500)
    if is_solicitation(data):
        listener.sendto(advertisement(), (_ALL_NODES, 0, 0, sender[3]))
