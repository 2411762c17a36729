"""The real listeners in real namespaces, asked by real clients over a cable."""

import contextlib
import hashlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bmi import process
from bmi.domain.boot import Firmware, Offer, ipxe_script
from bmi.drivers import netns
from bmi.netboot import dhcp, ra
from bmi.netboot import listener as http_listener
from bmi.netboot.dhcp import Message, Option, Packet
from bmi.netboot.namespace import inside
from tests.netboot.desk import KERNEL_BOOT, TOKEN, FakeDesk
from tests.netboot.link import CLIENT, CLIENT_MAC, FOOT, HTTP_PORT, Link, eventually, link, name_of, serving
from tests.netboot.test_dhcp import request

pytestmark = pytest.mark.real

ADDRESS = "10.96.0.10"
MANY = 1000
LIMITED = ("busybox", "timeout", "5")  # wget's own limit crashes Debian's busybox
WGET = ("busybox", "wget", "-O", "-")


@pytest.fixture
def cable() -> Iterator[Link]:
    with link() as made:
        yield made


@pytest.fixture
def desk(cable: Link) -> FakeDesk:
    boots = {(TOKEN, cable.foot.network_id): replace(KERNEL_BOOT, portal=cable.address)}
    return FakeDesk([cable.foot], {CLIENT_MAC: Offer(ADDRESS, TOKEN)}, boots)


@pytest.fixture
def served(cable: Link, desk: FakeDesk, tmp_path: Path) -> Iterator[Link]:
    """The cable, once all answers at its other end."""
    image = tmp_path / KERNEL_BOOT.image_id
    image.mkdir()
    (image / "kernel").write_bytes(os.urandom(3 << 20))
    with serving(desk, tmp_path):
        cable.take_address("10.96.0.99/24")
        eventually(lambda: answers(cable))
        eventually(lambda: fetches_by_tftp(cable, tmp_path))
        yield cable


def answers(cable: Link) -> bool:
    url = f"http://{cable.address}:{HTTP_PORT}/nothing"
    return "nothing to boot" in cable.ask(*LIMITED, *WGET, url, ok_codes=(0, 1, 143))


