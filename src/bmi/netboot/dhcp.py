"""DHCPv4 for booting machines: pure functions from a request and an address to a reply.

Every NIC has a fixed address, so there is no lease to remember, and any number of responders agree.
Sources: RFC 2131 and 2132 (protocol and options), RFC 4578 (93, client architecture), RFC 3046 (82,
relay agent), RFC 6842 (61, client identifier), Intel's PXE specification 2.1 (43, discovery control),
https://ipxe.org/howto/dhcpd (175, iPXE's own options).
"""

import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Interface

from bmi.domain.boot import Firmware, Offer

SERVER_PORT = 67
CLIENT_PORT = 68
EVERYBODY = "255.255.255.255"

_FIXED = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_COOKIE = b"\x63\x82\x53\x63"
_REQUEST, _REPLY, _ETHERNET = 1, 2, 1
_BROADCAST_FLAG = 0x8000
_MIN_REPLY_BYTES = 300  # RFC 1542, section 2.1: some relays drop shorter ones
# RFC 2131, section 2: every client takes a datagram of 576 bytes; larger ones only who says so, and no fragments.
_DATAGRAM_BYTES, _ETHERNET_MTU_BYTES, _IP_AND_UDP_BYTES = 576, 1500, 28
_ANY = IPv4Address(0)


class Option(IntEnum):
    """The options that are read or written here."""

    PAD = 0
    SUBNET_MASK = 1
    VENDOR = 43
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    MESSAGE_TYPE = 53
    SERVER_ID = 54
    MAX_MESSAGE_SIZE = 57
    VENDOR_CLASS = 60
    CLIENT_ID = 61
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


# RFC 4578, section 2.1; x86-64 EFI reads as 7 there and as 9 in the registry, and firmware sends either.
_ARCHITECTURES: dict[bytes, Firmware] = {b"\0\0": "bios", b"\0\7": "uefi64", b"\0\11": "uefi64"}


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
        # A firmware that we have no program for is better off without one.
        return _ARCHITECTURES.get(architecture, "os")

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
    """Options in the order they came; pieces of one option are joined (RFC 3396).

    None are looked for in `sname` and `file` (option 52): a request has room for the few that matter here.
    """
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
# Sub-option 6, bit 3: load the boot file that this reply names, look for no boot server.
_NO_DISCOVERY = bytes((6, 1, 8, 255))
# Sub-option 176: there is no proxyDHCP server to wait for.
_NO_PROXY = bytes((176, 1, 1))


def answer(request: Packet, foot: IPv4Interface, offer: Offer | None, boot_url: str) -> Packet | None:
    """The reply to a request, or None where silence is right.

    `offer` is what the NIC may have on this network: without one it gets no answer. A REQUEST of a known
    NIC for another address is refused (NAK) so that it starts anew. `boot_url` is where iPXE finds the
    script of this boot.
    """
    if request.op != _REQUEST or offer is None:
        return None
    if request.relay != _ANY:
        return None  # none is between us and a node: who says that it is one wants the answer to another's question
    if request.address_option(Option.SERVER_ID) not in {None, foot.ip}:
        return None
    address = IPv4Address(offer.address)
    match request.kind:
        case Message.DISCOVER:
            reply = _leased(_reply(request, foot, Message.OFFER), offer)
        case Message.REQUEST:
            wanted = request.address_option(Option.REQUESTED_ADDRESS) or request.client
            if wanted not in {address, _ANY}:
                return _echoed(_reply(request, foot, Message.NAK), request)
            reply = _leased(_reply(request, foot, Message.ACK), offer)
            reply = replace(reply, client=address if request.client == address else _ANY)
        case Message.INFORM if request.client in foot.network:
            reply = replace(_reply(request, foot, Message.ACK), client=request.client)
        case _:
            return None
    return _echoed(_with_boot(reply, request.firmware, foot, boot_url), request)


def _reply(request: Packet, foot: IPv4Interface, kind: Message) -> Packet:
    """What all replies to this request have in common (section 4.3.1, table 3)."""
    return Packet(
        op=_REPLY,
        transaction=request.transaction,
        flags=request.flags,
        client=_ANY,
        yours=_ANY,
        server=_ANY,
        relay=_ANY,
        mac=request.mac,
        options={Option.MESSAGE_TYPE: bytes([kind]), Option.SERVER_ID: foot.ip.packed},
    )


def _leased(reply: Packet, offer: Offer) -> Packet:
    lease = {Option.LEASE_TIME: struct.pack("!I", offer.lease_s)}
    return replace(reply, yours=IPv4Address(offer.address), options=reply.options | lease)


def _with_boot(reply: Packet, firmware: Firmware, foot: IPv4Interface, boot_url: str) -> Packet:
    options = reply.options | {Option.SUBNET_MASK: foot.netmask.packed}
    if firmware == "ipxe":
        options |= {Option.BOOT_FILE: boot_url.encode(), Option.IPXE: _NO_PROXY}
    if firmware not in BOOT_FILES:
        return replace(reply, server=foot.ip, options=options)
    name = BOOT_FILES[firmware]
    options |= {
        Option.VENDOR: _NO_DISCOVERY,
        Option.VENDOR_CLASS: b"PXEClient",
        Option.TFTP_SERVER: str(foot.ip).encode(),
        Option.BOOT_FILE: name.encode() + b"\0",  # some ROMs take the option for a C string
    }
    return replace(reply, server=foot.ip, options=options, boot_file=name)


def _echoed(reply: Packet, request: Packet) -> Packet:
    """A client's names for itself come back to it (RFC 6842; RFC 4578, 2.1), a switch's mark, last, to the switch;
    of these, in the order of their use, what still fits into a datagram that the client takes.
    """
    said = int.from_bytes(request.options.get(Option.MAX_MESSAGE_SIZE, b"")[:2], "big")
    room_bytes = min(max(said, _DATAGRAM_BYTES), _ETHERNET_MTU_BYTES) - _IP_AND_UDP_BYTES
    echoed: dict[int, bytes] = {}
    for code in (Option.RELAY_AGENT, Option.CLIENT_ID, Option.CLIENT_UUID):
        if code in request.options:
            more = {code: request.options[code]} | echoed
            if len(build(replace(reply, options=reply.options | more))) <= room_bytes:
                echoed = more
    return replace(reply, options=reply.options | echoed)


def destination(reply: Packet) -> tuple[str, int]:
    """Where a reply goes (RFC 2131, section 4.1): renewing client, the address that is being given, or everybody on
    the link. Nobody else should see the URL of a boot.
    """
    address = reply.yours if reply.client == _ANY else reply.client
    if address == _ANY or reply.flags & _BROADCAST_FLAG:
        return EVERYBODY, CLIENT_PORT
    return str(address), CLIENT_PORT
