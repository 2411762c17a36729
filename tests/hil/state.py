"""What HIL keeps, and what is true of it that its own tables do not say."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from tests.hil.obm import Machine, Obm
from tests.hil.web import Answer, as_json

T = TypeVar("T")

_STATUS = {
    "ValidationError": 400,
    "BadArgumentError": 400,
    "AuthorizationError": 401,
    "NotFoundError": 404,
    "BlockedError": 409,
    "DuplicateError": 409,
    "ProjectMismatchError": 409,
    "IllegalStateError": 409,
}
NATIVE = "vlan/native"


class Refusal(Exception):  # noqa: N818  # it is an answer
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.answer = Answer(_STATUS[kind], as_json({"type": kind, "msg": message}))


@dataclass
class User:
    password: str
    admin: bool = False
    projects: set[str] = field(default_factory=set)


@dataclass
class Wire:
    """A switch port as it is: None and nothing is a port that is shut."""

    native: int | None = None
    tagged: set[int] = field(default_factory=set)


@dataclass
class Action:
    kind: str
    nic: "Nic"
    channel: str
    network: str | None
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "PENDING"


@dataclass
class Nic:
    node: str
    label: str
    mac: str
    port: tuple[str, str] | None = None
    networks: dict[str, str] = field(default_factory=dict)
    action: Action | None = None


@dataclass
class Node:
    label: str
    obm_uri: str
    obm_admin_token: str
    obm_token: str | None = None
    project: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    nics: dict[str, Nic] = field(default_factory=dict)


@dataclass
class Network:
    owner: str | None
    access: list[str]
    vlan: str


@dataclass
class Weakness:
    """What goes wrong: the next `errors` actions end in ERROR, the next `skips` are DONE and do nothing, with
    `stuck` none is ever worked on, and those of the node that it `passes_over` neither; with `falls_back` a port
    that loses its native VLAN is on VLAN 1 (as are ports that nobody ever touched), and without `nativeless` a
    tagged network needs a native one.
    """

    errors: int = 0
    skips: int = 0
    stuck: bool = False
    passes_over: str = ""
    falls_back: bool = False
    nativeless: bool = True


class Hil:
    """HIL's tables. `wires` is what its switches really do, which HIL itself does not say."""

    def __init__(self, pool: range) -> None:
        self.users = {"admin": User("secret", admin=True)}
        self.projects: set[str] = set()
        self.nodes: dict[str, Node] = {}
        self.networks: dict[str, Network] = {}
        self.switches: dict[str, set[str]] = {}
        self.wires: dict[tuple[str, str], Wire] = {}
        self.actions: list[Action] = []
        self.weak = Weakness()
        self.most_pending = 0
        self.obm = Obm()
        self._pool = {str(vlan) for vlan in pool}

    def add_node(
        self, name: str, mac: str, *, switch: str = "tor", port: str = "", nic: str = "boot"
    ) -> None:
        """A node with one more NIC, cabled to a switch port, and a machine in the OBM service."""
        self.obm.machines.setdefault(name, Machine())
        node = self.nodes.setdefault(name, Node(name, self.obm.uri(name), self.obm.admin_token))
        node.nics[nic] = Nic(name, nic, mac)
        self.switches.setdefault(switch, set())
        if port:
            self.switches[switch].add(port)
            self.wires[switch, port] = Wire(1 if self.weak.falls_back else None)
            node.nics[nic].port = (switch, port)

    def wire(self, node: str, nic: str = "boot") -> Wire:
        """The switch port that a NIC is cabled to."""
        port = self.nodes[node].nics[nic].port
        assert port is not None
        return self.wires[port]

    def vlan_from_pool(self) -> str | None:
        used = {network.vlan for network in self.networks.values()}
        return next((vlan for vlan in sorted(self._pool) if vlan not in used), None)

    def is_taken(self, vlan: str) -> bool:
        """Only for the VLANs of its pool does HIL know who has them."""
        return vlan in self._pool and any(network.vlan == vlan for network in self.networks.values())


@dataclass(frozen=True)
class Caller:
    """Who calls, and the questions that all calls ask."""

    hil: Hil
    user: User

    def require_admin(self) -> None:
        if not self.user.admin:
            raise Refusal("AuthorizationError", "This operation is administrator-only.")

    def may(self, project: str | None) -> bool:
        return self.user.admin or (project is not None and project in self.user.projects)

    def require(self, project: str | None) -> None:
        if not self.may(project):
            raise Refusal("AuthorizationError", "You do not have access to the required project.")

    def project(self, label: str) -> str:
        if label not in self.hil.projects:
            raise Refusal("NotFoundError", f"Project {label} does not exist.")
        return label

    def node(self, label: str) -> Node:
        return _or_404(self.hil.nodes, "Node", label)

    def network(self, label: str) -> Network:
        return _or_404(self.hil.networks, "Network", label)

    def nic(self, node: Node, label: str) -> Nic:
        if label not in node.nics:
            raise Refusal("NotFoundError", f"Nic {label} on Node {node.label} does not exist.")
        return node.nics[label]


def _or_404(table: Mapping[str, T], kind: str, label: str) -> T:
    if label not in table:
        raise Refusal("NotFoundError", f"{kind} {label} does not exist.")
    return table[label]


Answering = Callable[..., Answer]