def fetches_by_tftp(cable: Link, directory: Path, name: str = "undionly.kpxe") -> bool:
    taken = directory / "taken"
    taken.unlink(missing_ok=True)
    tftp = ("busybox", "tftp", "-g", "-l", taken, "-r", name)
    cable.ask(*LIMITED, *tftp, cable.address, ok_codes=(0, 1, 143))
    return taken.exists() and digest(taken) == digest(Path("/usr/lib/ipxe") / name)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sends_dhcp(cable: Link) -> socket.socket:
    """A socket of a client that has no address yet."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, CLIENT.encode())
        made.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        made.bind(("", dhcp.CLIENT_PORT))
        made.settimeout(5)
        return made

    return inside(cable.client, make)


def ask_dhcp(client: socket.socket, asked: Packet) -> Packet:
    client.sendto(dhcp.build(asked), ("255.255.255.255", dhcp.SERVER_PORT))
    return dhcp.parse(client.recv(1500))


def discover(number: int = 0, firmware: Firmware = "ipxe") -> Packet:
    mac = CLIENT_MAC if not number else f"52:54:00:08:{number >> 8:02x}:{number & 255:02x}"
    # A socket of UDP without an address hears broadcasts only.
    return replace(request(Message.DISCOVER, firmware=firmware), mac=mac, transaction=number, flags=0x8000)


# ---- each service --------------------------------------------------------------------------------------


def test_an_os_gets_its_address(served: Link, desk: FakeDesk, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\n[ "$1" = bound ] && echo "$ip/$mask $lease $serverid"\nexit 0\n')
    script.chmod(0o755)
    said = served.ask("busybox", "udhcpc", "-n", "-q", "-f", "-i", CLIENT, "-s", script)
    assert f"{ADDRESS}/24 4294967295 10.96.0.1\n" in said
    assert desk.asked == [("network-0", CLIENT_MAC, "os")] * 2


def test_a_machine_that_does_not_belong_here_gets_no_address(served: Link, desk: FakeDesk) -> None:
    desk.offers.clear()
    said = served.ask(
        *("busybox", "udhcpc", "-n", "-q", "-f", "-t", "2", "-T", "1", "-i", CLIENT, "-s", "/bin/true"),
        ok_codes=(1,),
    )
    assert "no lease" in said
    assert len(desk.asked) == 2


@pytest.mark.parametrize("name", ["undionly.kpxe", "ipxe.efi"])
def test_the_boot_programs_come_by_tftp(served: Link, tmp_path: Path, name: str) -> None:
    assert name in dhcp.BOOT_FILES.values()
    assert fetches_by_tftp(served, tmp_path, name)


@pytest.mark.parametrize("path", ["../../../etc/passwd", "/etc/passwd", "..", "/usr/lib/ipxe/../os-release"])
def test_nothing_else_comes_by_tftp(served: Link, tmp_path: Path, path: str) -> None:
    taken = tmp_path / "stolen"
    served.ask("busybox", "tftp", "-g", "-l", taken, "-r", path, served.address, ok_codes=(1,))
    assert not taken.exists()


def test_the_tftp_server_has_no_rights_but_to_its_port(served: Link) -> None:
    [pid] = served.tftp_servers()
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    assert facts["Uid"].split() == ["65534"] * 4
    assert facts["Groups"].split() in ([], ["65534"])
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 1 << 10  # CAP_NET_BIND_SERVICE
    assert facts["NoNewPrivs"] == "1"


def test_script_and_kernel_come_by_http(
    served: Link, desk: FakeDesk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with sends_dhcp(served) as client:
        offered = ask_dhcp(client, discover())
    url = offered.options[Option.BOOT_FILE].decode()
    boot = desk.boots[TOKEN, "network-0"]
    assert served.ask(*WGET, "-q", url) == ipxe_script(boot, url.removesuffix("/ipxe"))
    kernel = tmp_path / "fetched"
    served.ask("busybox", "wget", "-q", "-O", kernel, url.replace("/ipxe", "/kernel"))
    assert digest(kernel) == digest(tmp_path / KERNEL_BOOT.image_id / "kernel")
    served.ask(*WGET, "-q", "--post-data", "uptime=4", url.replace("/ipxe", "/report/root"))
    assert desk.told == [("script", "kernel"), ("kernel", f"bytes={3 << 20}"), ("root", "uptime=4")]
    assert TOKEN not in caplog.text


def test_a_router_solicitation_is_answered(served: Link) -> None:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        made.settimeout(1)
        return made

    index = inside(served.client, lambda: socket.if_nametoindex(CLIENT))
    with inside(served.client, make) as asker:

        def hears_an_advertisement() -> bool:
            with contextlib.suppress(OSError):  # as long as our own link-local address is tentative
                asker.sendto(bytes([133]) + bytes(7), ("ff02::2", 0, 0, index))
                while True:
                    data, sender = asker.recvfrom(1500)
                    if data[0] == 134:
                        return data[4:] == ra.advertisement()[4:] and sender[0].startswith("fe80::")
            return False

        eventually(hears_an_advertisement)


def test_no_request_of_a_mass_power_on_is_lost(served: Link, desk: FakeDesk) -> None:
    for number in range(1, MANY + 1):
        desk.offers[discover(number).mac] = Offer(f"10.96.{number >> 8}.{number & 255}", TOKEN)
    with sends_dhcp(served) as client:
        for number in range(1, MANY + 1):
            client.sendto(dhcp.build(discover(number)), ("255.255.255.255", dhcp.SERVER_PORT))
        offered: dict[str, str] = {}
        while len(offered) < MANY:
            reply = dhcp.parse(client.recv(1500))
            offered[reply.mac] = str(reply.yours)
    assert offered == {mac: offer.address for mac, offer in desk.offers.items() if mac != CLIENT_MAC}


# ---- what goes wrong -----------------------------------------------------------------------------------


def test_packets_that_make_no_sense_or_trouble_stop_nothing(served: Link, desk: FakeDesk) -> None:
    with sends_dhcp(served) as client:
        desk.trouble = RuntimeError("the database is away")
        for junk in (b"", b"x", bytes(240), bytes(1500), dhcp.build(discover())):
            for _ in range(50):
                client.sendto(junk, ("255.255.255.255", dhcp.SERVER_PORT))
        eventually(lambda: "in trouble" in served.ask(*WGET, f"http://10.96.0.1:{HTTP_PORT}/boot/x/ipxe"))
        desk.trouble = None
        assert str(ask_dhcp(client, discover()).yours) == ADDRESS


def test_networks_are_served_again_when_the_database_was_away(
    cable: Link, desk: FakeDesk, tmp_path: Path
) -> None:
    desk.trouble = OSError("the database is away")
    with serving(desk, tmp_path):
        cable.take_address("10.96.0.99/24")
        assert not answers(cable)
        desk.trouble = None
        eventually(lambda: answers(cable))


def test_a_killed_tftp_server_is_back(served: Link, tmp_path: Path) -> None:
    [old] = served.tftp_servers()
    os.kill(old, signal.SIGKILL)
    eventually(lambda: fetches_by_tftp(served, tmp_path))
    assert served.tftp_servers() != [old]


def test_a_tftp_server_that_cannot_start_says_why_once(
    served: Link, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind((served.address, 69))
        return made

    [old] = served.tftp_servers()
    os.kill(old, signal.SIGSTOP)  # so that the port is ours before a new one can have it
    os.kill(old, signal.SIGKILL)
    eventually(lambda: not name_of(old))
    with contextlib.ExitStack() as stack:
        eventually(lambda: taken(stack, served, make))
        eventually(lambda: "TFTP failed (2)" in caplog.text)
        assert "in use" in caplog.text
        assert answers(served)
    eventually(lambda: fetches_by_tftp(served, tmp_path))
    assert caplog.text.count("TFTP failed (2)") == 1


def taken(stack: contextlib.ExitStack, served: Link, make: object) -> bool:
    for pid in served.tftp_servers():
        os.kill(pid, signal.SIGKILL)
    try:
        stack.enter_context(inside(served.server, make))  # type: ignore[arg-type]  # makes a socket
    except OSError:
        return False
    return True


def test_a_network_that_ends_is_left_alone(served: Link, desk: FakeDesk) -> None:
    desk.networks.clear()
    eventually(lambda: not netns.processes(served.server))
    eventually(lambda: not listening(served))
    with sends_dhcp(served) as client:
        client.settimeout(1)
        with pytest.raises(TimeoutError):
            ask_dhcp(client, discover())


def listening(cable: Link) -> list[str]:
    """The listening TCP and open UDP and raw sockets at the server's end."""
    return process.run(["ss", "-Hltuwn"], netns=cable.server).stdout.splitlines()


