"""The DHCP packet code: any bytes, and every kind of client."""

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bmi.domain.boot import Firmware, Offer
from bmi.netboot.dhcp import (
    MalformedPacketError,
    Message,
    Option,
    Packet,
    answer,
    build,
    destination,
    parse,
)

FOOT = IPv4Interface("10.96.0.1/24")
MAC = "52:54:00:00:00:01"
URL = "http://10.96.0.1:8080/boot/01m8-0123/ipxe"
ANY = IPv4Address(0)
OFFER = Offer("10.96.0.10", "01m8-0123")
ADDRESS = IPv4Address(OFFER.address)

ADDRESSES = st.integers(0, 2**32 - 1).map(IPv4Address)
OPTIONS = st.dictionaries(st.integers(1, 254), st.binary(max_size=600), max_size=8)
PACKETS = st.builds(
    Packet,
    op=st.integers(0, 255),
    transaction=st.integers(0, 2**32 - 1),
    flags=st.integers(0, 65535),
    client=ADDRESSES,
    yours=ADDRESSES,
    server=ADDRESSES,
    relay=ADDRESSES,
    mac=st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":")),
    options=OPTIONS,
    boot_file=st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=128),
    seconds=st.integers(0, 65535),
    hops=st.integers(0, 255),
)
OFFERS = st.none() | st.sampled_from([OFFER, Offer("10.96.0.200", None, lease_s=120)])


def request(kind: Message | None, *, firmware: Firmware = "os", **other: object) -> Packet:
    """What a client of this firmware sends."""
    options: dict[int, bytes] = {Option.MESSAGE_TYPE: bytes([kind])} if kind else {}
    if firmware != "os":
        architecture = b"\0\0" if firmware in {"bios", "ipxe"} else b"\0\7"
        options |= {
            Option.VENDOR_CLASS: b"PXEClient:Arch:00000:UNDI:002001",
            Option.CLIENT_ARCHITECTURE: architecture,
        }
    if firmware == "ipxe":
        options[Option.USER_CLASS] = b"iPXE"
    extra = other.pop("options", {})
    assert isinstance(extra, dict)
    plain = Packet(1, 0x1234, 0, ANY, ANY, ANY, ANY, MAC, options | extra, seconds=4)
    return replace(plain, **other)  # type: ignore[arg-type]  # fields of a packet


def answered(asked: Packet, offer: Offer | None = OFFER) -> Packet:
    """The reply as the client reads it from the wire."""
    reply = answer(parse(build(asked)), FOOT, offer, URL)
    assert reply is not None
    raw = build(reply)
    assert len(raw) >= 300
    read = parse(raw)
    assert (read.op, read.transaction, read.mac) == (2, asked.transaction, asked.mac)
    assert (read.hops, read.seconds) == (0, 0)
    assert read.options[Option.SERVER_ID] == FOOT.ip.packed
    return read


# ---- the codec ------------------------------------------------------------------------------------------


@given(st.binary(max_size=1500))
def test_any_bytes_are_a_packet_or_malformed(data: bytes) -> None:
    try:
        parse(data)
    except MalformedPacketError:
        pass
    else:
        assert len(data) >= 240


