"""What a lab consists of, all derived from a few facts that are written down before anything is made."""

import hashlib
import json
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bmi.errors import InvalidInputError, NotFoundError

BRIDGE = "br0"
BMC_USERNAME = "admin"

# sockaddr_un: 108 bytes with the closing zero (unix(7)).
_SOCKET_PATH_BYTES = 107


@dataclass(frozen=True)
class NodeSpec:
    """One node's hardware; two processors, because no server has one and an OS starts services side by side."""

    name: str
    mac: str
    uuid: str
    switch_port: str
    memory_mib: int
    disk_gib: int
    directory: Path
    cpus: int = 2

    @property
    def console_path(self) -> Path:
        """Everything that the firmware and the OS wrote to the serial console."""
        return self.directory / "console.log"

    @property
    def disk_path(self) -> Path:
        return self.directory / "disk.raw"


@dataclass(frozen=True)
class LabSpec:
    """A lab; `name` is unique on the machine, `bmc_port` is the loopback port that all its BMCs answer on."""

    directory: Path
    name: str
    node_count: int
    memory_mib: int
    disk_gib: int
    bmc_port: int

    def __post_init__(self) -> None:
        if not (self.name.isascii() and self.name.replace("-", "").isalnum() and len(self.name) <= 32):
            raise InvalidInputError("name", "A lab's name is up to 32 letters, digits and hyphens.")
        if not 1 <= self.node_count <= 250:
            raise InvalidInputError("nodes", "A lab has 1 to 250 nodes.")
        longest = max(len(str(node.directory / "control.sock").encode()) for node in self.nodes)
        if longest > _SOCKET_PATH_BYTES:
            raise InvalidInputError("dir", f"{self.directory} is too long a path for the sockets below it.")

    @property
    def netns(self) -> str:
        """The network namespace of the switch and the nodes."""
        return f"bmilab-{self.name}"

    @property
    def nodes(self) -> list[NodeSpec]:
        return [self._node(index) for index in range(1, self.node_count + 1)]

    @property
    def switch_db(self) -> str:
        return f"unix:{self.switch_directory}/db.sock"

    @property
    def switch_directory(self) -> Path:
        return self.directory / "switch"

    @property
    def bmc_directory(self) -> Path:
        return self.directory / "bmc"

    def _node(self, index: int) -> NodeSpec:
        seed = hashlib.sha256(f"{self.name}/{index}".encode()).digest()
        # 02: locally administered, unicast (IEEE 802); the index keeps nodes of one lab apart for certain.
        mac = bytes([0x02, *seed[:4], index])
        return NodeSpec(
            name=f"n{index}",
            mac=mac.hex(":"),
            uuid=str(uuid.UUID(bytes=seed[:16], version=4)),
            switch_port=f"port{index}",
            memory_mib=self.memory_mib,
            disk_gib=self.disk_gib,
            directory=self.directory / "nodes" / f"n{index}",
        )

    def save(self, *, wanted: str) -> None:
        """Writes the lab down as `wanted` ("up" or "down"), whole or not at all."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = _file(self.directory).with_suffix(".new")
        facts = asdict(self) | {"directory": str(self.directory), "wanted": wanted}
        fresh.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        fresh.replace(_file(self.directory))


def load(directory: Path) -> tuple[LabSpec, str]:
    """The lab of that directory and what is wanted of it. Raises NotFoundError when there is none."""
    try:
        facts: dict[str, Any] = json.loads(_file(directory).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError("lab", str(directory), remedy="Start one: bmi lab up.") from None
    wanted = str(facts.pop("wanted"))
    return LabSpec(**facts | {"directory": directory}), wanted


def forget(spec: LabSpec) -> None:
    """Removes what `save` wrote."""
    _file(spec.directory).unlink(missing_ok=True)


def _file(directory: Path) -> Path:
    return directory / "lab.json"
