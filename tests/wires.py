"""A real switch and real cables for tests: Open vSwitch in a namespace, veth pairs to others."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bmi import process
from bmi.drivers import netns
from bmi.drivers.ovsdb import OvsDatabase
from bmi.lab import switch
from bmi.lab.lab import Lab
from bmi.lab.spec import BRIDGE, LabSpec

CABLE = "e0"


@contextmanager
def short_directory() -> Iterator[Path]:
    """A temporary directory whose path leaves room for socket names."""
    directory = Path(tempfile.mkdtemp(prefix="h4-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def unique(name: str) -> str:
    """A name for this test process alone; short enough for network interfaces."""
    return f"h4-{name}-{os.getpid()}"


@dataclass
class SwitchYard:
    """A switch with one node-side tap (`port1`) and whatever is plugged into it."""

    spec: LabSpec
    db: str
    bridge: str = BRIDGE
    plugged: list[str] = field(default_factory=list)

    @property
    def netns(self) -> str:
        return self.spec.netns

    @property
    def database(self) -> OvsDatabase:
        return OvsDatabase(self.db, 5)

    def plug(self, port: str, *columns: str) -> str:
        """A namespace with a cable (`e0`, no address) to a new port with those columns; returns its name."""
        name = unique(port)
        self.plugged.append(name)
        netns.ensure(name)
        netns.ip(
            None,
            "link",
            "add",
            port,
            "netns",
            self.netns,
            "type",
            "veth",
            "peer",
            "name",
            CABLE,
            "netns",
            name,
        )
        netns.ip(self.netns, "link", "set", port, "up")
        netns.ip(name, "link", "set", CABLE, "up")
        process.run(["ethtool", "-K", CABLE, "tx", "off"], netns=name)
        self.database.run(
            "add-port", self.bridge, port, *(("--", "set", "Port", port, *columns) if columns else ())
        )
        return name


@contextmanager
def switch_yard() -> Iterator[SwitchYard]:
    with short_directory() as directory:
        spec = LabSpec(directory / "lab", unique("yard"), 1, 128, 0, bmc_port=1)
        spec.save(wanted="up")
        yard = SwitchYard(spec, spec.switch_db)
        try:
            netns.ensure(spec.netns)
            switch.up(spec)
            yield yard
        finally:
            for name in yard.plugged:
                netns.remove(name)
            Lab(spec).down()


def give_address(namespace: str, address: str) -> None:
    netns.ip(namespace, "address", "add", address, "dev", CABLE)


def reaches(namespace: str, address: str) -> bool:
    done = process.run(
        ["ping", "-c", "2", "-i", "0.2", "-W", "0.5", address], netns=namespace, ok_codes=(0, 1, 2)
    )
    return done.returncode == 0


def mac_of(namespace: str, interface: str = CABLE) -> str:
    [link] = json.loads(netns.ip(namespace, "-json", "link", "show", "dev", interface))
    return str(link["address"])


@contextmanager
def sniffing(namespace: str, interface: str, *expression: str) -> Iterator[Path]:
    """Writes a line per frame that arrives to the file it yields, with link-level addresses."""
    with short_directory() as directory:
        seen, log = directory / "seen", directory / "log"
        command = ["tcpdump", "-e", "-n", "-l", "-Q", "in", "-i", interface, *expression]
        with seen.open("wb") as out, log.open("wb") as err:
            sniffer = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{namespace}", "--", *command], stdout=out, stderr=err
            )
        try:
            while b"listening on" not in log.read_bytes():
                assert sniffer.poll() is None, log.read_text()
            yield seen
        finally:
            sniffer.kill()
            sniffer.wait()


def send_frame(namespace: str, payload: bytes) -> None:
    """Broadcasts a frame whose bytes after the two addresses are `payload`."""
    frame = bytes.fromhex("ffffffffffff") + bytes.fromhex(mac_of(namespace).replace(":", "")) + payload
    code = (
        "import socket, sys; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW);"
        f"s.bind(({CABLE!r}, 0)); s.send(bytes.fromhex(sys.argv[1]))"
    )
    process.run(["python3", "-c", code, frame.ljust(60, b"\0").hex()], netns=namespace)