@given(st.data(), PACKETS)
def test_a_damaged_packet_is_answered_well_or_not_at_all(data: st.DataObject, packet: Packet) -> None:
    raw = bytearray(build(packet))
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        asked = parse(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    except MalformedPacketError:
        return
    reply = answer(asked, FOOT, data.draw(OFFERS), URL)
    if reply is not None:
        assert parse(build(reply)) == reply


@given(PACKETS)
@example(request(Message.DISCOVER, options={Option.CLIENT_UUID: b""}))
def test_what_was_built_is_parsed_to_the_same(packet: Packet) -> None:
    assert parse(build(packet)) == packet


@given(
    asked=PACKETS, offer=OFFERS, kind=st.sampled_from(Message), chosen=st.sampled_from([None, FOOT.ip.packed])
)
def test_every_reply_is_well_formed(
    asked: Packet, offer: Offer | None, kind: Message, chosen: bytes | None
) -> None:
    options = asked.options | {Option.MESSAGE_TYPE: bytes([kind])}
    if chosen:
        options[Option.SERVER_ID] = chosen
    reply = answer(replace(asked, op=1, relay=ANY, options=options), FOOT, offer, URL)
    if reply is None:
        return
    assert offer is not None
    assert parse(build(reply)) == reply
    assert reply.kind in {Message.OFFER, Message.ACK, Message.NAK}
    assert reply.yours in {ANY, IPv4Address(offer.address)}
    assert len(build(reply)) <= 1472
    host, port = destination(reply)
    assert (port, host == "255.255.255.255" or IPv4Address(host) in FOOT.network) == (68, True)


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        build(request(Message.DISCOVER))[:239],
        b"\1\6" + build(request(Message.DISCOVER))[2:],  # not Ethernet
        b"\1\1\x08" + build(request(Message.DISCOVER))[3:],
        build(request(Message.DISCOVER))[:236] + b"abcd" + bytes(60),  # plain BOOTP
        build(request(Message.DISCOVER))[:240] + bytes([Option.VENDOR_CLASS]),
        build(request(Message.DISCOVER))[:240] + bytes([Option.VENDOR_CLASS, 9]) + b"PXE",
    ],
)
def test_what_is_not_dhcp_over_ethernet_is_malformed(broken: bytes) -> None:
    with pytest.raises(MalformedPacketError):
        parse(broken)


def test_options_end_where_they_say_and_pieces_are_joined() -> None:
    raw = build(request(Message.DISCOVER))[:240]
    pieces = b"\0\0" + bytes([Option.VENDOR_CLASS, 3]) + b"PXE" + bytes([Option.VENDOR_CLASS, 6]) + b"Client"
    read = parse(raw + pieces + b"\xff" + bytes([Option.MESSAGE_TYPE, 1, 1]))
    assert read.options == {Option.VENDOR_CLASS: b"PXEClient"}
    assert read.kind == 0


def test_a_reply_on_the_wire_byte_by_byte() -> None:
    asked = request(Message.DISCOVER, transaction=0xCAFE0001, flags=0x8000)
    reply = answer(asked, FOOT, OFFER, URL)
    assert reply is not None
    expected = bytes.fromhex("02010600 cafe0001 0000 8000 00000000 0a60000a 0a600001 00000000 525400000001")
    expected += bytes(10 + 64 + 128) + bytes.fromhex(
        "63825363 350102 36040a600001 3304ffffffff 0104ffffff00 ff"
    )
    assert build(reply) == expected.ljust(300, b"\0")


# ---- who asks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "firmware"),
    [
        ({}, "os"),
        ({Option.VENDOR_CLASS: b"udhcp 1.35.0"}, "os"),
        ({Option.VENDOR_CLASS: b"PXEClient"}, "bios"),
        ({Option.VENDOR_CLASS: b"PXEClient:Arch:00000:UNDI:002001", 93: b"\0\0"}, "bios"),
        ({Option.VENDOR_CLASS: b"PXEClient:Arch:00007:UNDI:003000", 93: b"\0\7"}, "uefi64"),
        ({Option.VENDOR_CLASS: b"PXEClient:Arch:00009:UNDI:003000", 93: b"\0\11"}, "uefi64"),
        ({Option.VENDOR_CLASS: b"PXEClient:Arch:00011:UNDI:003000", 93: b"\0\13"}, "os"),
        ({Option.VENDOR_CLASS: b"PXEClient", 93: b""}, "os"),
        ({Option.VENDOR_CLASS: b"HTTPClient:Arch:00016:UNDI:003001", 93: b"\0\20"}, "os"),
        ({Option.VENDOR_CLASS: b"PXEClient:Arch:00000:UNDI:002001", 93: b"\0\0", 77: b"iPXE"}, "ipxe"),
        ({Option.VENDOR_CLASS: b"PXEClient:Arch:00007:UNDI:003000", 93: b"\0\7", 77: b"\4iPXE"}, "ipxe"),
    ],
)
def test_who_asks_is_recognised(options: dict[int, bytes], firmware: Firmware) -> None:
    assert request(Message.DISCOVER, options=options).firmware == firmware


