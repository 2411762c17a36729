"""The things BMI knows, as frozen records; times are seconds since the epoch, sizes are bytes."""

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Interface
from typing import Any

Json = dict[str, Any]

# What the NIC is called that a node boots from.
BOOT_NIC = "boot"


class NodeState(StrEnum):
    """Where a node is in its life."""

    REGISTERED = "registered"
    FREE = "free"
    ALLOCATED = "allocated"
    PROVISIONING = "provisioning"
    ACTIVE = "active"
    RELEASING = "releasing"
    ERROR = "error"


class ObjectState(StrEnum):
    """Where an image, volume, snapshot or network is in its life."""

    CREATING = "creating"
    READY = "ready"
    DELETING = "deleting"
    ERROR = "error"


class Role(StrEnum):
    """What a token may do: everything, or within its project everything or look."""

    ADMIN = "admin"
    MEMBER = "member"
    READER = "reader"


@dataclass(frozen=True)
class Project:
    """A tenant. `quota` holds the limits that are set; what is not in it is unlimited. `claims_as` is its name in
    the service that nodes are taken from, where that is another one.
    """

    id: str
    name: str
    created_at: float
    quota: Json = field(default_factory=dict)
    claims_as: str | None = None


@dataclass(frozen=True)
class User:
    """A person, who logs in with a password, or as the `subject` of an OpenID provider (the `issuer`)."""

    id: str
    name: str
    created_at: float
    admin: bool = False
    disabled: bool = False
    password_hash: str | None = field(default=None, repr=False)
    issuer: str | None = None
    subject: str | None = None


@dataclass(frozen=True)
class Membership:
    """What a user may do in a project."""

    user_id: str
    project_id: str
    role: Role


@dataclass(frozen=True)
class Token:
    """What a caller shows. One with a `user_id` allows at most what that user still may; a `session` was made by
    a login.
    """

    id: str
    name: str
    project_id: str | None
    role: Role
    secret_hash: str = field(repr=False)
    created_at: float
    expires_at: float | None
    user_id: str | None = None
    session: bool = False


@dataclass(frozen=True)
class OidcLogin:
    """A login that a provider is being asked about; see bmi.service.oidc."""

    id: str
    state_hash: str
    sealed: str
    challenge: str
    redirect: str
    # Of whoever began it.
    address: str
    expires_at: float
    code_hash: str | None = None
    user_id: str | None = None


@dataclass(frozen=True)
class AuditEntry:
    """Who did what, or was refused what, from where. `problem` is the kind of the refusal, `detail` has the plain
    values of what was asked for.
    """

    id: int
    at: float
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


@dataclass(frozen=True)
class Network:
    """A VLAN of a project or of the site. The project's `boot` network has BMI's own foot in it (`address`, in
    `netns`); of others both are empty. A `public` one is every project's to attach to.
    """

    id: str
    name: str
    project_id: str | None
    vlan: int
    address: str
    netns: str
    state: ObjectState
    created_at: float
    boot: bool = True
    public: bool = False

    @property
    def interface(self) -> IPv4Interface:
        return IPv4Interface(self.address)


@dataclass(frozen=True)
class Switch:
    id: str
    name: str
    driver: str
    options: Json
    created_at: float


@dataclass(frozen=True)
class Node:
    """A physical machine: of nobody, or of a project from its allocation until it is freed. `problem` says why it
    is in `error`; `bmc_password` is sealed.
    """

    id: str
    name: str
    state: NodeState
    project_id: str | None
    bmc_driver: str
    bmc_address: str
    bmc_username: str
    bmc_password: str = field(repr=False)
    bmc_verify_tls: bool
    problem: Json | None
    created_at: float
    labels: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Allocation:
    """What a request for nodes with an Idempotency-Key was, `asked`, and the `nodes` and `operations` that it gave:
    names and ids.
    """

    token_id: str
    idempotency_key: str
    asked: Json
    nodes: list[str]
    operations: list[str]


