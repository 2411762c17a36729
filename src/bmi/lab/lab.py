"""A lab: virtual bare metal behind a real switch, brought up, looked at, and taken down without a trace."""

import importlib.util
import json
import os
import secrets
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bmi import process
from bmi.drivers import netns
from bmi.errors import AlreadyExistsError, ConfigError, ConflictError, NotFoundError
from bmi.lab import processes, switch
from bmi.lab import spec as specs
from bmi.lab.spec import BMC_USERNAME, BRIDGE, LabSpec, NodeSpec

_START_TIMEOUT_S = 30
_PROGRAMS = ("nsenter ", "ovs-", "ovsdb-", "qemu-system-", f"{sys.executable} -m bmi.lab.bmc ")


@dataclass(frozen=True)
class LabNode:
    """A node as one would note it down on delivery: what `bmi node register` wants to know."""

    name: str
    mac: str
    switch_port: str
    bmc_url: str
    console_path: Path


@dataclass(frozen=True)
class LabStatus:
    """What of a lab runs."""

    name: str
    switch_answers: bool
    bmc_answers: bool
    power: dict[str, Literal["on", "off"]]


class Lab:
    """One lab, in one directory, which it owns."""

    def __init__(self, spec: LabSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.netns = spec.netns
        self.bridge = BRIDGE
        self.switch_db = spec.switch_db
        self.bmc_username = BMC_USERNAME
        self.bmc_password_file = spec.bmc_directory / "password"
        self._feet: list[str] = []

    @classmethod
    def up(
        cls, directory: Path, *, nodes: int, name: str, memory_mib: int = 1024, disk_gib: int = 0
    ) -> "Lab":
        """Brings a lab of `nodes` powered-off nodes up, their ports closed; with `disk_gib` each has an
        empty local disk. On a directory with a lab it starts what has stopped and leaves alone what runs.
        Needs root.
        """
        directory = directory.resolve()
        _check_machine()
        known = _unfinished(directory)
        port = known.bmc_port if known else _free_port()
        spec = LabSpec(directory, name, nodes, memory_mib, disk_gib, port)
        if known is None and netns.exists(spec.netns):
            raise AlreadyExistsError(
                f"A lab {name!r} is up on this machine, in {_owner(spec.netns) or 'an unknown directory'}.",
                remedy="Take it down or choose another name.",
            )
        if known not in {None, spec}:
            raise ConflictError(
                f"{directory} holds a lab of another shape.",
                remedy="Take it down or choose another directory.",
            )
        spec.save(wanted="up")
        lab = cls(spec)
        lab._start()
        return lab

    @classmethod
    def open(cls, directory: Path) -> "Lab":
        """The lab of that directory, as it is. Raises NotFoundError."""
        return cls(specs.load(directory.resolve())[0])

    @property
    def nodes(self) -> list[LabNode]:
        root = f"redfish+http://127.0.0.1:{self.spec.bmc_port}/redfish/v1/Systems"
        return [
            LabNode(node.name, node.mac, node.switch_port, f"{root}/{node.name}", node.console_path)
            for node in self.spec.nodes
        ]

    def status(self) -> LabStatus:
        """Looks at what runs."""
        return LabStatus(
            name=self.name,
            switch_answers=switch.answers(self.spec),
            bmc_answers=_listens(self.spec.bmc_port),
            power={node.name: "on" if _has_power(node) else "off" for node in self.spec.nodes},
        )

    def down(self) -> None:
        """Ends and removes everything, whatever state it is in; a lab that is down already is a success.

        The namespaces of feet in the lab's networks go too: their wires end here.
        """
        spec = self.spec
        if not (spec.directory / "lab.json").exists():
            return
        spec.save(wanted="down")
        if bmc := self._bmc_process():
            processes.end(bmc, str(spec.directory))
        self._feet = switch.feet(spec)
        if _owner(self.netns) in {"", str(spec.directory)}:
            while inside := netns.processes(self.netns):
                for pid in inside:
                    processes.end(pid)
            netns.remove(self.netns)
        for straggler in self._stragglers():
            processes.end(straggler, str(spec.directory))
        for foot in self._feet:
            netns.remove(foot)
        for part in (spec.switch_directory, spec.bmc_directory, spec.directory / "nodes"):
            shutil.rmtree(part, ignore_errors=True)
        specs.forget(spec)
        if not any(spec.directory.iterdir()):
            spec.directory.rmdir()

    def leftovers(self) -> list[str]:
        """What of the lab is still there: processes, namespaces, mounts and loop devices."""
        left = {f"process {pid}: {processes.command_line(pid)}" for pid in self._processes()}
        left |= {f"network namespace {name}" for name in (self.netns, *self._feet) if netns.exists(name)}
        below = f"{self.spec.directory}/"
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        left |= {f"mount {line.split()[1]}" for line in mounts if f"{line.split()[1]}/".startswith(below)}
        loops = json.loads(process.run(["losetup", "--list", "--json"]).stdout or '{"loopdevices": []}')
        left |= {
            f"loop device {loop['name']}"
            for loop in loops["loopdevices"]
            if str(loop["back-file"]).startswith(below)
        }
        return sorted(left)

    def _start(self) -> None:
        spec = self.spec
        netns.ensure(self.netns)
        netns.ip(self.netns, "link", "set", "lo", "alias", str(spec.directory))
        # Without this the namespace itself would answer nodes, past the switch, on their ports' own addresses.
        process.run(["sysctl", "-eqw", "net.ipv6.conf.default.disable_ipv6=1"], netns=self.netns)
        switch.up(spec)
        for node in spec.nodes:
            node.directory.mkdir(parents=True, exist_ok=True)
            if node.disk_gib and not node.disk_path.exists():
                with node.disk_path.open("xb") as disk:
                    disk.truncate(node.disk_gib << 30)
        spec.bmc_directory.mkdir(exist_ok=True)
        _write_password(self.bmc_password_file)
        process.run([sys.executable, "-m", "bmi.lab.bmc", spec.directory], timeout_s=_START_TIMEOUT_S)

    def _bmc_process(self) -> int | None:
        return processes.running(self.spec.bmc_directory / "pid", str(self.spec.directory))

    def _stragglers(self) -> list[int]:
        """Programs of this lab that an `up` killed in the middle may still be starting."""
        at = self.spec.directory
        return [pid for pid in processes.mentioning(at) if processes.command_line(pid).startswith(_PROGRAMS)]

    def _processes(self) -> set[int]:
        return set(netns.processes(self.netns)) | set(processes.mentioning(self.spec.directory))


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise ConfigError("A lab makes network namespaces.", remedy="Run as root.")
    if importlib.util.find_spec("sushy_tools") is None:
        raise ConfigError(
            "The Redfish emulator is not installed.", remedy="Install it: pip install 'bmi[lab]'."
        )


def _unfinished(directory: Path) -> LabSpec | None:
    """The lab that is up in the directory, wholly or in part; one that was being taken down is gone after."""
    try:
        known, wanted = specs.load(directory)
    except NotFoundError:
        return None
    if wanted == "up":
        return known
    Lab(known).down()
    return None


def _write_password(path: Path) -> None:
    """A random password, once, readable by the owner only."""
    if not path.exists():
        fresh = path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(24), encoding="ascii")
        fresh.replace(path)


def _owner(namespace: str) -> str:
    """The directory of the lab that made the namespace; empty when it did not get so far as to say so."""
    return str(netns.links(namespace).get("lo", {}).get("ifalias", ""))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _has_power(node: NodeSpec) -> bool:
    return processes.running(node.directory / "qemu.pid", str(node.directory)) is not None
