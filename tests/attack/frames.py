"""Ethernet frames as an attacker makes them, field by field: no kernel has a say in what is in them."""

import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES = "33:33:00:00:00:01"
ARP, IPV4, IPV6, VLAN, PROVIDER_VLAN = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88A8
TCP, UDP, ICMPV6 = 6, 17, 58


def raw(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(
    target: str, source: str, kind: int, payload: bytes, tags: Sequence[tuple[int, int]] = ()
) -> bytes:
    """`tags` are (EtherType, VLAN), the outermost first."""
    tagged = b"".join(struct.pack("!HH", *tag) for tag in tags)
    return (raw(target) + raw(source) + tagged + struct.pack("!H", kind) + payload).ljust(60, b"\0")


def arp(operation: int, source: tuple[str, str], target: tuple[str, str]) -> bytes:
    """RFC 826; 1 asks, 2 answers. A party is its MAC and IPv4 address."""
    parties = b"".join(raw(mac) + IPv4Address(address).packed for mac, address in (source, target))
    return struct.pack("!HHBBH", 1, IPV4, 6, 4, operation) + parties


def ipv4(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    addresses = IPv4Address(source).packed + IPv4Address(target).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + addresses
    return head[:10] + checksum(head) + head[12:] + payload


def udp(source: tuple[str, int], target: tuple[str, int], payload: bytes) -> bytes:
    """The packet, IPv4 header and all; its UDP checksum is left out, as IPv4 allows."""
    head = struct.pack("!HHHH", source[1], target[1], 8 + len(payload), 0)
    return ipv4(source[0], target[0], UDP, head + payload)


def syn(source: tuple[str, int], target: tuple[str, int]) -> bytes:
    """The first packet of a TCP connection."""
    head = struct.pack("!HHIIBBHHH", source[1], target[1], 1, 0, 5 << 4, 2, 65535, 0, 0)
    pseudo = (
        IPv4Address(source[0]).packed + IPv4Address(target[0]).packed + struct.pack("!HH", TCP, len(head))
    )
    return ipv4(source[0], target[0], TCP, head[:16] + checksum(pseudo + head) + head[18:])


def icmpv6(source: str, target: str, message: bytes) -> bytes:
    """The packet, IPv6 header and all; `message` begins with its type, its checksum is put in."""
    addresses = IPv6Address(source).packed + IPv6Address(target).packed
    pseudo = addresses + struct.pack("!II", len(message), ICMPV6)
    summed = message[:2] + checksum(pseudo + message) + message[4:]
    return struct.pack("!IHBB", 6 << 28, len(message), ICMPV6, 255) + addresses + summed


def neighbour_solicitation(target: str) -> bytes:
    return struct.pack("!BBHI", 135, 0, 0, 0) + IPv6Address(target).packed


def router_advertisement() -> bytes:
    """Whoever believes it sends everything to its sender, for half an hour."""
    return struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def is_dhcp_reply(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\0" and frame[23] == UDP and frame[34:38] == struct.pack("!HH", 67, 68)


def packet_socket(interface: str) -> socket.socket:
    """Hears and sends everything on an interface of the namespace it is made in."""
    everything = socket.ntohs(3)  # ETH_P_ALL
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, everything)
    made.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
    made.bind((interface, 0))
    return made