# ---- the answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reply_kind"), [(Message.DISCOVER, Message.OFFER), (Message.REQUEST, Message.ACK)]
)
def test_ipxe_gets_the_url_of_its_script(kind: Message, reply_kind: Message) -> None:
    wanted = {Option.REQUESTED_ADDRESS: ADDRESS.packed} if kind == Message.REQUEST else {}
    reply = answered(request(kind, firmware="ipxe", options=wanted))
    assert (reply.kind, reply.yours, reply.server, reply.boot_file) == (reply_kind, ADDRESS, FOOT.ip, "")
    assert reply.options == {
        Option.MESSAGE_TYPE: bytes([reply_kind]),
        Option.SERVER_ID: FOOT.ip.packed,
        Option.LEASE_TIME: b"\xff\xff\xff\xff",
        Option.SUBNET_MASK: bytes([255, 255, 255, 0]),
        Option.BOOT_FILE: URL.encode(),
        Option.IPXE: bytes([176, 1, 1]),
    }


@pytest.mark.parametrize(("firmware", "program"), [("bios", "undionly.kpxe"), ("uefi64", "ipxe.efi")])
def test_a_pxe_rom_gets_ipxe_over_tftp(firmware: Firmware, program: str) -> None:
    reply = answered(request(Message.DISCOVER, firmware=firmware, options={Option.CLIENT_UUID: bytes(17)}))
    assert (reply.yours, reply.server, reply.boot_file) == (ADDRESS, FOOT.ip, program)
    assert reply.options == {
        Option.MESSAGE_TYPE: bytes([Message.OFFER]),
        Option.SERVER_ID: FOOT.ip.packed,
        Option.LEASE_TIME: b"\xff\xff\xff\xff",
        Option.SUBNET_MASK: bytes([255, 255, 255, 0]),
        Option.VENDOR: bytes([6, 1, 8, 255]),
        Option.VENDOR_CLASS: b"PXEClient",
        Option.TFTP_SERVER: b"10.96.0.1",
        Option.BOOT_FILE: program.encode() + b"\0",
        Option.CLIENT_UUID: bytes(17),
    }


def test_an_os_gets_its_address_and_nothing_to_boot() -> None:
    reply = answered(request(Message.REQUEST, options={Option.REQUESTED_ADDRESS: ADDRESS.packed}))
    assert (reply.kind, reply.yours, reply.boot_file) == (Message.ACK, ADDRESS, "")
    assert not reply.options.keys() & {Option.BOOT_FILE, Option.TFTP_SERVER, Option.IPXE, Option.VENDOR_CLASS}


def test_a_guest_gets_a_short_lease() -> None:
    guest = Offer("10.96.0.200", None, lease_s=120)
    reply = answered(request(Message.DISCOVER, firmware="ipxe"), guest)
    assert (str(reply.yours), reply.options[Option.LEASE_TIME]) == ("10.96.0.200", struct.pack("!I", 120))


@pytest.mark.parametrize("firmware", ["ipxe", "bios", "uefi64", "os"])
def test_who_does_not_belong_here_gets_no_answer(firmware: Firmware) -> None:
    for kind in Message:
        assert answer(request(kind, firmware=firmware), FOOT, None, URL) is None


@pytest.mark.parametrize(
    "kind", [None, Message.OFFER, Message.ACK, Message.NAK, Message.DECLINE, Message.RELEASE]
)
def test_what_asks_nothing_gets_no_answer(kind: Message | None) -> None:
    assert answer(request(kind), FOOT, OFFER, URL) is None


def test_replies_of_other_servers_get_no_answer() -> None:
    assert answer(request(Message.DISCOVER, op=2), FOOT, OFFER, URL) is None


def test_a_client_that_chose_another_server_gets_no_answer() -> None:
    chosen = {Option.SERVER_ID: bytes([10, 96, 0, 2]), Option.REQUESTED_ADDRESS: ADDRESS.packed}
    assert answer(request(Message.REQUEST, options=chosen), FOOT, OFFER, URL) is None


@pytest.mark.parametrize(
    "asked",
    [
        request(
            Message.REQUEST, options={Option.REQUESTED_ADDRESS: bytes([10, 96, 0, 99])}
        ),  # after a reboot
        request(Message.REQUEST, client=IPv4Address("10.97.0.10")),  # a renewal from another network
        request(
            Message.REQUEST,
            options={Option.SERVER_ID: FOOT.ip.packed, Option.REQUESTED_ADDRESS: bytes([10, 96, 0, 99])},
        ),
    ],
)
def test_another_address_than_its_own_is_refused(asked: Packet) -> None:
    reply = answered(asked)
    assert (reply.kind, reply.yours, reply.client, reply.server) == (Message.NAK, ANY, ANY, ANY)
    assert reply.options.keys() == {Option.MESSAGE_TYPE, Option.SERVER_ID}
    assert destination(reply) == ("255.255.255.255", 68)


