"""DHCPv4 for booting machines: pure functions from a request and an address to a reply.

Every NIC has a fixed address, so there is no lease to remember, and any number of responders agree.
Sources: RFC 2131 and 2132 (protocol and options), RFC 4578 (93, client architecture), RFC 3046 (82,
relay agent), https://ipxe.org/howto/dhcpd (175, iPXE's own options).
"""

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Interface

from bmi.domain.boot import Firmware, Offer

SERVER_PORT = 67
CLIENT_PORT = 68

_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_COOKIE = b"\x63\x82\x53\x63"
_REQUEST, _REPLY, _ETHERNET = 1, 2, 1
_BROADCAST_FLAG = 0x8000
_MIN_REPLY_BYTES = 300  # RFC 1542, section 2.1: some relays drop shorter ones
_ANY = IPv4Address(0)


class Option(IntEnum):
    """The options that are read or written here."""

    PAD = 0
    SUBNET_MASK = 1
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    VENDOR_CLASS = 60
    TFTP_SERVER = 66
    BOOT_FILE = 67
    USER_CLASS = 77
    RELAY_AGENT = 82
    CLIENT_ARCHITECTURE = 93
    CLIENT_UUID = 97
    IPXE = 175
    END = 255


class Message(IntEnum):
    """DHCP message types (RFC 2132, section 9.6)."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class MalformedPacketError(ValueError):
    """Not a DHCP request that can be answered."""


@dataclass(frozen=True)
class Packet:
    """A DHCP message over Ethernet."""

    op: int
    transaction: int
    flags: int
    client: IPv4Address
    yours: IPv4Address
    server: IPv4Address
    relay: IPv4Address
    mac: str
    options: dict[int, bytes]
    boot_file: str = ""
    seconds: int = 0
    hops: int = 0

    @property
    def kind(self) -> int:
        """The message type; 0 for plain BOOTP."""
        value = self.options.get(Option.MESSAGE_TYPE, b"")
        return value[0] if len(value) == 1 else 0

    @property
    def firmware(self) -> Firmware:
        """What sent the request, as far as it matters for what it should load next."""
        if b"iPXE" in self.options.get(Option.USER_CLASS, b""):
            return "ipxe"
        if not self.options.get(Option.VENDOR_CLASS, b"").startswith(b"PXEClient"):
            return "os"
        architecture = self.options.get(Option.CLIENT_ARCHITECTURE, b"\0\0")[:2]
        return "bios" if architecture == b"\0\0" else "uefi64"

    def address_option(self, option: Option) -> IPv4Address | None:
        """An option that holds one address, or None."""
        value = self.options.get(option, b"")
        return IPv4Address(value) if len(value) == 4 else None


def parse(data: bytes) -> Packet:
    """A packet from the wire; raises MalformedPacketError for anything that is not DHCP over Ethernet."""
    if len(data) < _FIXED.size + len(_COOKIE):
        raise MalformedPacketError("too short")
    op, htype, hlen, hops, xid, secs, flags, *addresses, hardware, _name, boot_file = _FIXED.unpack_from(data)
    if (htype, hlen) != (_ETHERNET, 6):
        raise MalformedPacketError("not Ethernet")
    if data[_FIXED.size : _FIXED.size + 4] != _COOKIE:
        raise MalformedPacketError("no magic cookie")
    client, yours, server, relay = (IPv4Address(a) for a in addresses)
    return Packet(
        op=op,
        transaction=xid,
        flags=flags,
        client=client,
        yours=yours,
        server=server,
        relay=relay,
        mac=":".join(f"{byte:02x}" for byte in hardware[:6]),
        options=_parse_options(data[_FIXED.size + 4 :]),
        boot_file=boot_file.split(b"\0", 1)[0].decode("ascii", "replace"),
        seconds=secs,
        hops=hops,
    )


def _parse_options(data: bytes) -> dict[int, bytes]:
    """Options in the order they came; pieces of one option are joined (RFC 3396)."""
    options: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != Option.END:
        code = data[at]
        at += 1
        if code == Option.PAD:
            continue
        if at >= len(data) or at + 1 + data[at] > len(data):
            raise MalformedPacketError("an option runs over the end")
        options[code] = options.get(code, b"") + data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
    return options


def build(packet: Packet) -> bytes:
    """The packet as it goes on the wire."""
    fixed = _FIXED.pack(
        packet.op,
        _ETHERNET,
        6,
        packet.hops,
        packet.transaction,
        packet.seconds,
        packet.flags,
        packet.client.packed,
        packet.yours.packed,
        packet.server.packed,
        packet.relay.packed,
        bytes.fromhex(packet.mac.replace(":", "")),
        b"",
        packet.boot_file.encode(),
    )
    options = bytearray()
    for code, value in packet.options.items():
        for start in range(0, len(value) or 1, 255):
            piece = value[start : start + 255]
            options += bytes((code, len(piece))) + piece
    return (fixed + _COOKIE + bytes(options) + b"\xff").ljust(_MIN_REPLY_BYTES, b"\0")


# The programs that a firmware which is not iPXE loads first, over TFTP.
BOOT_FILES: dict[Firmware, str] = {"bios": "undionly.kpxe", "uefi64": "ipxe.efi"}


def answer(request: Packet, foot: IPv4Interface, offer: Offer | None, boot_url: str) -> Packet | None:
    """The reply to a request, or None where silence is right.

    `offer` is what the NIC may have on this network: without one it gets no answer, except that a
    REQUEST for an address of ours from a known NIC that moved away is refused (NAK) so that it starts
    anew. `boot_url` is where iPXE finds the script of this boot.
    """
    if request.op != _REQUEST or request.kind not in {Message.DISCOVER, Message.REQUEST, Message.INFORM}:
        return None
    chosen = request.address_option(Option.SERVER_ID)
    if offer is None or (chosen is not None and chosen != foot.ip):
        return None
    address = IPv4Address(offer.address)
    wanted = request.address_option(Option.REQUESTED_ADDRESS) or request.client
    if request.kind == Message.REQUEST and wanted not in {address, _ANY}:
        return _nak(request, foot)
    options: dict[int, bytes] = {
        Option.MESSAGE_TYPE: bytes([Message.OFFER if request.kind == Message.DISCOVER else Message.ACK]),
        Option.SERVER_ID: foot.ip.packed,
        Option.SUBNET_MASK: foot.netmask.packed,
    }
    if request.kind != Message.INFORM:
        options[Option.LEASE_TIME] = struct.pack("!I", offer.lease_s)
    reply = replace(
        request,
        op=_REPLY,
        yours=_ANY if request.kind == Message.INFORM else address,
        server=foot.ip,
        boot_file="",
        options=options,
        hops=0,
        seconds=0,
    )
    return _echoed(_with_boot(reply, request, foot, boot_url), request)


def _with_boot(reply: Packet, request: Packet, foot: IPv4Interface, boot_url: str) -> Packet:
    if request.firmware == "os":
        return reply
    if request.firmware == "ipxe":
        # Sub-option 176: there is no proxyDHCP server to wait for.
        extra = {Option.BOOT_FILE: boot_url.encode(), Option.IPXE: bytes((176, 1, 1))}
        return replace(reply, options=reply.options | extra)
    name = BOOT_FILES[request.firmware]
    extra = {
        Option.VENDOR_CLASS: b"PXEClient",
        Option.TFTP_SERVER: str(foot.ip).encode(),
        Option.BOOT_FILE: name.encode() + b"\0",
    }
    return replace(reply, options=reply.options | extra, boot_file=name)


def _echoed(reply: Packet, request: Packet) -> Packet:
    """A client's UUID comes back to it (RFC 4578, 2.1), and a relay's mark, last, to the relay."""
    echoed = {
        code: request.options[code]
        for code in (Option.CLIENT_UUID, Option.RELAY_AGENT)
        if code in request.options
    }
    return replace(reply, options=reply.options | echoed)


def _nak(request: Packet, foot: IPv4Interface) -> Packet:
    options: dict[int, bytes] = {Option.MESSAGE_TYPE: bytes([Message.NAK]), Option.SERVER_ID: foot.ip.packed}
    refused = replace(
        request,
        op=_REPLY,
        flags=request.flags | _BROADCAST_FLAG,
        client=_ANY,
        yours=_ANY,
        server=_ANY,
        boot_file="",
        options=options,
    )
    return _echoed(refused, request)


def destination(request: Packet, reply: Packet) -> tuple[str, int]:
    """Where the reply goes (RFC 2131, section 4.1): relay, renewing client, or everybody on the link.

    A client without an address gets a broadcast even if it would take a unicast: sending one would
    need an entry in the neighbour table for an address that does not answer yet.
    """
    if request.relay != _ANY:
        return str(request.relay), SERVER_PORT
    if request.client != _ANY and not reply.flags & _BROADCAST_FLAG and reply.kind != Message.NAK:
        return str(request.client), CLIENT_PORT
    return "255.255.255.255", CLIENT_PORT