@dataclass(frozen=True)
class Nic:
    """A network interface of a node and the switch port it is cabled to. `open`: it may be on its networks."""

    id: str
    node_id: str
    name: str
    mac: str
    switch_id: str | None
    port: str | None
    open: bool = False


@dataclass(frozen=True)
class Attachment:
    """A network that a NIC should be on, untagged (native) or tagged. One that is `leaving` should be off it, and
    counts as on it until the switch says that it is off.
    """

    nic_id: str
    network_id: str
    tagged: bool
    leaving: bool = False


@dataclass(frozen=True)
class Port:
    """A switch port that BMI manages: `applied` is what the switch was last seen to have, at `applied_revision`."""

    id: str
    switch_id: str
    name: str
    revision: int = 1
    applied_revision: int = 0
    applied: Json | None = None
    applied_at: float | None = None
    due_at: float = 0
    attempts: int = 0
    problem: Json | None = None


@dataclass(frozen=True)
class Image:
    """One immutable version of a golden image. `boot` holds what `bmi.image.bootable` found (see
    BootArtefacts), `origin` what it was made from: a `kind` (file, url, image, snapshot, volume or rbd), the
    `name` that people know it by and, where it has one, its `id`; it `depends` on that until it is flattened.
    `sha256` is that of the file that it was made of.
    """

    id: str
    name: str
    project_id: str | None
    public: bool
    state: ObjectState
    format: str | None
    size_bytes: int | None
    sha256: str | None
    boot: Json | None
    created_at: float
    version: int = 1
    last_version: int = 1
    protected: bool = False
    os_name: str | None = None
    description: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    origin: Json | None = None
    created_by: str = ""
    unique_bytes: int | None = None
    measured_at: float | None = None


@dataclass(frozen=True)
class Upload:
    """A file that arrives piece by piece, and is given up at `expires_at`. Only its token may go on with it;
    how much has come is the length of the file itself.
    """

    id: str
    token_id: str
    file_name: str
    size_bytes: int
    expected_sha256: str | None
    sha256: str | None
    created_at: float
    expires_at: float


@dataclass(frozen=True)
class Volume:
    """A node's writable clone, or one that was detached from its node and waits for another. `chap_secret` is
    sealed; `exported` is what should be, not what is; `seed` is its identity.
    """

    id: str
    name: str
    project_id: str
    node_id: str | None
    network_id: str
    image_id: str
    snapshot_id: str | None
    state: ObjectState
    size_bytes: int
    exported: bool
    chap_secret: str = field(repr=False)
    seed: Json
    created_at: float
    unique_bytes: int | None = None
    measured_at: float | None = None


@dataclass(frozen=True)
class Snapshot:
    """A frozen volume; it boots with the artefacts of `image_id`."""

    id: str
    name: str
    project_id: str
    volume_id: str
    node_name: str
    image_id: str
    state: ObjectState
    size_bytes: int
    created_at: float
    unique_bytes: int | None = None
    measured_at: float | None = None


@dataclass(frozen=True)
class BootSession:
    """One live boot of a node: from its first DHCP packet until it is up or out of time."""

    id: str
    node_id: str
    created_at: float
    expires_at: float
    ended_at: float | None


@dataclass(frozen=True)
class Event:
    """One moment in a node's timeline."""

    id: int
    node_id: str
    operation_id: str | None
    at: float
    stage: str
    detail: str


@dataclass(frozen=True)
class Actor:
    """Who is asking: what a checked token turns into. BMI itself acts without a token, a service without being
    a user; `session` when they have logged in.
    """

    name: str
    role: Role
    project_id: str | None
    token_id: str | None = None
    user_id: str | None = None
    session: bool = False

    @property
    def is_admin(self) -> bool:
        return self.role is Role.ADMIN


def iscsi_name(prefix: str, kind: str, object_id: str) -> str:
    """An iSCSI qualified name (RFC 3720, section 3.2.6.3.1) that derives from an id."""
    return f"{prefix}:{kind}-{object_id}"