def test_a_renewal_is_answered_to_the_address_that_it_is_about() -> None:
    reply = answered(request(Message.REQUEST, client=ADDRESS))
    assert (reply.kind, reply.client, reply.yours) == (Message.ACK, ADDRESS, ADDRESS)
    assert destination(reply) == ("10.96.0.10", 68)
    assert destination(replace(reply, flags=0x8000)) == ("255.255.255.255", 68)


def test_a_new_client_is_answered_at_the_address_that_it_gets_if_it_can() -> None:
    assert destination(answered(request(Message.DISCOVER))) == (OFFER.address, 68)
    assert destination(answered(request(Message.DISCOVER, flags=0x8000))) == ("255.255.255.255", 68)


@pytest.mark.parametrize(
    ("said", "most_bytes", "echoed"),
    [
        (None, 548, [Option.RELAY_AGENT]),
        (b"\0\1", 548, [Option.RELAY_AGENT]),
        (b"", 548, [Option.RELAY_AGENT]),
        ((800).to_bytes(2, "big"), 772, [Option.CLIENT_ID, Option.RELAY_AGENT]),
        (b"\xff\xff", 1472, [Option.CLIENT_UUID, Option.CLIENT_ID, Option.RELAY_AGENT]),
    ],
)
def test_a_reply_is_no_larger_than_its_client_takes(
    said: bytes | None, most_bytes: int, echoed: list[Option]
) -> None:
    names = {Option.CLIENT_ID: bytes(200), Option.CLIENT_UUID: bytes(500), Option.RELAY_AGENT: bytes(100)}
    limit = {} if said is None else {Option.MAX_MESSAGE_SIZE: said}
    reply = answered(request(Message.DISCOVER, firmware="ipxe", options=names | limit))
    assert list(reply.options)[-len(echoed) :] == echoed
    assert len(reply.options) == 6 + len(echoed)
    assert len(build(reply)) <= most_bytes


def test_what_a_client_put_elsewhere_for_want_of_room_is_not_looked_for() -> None:
    overload = {52: b"\3"}
    reply = answered(request(Message.DISCOVER, options=overload, boot_file="\x43\x04evil"))
    assert (reply.kind, reply.boot_file) == (Message.OFFER, "")
    assert 52 not in reply.options


def test_a_forged_client_address_sends_no_reply_elsewhere() -> None:
    elsewhere = IPv4Address("192.0.2.1")
    wanted = {Option.REQUESTED_ADDRESS: ADDRESS.packed}
    for kind in (Message.DISCOVER, Message.REQUEST):
        reply = answered(request(kind, client=elsewhere, options=wanted))
        assert (reply.client, destination(reply)) == (ANY, (OFFER.address, 68))
    assert answer(request(Message.INFORM, client=elsewhere), FOOT, OFFER, URL) is None


def test_an_inform_is_answered_without_a_lease() -> None:
    reply = answered(request(Message.INFORM, client=IPv4Address("10.96.0.77")))
    assert (reply.kind, reply.yours, str(reply.client)) == (Message.ACK, ANY, "10.96.0.77")
    assert Option.LEASE_TIME not in reply.options
    assert destination(reply) == ("10.96.0.77", 68)


def test_a_mark_of_the_switch_goes_back_at_the_end() -> None:
    mark = b"\1\4port"
    names = {Option.CLIENT_ID: b"\1" + bytes(6), Option.CLIENT_UUID: bytes(17)}
    reply = answered(request(Message.DISCOVER, options={Option.RELAY_AGENT: mark} | names))
    assert reply.options[Option.CLIENT_ID] == b"\1" + bytes(6)
    assert list(reply.options)[-1] == Option.RELAY_AGENT
    assert reply.options[Option.RELAY_AGENT] == mark


@pytest.mark.parametrize("relay", ["10.96.0.254", "10.97.0.1"])
def test_who_says_that_it_is_a_relay_gets_no_answer(relay: str) -> None:
    """It would be told the boot of the NIC that it names."""
    assert answer(request(Message.DISCOVER, relay=IPv4Address(relay)), FOOT, OFFER, URL) is None
