"""A machine on a port of the switch, played by a network namespace: it boots as a node does, and attacks."""

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from ipaddress import ip_interface

from bmi import process
from bmi.drivers import netns
from bmi.netboot import dhcp
from bmi.netboot.dhcp import Message, Option, Packet
from bmi.netboot.namespace import inside
from tests.attack import frames
from tests.netboot.test_dhcp import request

NIC = "nic0"
HTTP_PORT, PORTAL_PORT = 8080, 3260
ANY = "0.0.0.0"
_PATIENCE_S = 10


@dataclass
class Machine:
    """One port's machine; `boots` is what it has been told of its boots, the last one last."""

    name: str
    netns: str
    mac: str
    nic: str = NIC
    address: str = ""
    boots: list["Told"] = field(default_factory=list)

    @property
    def told(self) -> "Told":
        return self.boots[-1]

    # ---- raw --------------------------------------------------------------------------------------------

    @contextmanager
    def wire(self) -> Iterator[socket.socket]:
        with inside(self.netns, lambda: frames.packet_socket(self.nic)) as opened:
            yield opened

    def send(self, *sent: bytes) -> None:
        with self.wire() as opened:
            for frame in sent:
                opened.send(frame)

    def take_address(self, address: str) -> None:
        netns.set_address(self.netns, self.nic, address)
        self.address = address.partition("/")[0]

    # ---- booting as a node does ---------------------------------------------------------------------------

    def discover(self, mac: str = "", **other: object) -> Packet | None:
        """The answer to iPXE's DISCOVER for this MAC, or for another's."""
        asked = request(Message.DISCOVER, firmware="ipxe", mac=mac or self.mac, flags=0x8000, **other)
        frame = frames.ethernet(
            frames.BROADCAST,
            mac or self.mac,
            frames.IPV4,
            frames.udp((ANY, 68), ("255.255.255.255", 67), dhcp.build(asked)),
        )
        with self.wire() as opened:
            opened.send(frame)
            heard = hear(opened, frames.is_dhcp_reply, 2)
        return dhcp.parse(heard[42:]) if heard else None

    def boot(self, *, up: bool = True) -> "Told":
        """DHCP, the script and, with `up`, the report that the system runs."""
        deadline = time.monotonic() + _PATIENCE_S
        while not (offer := self.discover()) or b"/boot/" not in offer.options[Option.BOOT_FILE]:
            assert time.monotonic() < deadline, f"{self.name} is not told to boot: {offer}"
            time.sleep(0.05)
        mask = socket.inet_ntoa(offer.options[Option.SUBNET_MASK])
        self.take_address(str(ip_interface(f"{offer.yours}/{mask}")))
        url = offer.options[Option.BOOT_FILE].decode()
        while "reverse-password" not in (script := self.get(url)[1]):
            assert time.monotonic() < deadline, f"{self.name} has no volume: {script}"
            time.sleep(0.05)
        self.boots.append(Told(url, dict(re.findall(r"^set (\S+) (\S+)$", script, re.MULTILINE)), script))
        if up:
            assert self.get(f"{self.told.base}/report/up", "POST")[0] == 200
        return self.told

    # ---- TCP ----------------------------------------------------------------------------------------------

    def connect(self, address: str, port: int, *, source: str = "", timeout_s: float = 2) -> socket.socket:
        return inside(
            self.netns,
            lambda: socket.create_connection((address, port), timeout_s, source_address=(source, 0)),
        )

    def reaches(self, address: str, port: int, *, source: str = "") -> bool:
        with contextlib.suppress(OSError), self.connect(address, port, source=source, timeout_s=1):
            return True
        return False

    def get(
        self, url: str, method: str = "GET", *, source: str = "", headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Status and body, the path sent as it is written; status 0 when there is no connection."""
        host, _, path = url.removeprefix("http://").partition("/")
        address, _, port = host.partition(":")
        asker = HTTPConnection(address, int(port))
        try:
            asker.sock = self.connect(address, int(port), source=source)
            asker.request(
                method, f"/{path}", headers=dict(headers or {}), body=b"" if method == "POST" else None
            )
            answer: HTTPResponse = asker.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        except OSError:
            return 0, ""
        finally:
            asker.close()

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> str:
        done = process.run(command, netns=self.netns, env=env, ok_codes=range(256), timeout_s=30)
        return done.stdout + done.stderr

    def pings(self, address: str) -> bool:
        return "1 received" in self.run("ping", "-c", "1", "-W", "1", address)


@dataclass(frozen=True)
class Told:
    """What a boot script said: its URL, and what it set."""

    url: str
    settings: dict[str, str]
    script: str

    @property
    def base(self) -> str:
        return self.url.removesuffix("/ipxe")

    @property
    def token(self) -> str:
        return self.base.rpartition("/")[2]

    @property
    def iqn(self) -> str:
        found = re.search(r" iscsi:\S+:1:(\S+)", self.script)
        assert found, self.script
        return found[1]


def hear(opened: socket.socket, wanted: Callable[[bytes], bool], patience_s: float = 0.3) -> bytes | None:
    """The first frame from outside of this kind, or None."""
    deadline = time.monotonic() + patience_s
    while (left_s := deadline - time.monotonic()) > 0:
        opened.settimeout(left_s)
        try:
            frame, sender = opened.recvfrom(65535)
        except TimeoutError:
            return None
        if sender[2] != socket.PACKET_OUTGOING and wanted(frame):
            return frame
    return None
