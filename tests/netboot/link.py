"""A network in miniature: a namespace with the server's foot in it, a cable, a namespace with a client."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bmi import process
from bmi.domain.boot import Foot
from bmi.drivers import netns
from bmi.netboot.desk import Desk
from bmi.netboot.server import Netboot

FOOT, CLIENT = "boot0", "nic0"
CLIENT_MAC = "52:54:00:00:08:01"
HTTP_PORT = 8080
_PATIENCE_S = 20


@dataclass(frozen=True)
class Link:
    """The two ends of a cable."""

    server: str
    client: str
    number: int

    @property
    def foot(self) -> Foot:
        return Foot(f"network-{self.number}", self.server, FOOT, f"10.96.{self.number}.1/24")

    @property
    def address(self) -> str:
        return f"10.96.{self.number}.1"

    def lay(self) -> None:
        """Makes the namespaces that are missing, and a new cable."""
        netns.ensure(self.server)
        netns.ensure(self.client)
        ends = ("type", "veth", "peer", "name", CLIENT, "address", CLIENT_MAC, "netns", self.client)
        netns.ip(None, "link", "add", FOOT, "netns", self.server, *ends)
        for end, interface in ((self.server, FOOT), (self.client, CLIENT)):
            netns.ip(end, "link", "set", interface, "up")
        netns.ip(self.server, "address", "add", self.foot.address, "dev", FOOT)

    def ask(self, *command: str | Path, timeout_s: float = 30, ok_codes: tuple[int, ...] = (0,)) -> str:
        """Runs a program at the client's end and returns what it printed."""
        done = process.run(command, netns=self.client, timeout_s=timeout_s, ok_codes=ok_codes)
        return done.stdout + done.stderr

    def take_address(self, address: str) -> None:
        """Gives the client an address by hand."""
        netns.ip(self.client, "address", "replace", address, "dev", CLIENT)

    def tftp_servers(self) -> list[int]:
        """The ids of the dnsmasq processes at the server's end."""
        return [pid for pid in netns.processes(self.server) if name_of(pid) == "dnsmasq"]

    def remove(self) -> None:
        for pid in self.tftp_servers():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        netns.remove(self.server)
        netns.remove(self.client)


@contextmanager
def link(number: int = 0) -> Iterator[Link]:
    """A link of this test process alone."""
    made = Link(f"nb-s{number}-{os.getpid()}", f"nb-c{number}-{os.getpid()}", number)
    try:
        made.lay()
        yield made
    finally:
        made.remove()


@contextmanager
def serving(desk: Desk, boot_dir: Path) -> Iterator[Netboot]:
    """The boot service, while the block runs."""
    netboot = Netboot(desk, http_port=HTTP_PORT, boot_dir=boot_dir)
    netboot.start()
    try:
        yield netboot
    finally:
        netboot.stop()
    assert not [t for t in threading.enumerate() if t.name == "netboot"]


def name_of(pid: int) -> str:
    """The name of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def eventually(true: Callable[[], object], patience_s: float = _PATIENCE_S) -> None:
    """Returns when something has become true; fails when it never does."""
    until = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < until, "it never came true"
        time.sleep(0.05)