def test_a_namespace_that_was_made_anew_is_served_anew(served: Link, tmp_path: Path) -> None:
    served.remove()
    eventually(lambda: not netns.exists(served.server))
    served.lay()
    served.take_address("10.96.0.99/24")
    eventually(lambda: answers(served))
    eventually(lambda: fetches_by_tftp(served, tmp_path))


def test_an_interface_that_was_made_anew_is_served_anew(served: Link) -> None:
    netns.ip(served.server, "link", "delete", FOOT)
    served.lay()
    served.take_address("10.96.0.99/24")

    def offered() -> bool:
        with sends_dhcp(served) as client:
            client.settimeout(0.5)
            try:
                return str(ask_dhcp(client, discover()).yours) == ADDRESS
            except TimeoutError:
                return False

    eventually(offered)


def test_a_token_of_one_network_is_refused_on_another(served: Link, desk: FakeDesk) -> None:
    with link(1) as other:
        desk.networks.append(other.foot)
        other.take_address("10.96.1.99/24")
        eventually(lambda: answers(other))
        path = f":{HTTP_PORT}/boot/{TOKEN}/ipxe"
        assert "sanhook" in served.ask(*WGET, "-q", f"http://{served.address}{path}")
        said = other.ask(*WGET, f"http://{other.address}{path}", ok_codes=(1,))
        assert "404" in said


def test_a_killed_server_leaves_no_tftp_server(cable: Link, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.netboot.desk import FakeDesk;"
        "from tests.netboot.link import Link; from bmi.netboot.server import Netboot;"
        f"Netboot(FakeDesk([Link({cable.server!r}, {cable.client!r}, 0).foot]),"
        f"http_port={HTTP_PORT}, boot_dir=Path({str(tmp_path)!r})).start();"
        "import threading; threading.Event().wait()"
    )
    server = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL)
    try:
        eventually(cable.tftp_servers)
        # Not before it is dnsmasq in earnest; from then on nothing is left to set up.
        cable.take_address("10.96.0.99/24")
        eventually(lambda: fetches_by_tftp(cable, tmp_path))
    finally:
        server.kill()
        server.wait()
    eventually(lambda: not netns.processes(cable.server))


# ---- slow and many clients ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [b"", b"GET /nothing HTT", b"POST /boot/x/report/up HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nup"],
)
def test_a_slow_client_is_cut_off(
    served: Link, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, said: bytes
) -> None:
    monkeypatch.setattr(http_listener, "_REQUEST_S", 0.3)
    with connect(served) as client:
        client.sendall(said)
        assert ended(client)
    with connect(served) as client:  # the second request of a connection, too
        client.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        client.sendall(said or b"G")
        assert ended(client)
    assert caplog.text == ""


def test_a_connection_beyond_the_limit_is_refused(served: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_listener, "MAX_CONNECTIONS", 3)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(served))
        with connect(served) as client:
            assert ended(client)
    eventually(lambda: answers(served))


def test_who_has_most_connections_loses_one_to_who_has_none(
    served: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_listener, "MAX_CONNECTIONS", 3)
    other = "10.96.0.98"
    netns.ip(served.client, "address", "add", f"{other}/24", "dev", CLIENT)
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(served))
        with connect(served, source=other) as client:
            client.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")


def test_an_endless_header_is_refused(served: Link) -> None:
    with connect(served) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(b"GET /nothing HTTP/1.1\r\nX: " + b"x" * 100_000)
        assert b" 200 " not in everything(client)


def connect(cable: Link, *, source: str = "") -> socket.socket:
    place = (cable.address, HTTP_PORT)
    return inside(cable.client, lambda: socket.create_connection(place, 10, source_address=(source, 0)))


def ended(client: socket.socket) -> bool:
    everything(client)
    return True


def everything(client: socket.socket) -> bytes:
    """What arrives until the other side ends the connection; raises TimeoutError when it does not."""
    read = b""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(65536):
            read += data
    return read
