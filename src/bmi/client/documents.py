"""What the API answers: its models, as plain dictionaries."""

from typing import Any, Final, TypedDict

from bmi.errors import from_problem

Json = dict[str, Any]

_ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})


class Whoami(TypedDict):
    name: str
    role: str
    project: str | None
    user: str | None
    expires_at: str | None


class User(TypedDict):
    name: str
    admin: bool
    disabled: bool
    password: bool
    issuer: str | None
    subject: str | None
    projects: dict[str, str]
    created_at: str


class Member(TypedDict):
    user: str
    role: str


class AuditEntry(TypedDict):
    id: int
    at: str
    actor: str
    user_id: str | None
    token_id: str | None
    address: str
    action: str
    object: str
    project: str | None
    status: int
    problem: str | None
    detail: str | None


class Network(TypedDict):
    vlan: int
    address: str
    state: str


class NetworkMember(TypedDict):
    node: str
    nic: str
    tagged: bool


class TenantNetwork(TypedDict):
    id: str
    name: str
    project: str | None
    vlan: int
    boot: bool
    public: bool
    shared_with: list[str]
    members: list[NetworkMember]
    created_at: str


class Project(TypedDict):
    name: str
    network: Network | None
    claims_as: str | None
    created_at: str


class Token(TypedDict):
    id: str
    name: str
    role: str
    project: str | None
    user: str | None
    session: bool
    created_at: str
    expires_at: str | None


class NewToken(Token):
    secret: str


class Switch(TypedDict):
    name: str
    driver: str
    options: Json
    created_at: str


class Port(TypedDict):
    name: str
    node: str | None
    nic: str | None
    native: int | None
    tagged: list[int]
    settled: bool
    problem: Json | None
    applied_at: str | None


class Step(TypedDict):
    name: str
    after: list[str]
    state: str
    attempts: int
    problem: Json | None
    result: Json | None
    started_at: str | None
    finished_at: str | None


class Operation(TypedDict):
    id: str
    kind: str
    state: str
    subject_kind: str
    subject_name: str
    actor: str
    args: Json
    problem: Json | None
    cancel_requested: bool
    created_at: str
    started_at: str | None
    finished_at: str | None
    steps: list[Step]


class LiveOperation(TypedDict):
    id: str
    kind: str
    state: str


class NodeVolume(TypedDict):
    id: str
    name: str
    state: str
    size_bytes: int


class Bmc(TypedDict):
    driver: str
    address: str
    username: str
    verify_tls: bool


class NicNetwork(TypedDict):
    name: str
    project: str | None
    tagged: bool


class Nic(TypedDict):
    name: str
    mac: str
    networks: list[NicNetwork]
    switch: str | None
    port: str | None


class Node(TypedDict):
    name: str
    state: str
    project: str | None
    labels: list[str]
    mac: str | None
    nics: list[Nic]
    address: str | None
    image: str | None
    snapshot: str | None
    volume: NodeVolume | None
    operation: LiveOperation | None
    problem: Json | None
    switch: str | None
    port: str | None
    bmc: Bmc | None
    created_at: str


class Pool(TypedDict):
    labels: list[str]
    free: int


class Allocation(TypedDict):
    nodes: list[str]
    operations: list[Operation]


class Event(TypedDict):
    id: int
    at: str
    stage: str
    detail: str
    operation: str | None


class Image(TypedDict):
    id: str
    name: str
    version: int
    project: str | None
    public: bool
    shared_with: list[str]
    protected: bool
    state: str
    description: str
    labels: dict[str, str]
    os_name: str | None
    kernel: str | None
    format: str | None
    size_bytes: int | None
    unique_bytes: int | None
    measured_at: str | None
    sha256: str | None
    origin: Json | None
    created_by: str | None
    boot: Json | None
    created_at: str


class Upload(TypedDict):
    id: str
    file_name: str
    size_bytes: int
    offset: int
    sha256: str | None
    expires_at: str


class Volume(TypedDict):
    id: str
    name: str
    project: str
    node: str | None
    image: str
    snapshot: str | None
    state: str
    size_bytes: int
    unique_bytes: int | None
    measured_at: str | None
    created_at: str


class Snapshot(TypedDict):
    id: str
    name: str
    project: str
    node: str | None
    volume: str | None
    image: str
    state: str
    size_bytes: int
    unique_bytes: int | None
    measured_at: str | None
    created_at: str


class Usage(TypedDict):
    project: str
    held: dict[str, int]
    quota: dict[str, int]
    measured_at: str | None


class Kin(TypedDict):
    id: str
    kind: str
    name: str
    parent: str | None
    state: str
    project: str | None
    node: str | None
    size_bytes: int | None
    unique_bytes: int | None


def has_ended(operation: Operation) -> bool:
    """Whether the operation has succeeded, failed or been cancelled."""
    return operation["state"] in _ENDED


def succeeded(operation: Operation) -> Operation:
    """The same operation if it succeeded; else raises the error that it ended with."""
    if operation["state"] != "succeeded":
        raise from_problem(operation["problem"] or {"detail": f"The operation has {operation['state']}."})
    return operation
