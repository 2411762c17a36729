"""Every table, and the constraints that are rules of the product."""

from enum import StrEnum

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)

from bmi.domain.nouns import NodeState, ObjectState, Role
from bmi.domain.operations import LIVE, OperationState, StepState

metadata = MetaData(naming_convention={"ck": "ck_%(table_name)s_%(constraint_name)s"})

_ID = String(32)
_NAME = String(100)
# None is NULL, as in every other column, and not the JSON value null.
_JSON = JSON(none_as_null=True)


def _enum(kind: type[StrEnum]) -> Enum:
    """Kept as its value in a plain column, so that a new member needs no change of the schema."""
    return Enum(
        kind, native_enum=False, length=16, values_callable=lambda members: [m.value for m in members]
    )


def _created_at() -> Column[float]:
    return Column("created_at", Double, nullable=False)


projects = Table(
    "projects",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("quota", JSON, nullable=False),
    Column("claims_as", _NAME),
    _created_at(),
    Index("projects_name", "name", unique=True),
)

# People. One without a password logs in through the provider that knows them as (issuer, subject).
users = Table(
    "users",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("password_hash", Text),
    Column("issuer", String(255)),
    Column("subject", String(255)),
    _created_at(),
    Index("users_name", "name", unique=True),
    Index("users_subject", "issuer", "subject", unique=True),
    CheckConstraint("(issuer IS NULL) = (subject IS NULL)", name="subject_of_issuer"),
)

memberships = Table(
    "memberships",
    metadata,
    Column("user_id", _ID, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("project_id", _ID, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    Column("role", _enum(Role), nullable=False),
    CheckConstraint("role <> 'admin'", name="role_in_project"),
)

# A user's token never allows more than the user still has; one of nobody is a service's.
tokens = Table(
    "tokens",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("user_id", _ID, ForeignKey("users.id", ondelete="CASCADE")),
    # Made by a login, not by `bmi token create`.
    Column("session", Boolean, nullable=False),
    Column("project_id", _ID, ForeignKey("projects.id", ondelete="CASCADE")),
    Column("role", _enum(Role), nullable=False),
    Column("secret_hash", String(64), nullable=False),
    _created_at(),
    Column("expires_at", Double),
    Index("tokens_user_name", "user_id", "name", unique=True),
    # A member without a project, or an admin bound to one, would be a hole in every check.
    CheckConstraint("(role = 'admin') = (project_id IS NULL)", name="role_matches_project"),
)
# NULLs are distinct in a unique index, so services' tokens need a rule of their own.
_OF_NOBODY = text("user_id IS NULL")
Index(
    "tokens_name",
    tokens.c.name,
    unique=True,
    sqlite_where=_OF_NOBODY,
    postgresql_where=_OF_NOBODY,
)

# Failed logins since a moment, by hashes of where they came from, of who was said to log in, or of both.
login_failures = Table(
    "login_failures",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("count", Integer, nullable=False),
    Column("since", Double, nullable=False),
)

# Logins that a provider is being asked about. What proves the asker is kept as hashes, what proves us is sealed.
oidc_logins = Table(
    "oidc_logins",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("state_hash", String(64), nullable=False),
    Column("sealed", Text, nullable=False),
    Column("challenge", String(64), nullable=False),
    Column("redirect", Text, nullable=False),
    Column("address", String(64), nullable=False),
    Column("code_hash", String(64)),
    Column("user_id", _ID, ForeignKey("users.id", ondelete="CASCADE")),
    Column("expires_at", Double, nullable=False),
    Index("oidc_logins_state", "state_hash", unique=True),
    Index("oidc_logins_code", "code_hash", unique=True),
)

# Who did what, or was refused. Triggers (see the migration) let nobody change or remove a row.
audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("actor", _NAME, nullable=False),
    # No foreign keys: a row outlives everything that it tells of.
    Column("user_id", _ID),
    Column("token_id", _ID),
    Column("address", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("object", String(200), nullable=False),
    Column("project", _NAME),
    Column("status", Integer, nullable=False),
    Column("problem", String(64)),
    Column("detail", String(300)),
)

networks = Table(
    "networks",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    # NULL: the site's.
    Column("project_id", _ID, ForeignKey("projects.id")),
    Column("vlan", Integer, nullable=False),
    # BMI's foot, which only boot networks have.
    Column("address", String(32), nullable=False),
    Column("netns", String(64), nullable=False),
    Column("state", _enum(ObjectState), nullable=False),
    Column("boot", Boolean, nullable=False),
    Column("public", Boolean, nullable=False),
    _created_at(),
    Index("networks_name", "project_id", "name", unique=True),
    Index("networks_vlan", "vlan", unique=True),
    CheckConstraint("vlan BETWEEN 2 AND 4094", name="vlan_range"),
    # What boots on a network of somebody else's would be served by, and could reach, what is theirs.
    CheckConstraint("NOT (boot AND (public OR project_id IS NULL))", name="boot_is_own"),
)
_BOOT = text("boot")
for _name, _column in (("address", "address"), ("netns", "netns"), ("project", "project_id")):
    # A project's nodes share one boot network.
    Index(f"networks_{_name}", networks.c[_column], unique=True, sqlite_where=_BOOT, postgresql_where=_BOOT)
_OF_THE_SITE = text("project_id IS NULL")
Index(
    "networks_name_site",
    networks.c.name,
    unique=True,
    sqlite_where=_OF_THE_SITE,
    postgresql_where=_OF_THE_SITE,
)

# The projects, beside its own, that may attach to a network which is not public.
network_shares = Table(
    "network_shares",
    metadata,
    Column("network_id", _ID, ForeignKey("networks.id", ondelete="CASCADE"), primary_key=True),
    Column("project_id", _ID, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
)

switches = Table(
    "switches",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("driver", String(64), nullable=False),
    Column("options", JSON, nullable=False),
    # Who has a session with it now, and until when if it does not say so again (see workflow/ports).
    Column("keeper", String(64)),
    Column("kept_until", Double),
    _created_at(),
    Index("switches_name", "name", unique=True),
)

nodes = Table(
    "nodes",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("state", _enum(NodeState), nullable=False),
    Column("project_id", _ID, ForeignKey("projects.id")),
    Column("bmc_driver", String(64), nullable=False),
    Column("bmc_address", Text, nullable=False),
    Column("bmc_username", Text, nullable=False),
    Column("bmc_password", Text, nullable=False),
    Column("bmc_verify_tls", Boolean, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("problem", _JSON),
    _created_at(),
    Index("nodes_name", "name", unique=True),
    Index("nodes_project", "project_id"),
)

# What requests with an Idempotency-Key were given: an operation, which else tells of it, need not be there.
allocations = Table(
    "allocations",
    metadata,
    Column("token_id", _ID, ForeignKey("tokens.id", ondelete="CASCADE"), primary_key=True),
    Column("idempotency_key", String(128), primary_key=True),
    Column("asked", JSON, nullable=False),
    Column("nodes", JSON, nullable=False),
    Column("operations", JSON, nullable=False),
)

nics = Table(
    "nics",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("node_id", _ID, ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False),
    Column("name", _NAME, nullable=False),
    Column("mac", String(17), nullable=False),
    Column("switch_id", _ID, ForeignKey("switches.id")),
    Column("port", _NAME),
    # Whether the node may be on its networks now; while not, its ports are closed.
    Column("open", Boolean, nullable=False),
    Index("nics_mac", "mac", unique=True),
    Index("nics_node_name", "node_id", "name", unique=True),
    # Two nodes behind one port could not be told apart, let alone isolated.
    Index("nics_switch_port", "switch_id", "port", unique=True),
    CheckConstraint("(switch_id IS NULL) = (port IS NULL)", name="port_of_switch"),
)

# The networks that a NIC should be on while it is open: one untagged, any number tagged.
attachments = Table(
    "attachments",
    metadata,
    Column("nic_id", _ID, ForeignKey("nics.id", ondelete="CASCADE"), primary_key=True),
    Column("network_id", _ID, ForeignKey("networks.id"), primary_key=True),
    Column("tagged", Boolean, nullable=False),
    Column("leaving", Boolean, nullable=False),
)
Index(
    "attachments_native",
    attachments.c.nic_id,
    unique=True,
    sqlite_where=text("NOT tagged"),
    postgresql_where=text("NOT tagged"),
)

# The ports that BMI manages. What one should be follows from the NIC that is cabled to it; a port that no
# NIC is cabled to is closed. `revision` counts the changes of that, `applied_revision` is the one that the
# switch was last seen to have, as `applied` says.
ports = Table(
    "ports",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("switch_id", _ID, ForeignKey("switches.id", ondelete="CASCADE"), nullable=False),
    Column("name", _NAME, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("applied_revision", Integer, nullable=False),
    Column("applied", _JSON),
    Column("applied_at", Double),
    Column("due_at", Double, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("problem", _JSON),
    Index("ports_name", "switch_id", "name", unique=True),
)
_UNSETTLED = text("applied_revision < revision")
Index("ports_due", ports.c.due_at, sqlite_where=_UNSETTLED, postgresql_where=_UNSETTLED)

addresses = Table(
    "addresses",
    metadata,
    Column("nic_id", _ID, ForeignKey("nics.id", ondelete="CASCADE"), primary_key=True),
    Column("network_id", _ID, ForeignKey("networks.id"), primary_key=True),
    Column("ip", String(15), nullable=False),
    Index("addresses_ip", "network_id", "ip", unique=True),
)

images = Table(
    "images",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("version", Integer, nullable=False),
    # The highest version that the name ever had, in all its rows: no number is given twice.
    Column("last_version", Integer, nullable=False),
    Column("project_id", _ID, ForeignKey("projects.id")),
    Column("public", Boolean, nullable=False),
    Column("protected", Boolean, nullable=False),
    Column("state", _enum(ObjectState), nullable=False),
    Column("format", String(16)),
    Column("size_bytes", BigInteger),
    Column("sha256", String(64)),
    Column("boot", _JSON),
    Column("os_name", Text),
    Column("description", Text, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("origin", _JSON),
    Column("created_by", _NAME, nullable=False),
    Column("unique_bytes", BigInteger),
    Column("measured_at", Double),
    _created_at(),
    CheckConstraint("version >= 1", name="version_range"),
)
Index("images_name", images.c.project_id, images.c.name, images.c.version, unique=True)
# NULLs are distinct in a unique index, so images of no project need a rule of their own.
_OF_NO_PROJECT = text("project_id IS NULL")
Index(
    "images_name_site",
    images.c.name,
    images.c.version,
    unique=True,
    sqlite_where=_OF_NO_PROJECT,
    postgresql_where=_OF_NO_PROJECT,
)

# The projects, beside its own, that may use an image which is not public.
image_shares = Table(
    "image_shares",
    metadata,
    Column("image_id", _ID, ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
    Column("project_id", _ID, ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
)

# Files that are on their way in, piece by piece; an image that is made of one takes over its id.
uploads = Table(
    "uploads",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("token_id", _ID, ForeignKey("tokens.id", ondelete="CASCADE"), nullable=False),
    Column("file_name", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("expected_sha256", String(64)),
    # Known when all has come.
    Column("sha256", String(64)),
    _created_at(),
    Column("expires_at", Double, nullable=False),
    Index("uploads_expires", "expires_at"),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("project_id", _ID, ForeignKey("projects.id"), nullable=False),
    # No foreign key: a snapshot outlives the volume it was taken from.
    Column("volume_id", _ID, nullable=False),
    Column("node_name", _NAME, nullable=False),
    Column("image_id", _ID, ForeignKey("images.id"), nullable=False),
    Column("state", _enum(ObjectState), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("unique_bytes", BigInteger),
    Column("measured_at", Double),
    _created_at(),
    Index("snapshots_name", "project_id", "name", unique=True),
)

volumes = Table(
    "volumes",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("name", _NAME, nullable=False),
    Column("project_id", _ID, ForeignKey("projects.id"), nullable=False),
    # NULL: detached; it keeps its data and its identity until another node gets it.
    Column("node_id", _ID, ForeignKey("nodes.id")),
    Column("network_id", _ID, ForeignKey("networks.id"), nullable=False),
    Column("image_id", _ID, ForeignKey("images.id"), nullable=False),
    Column("snapshot_id", _ID, ForeignKey("snapshots.id")),
    Column("state", _enum(ObjectState), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("exported", Boolean, nullable=False),
    Column("chap_secret", Text, nullable=False),
    Column("seed", JSON, nullable=False),
    Column("unique_bytes", BigInteger),
    Column("measured_at", Double),
    _created_at(),
    Index("volumes_name", "project_id", "name", unique=True),
    # A node boots one volume, and no other writes to it.
    Index("volumes_node", "node_id", unique=True),
)

boot_sessions = Table(
    "boot_sessions",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("node_id", _ID, ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False),
    _created_at(),
    Column("expires_at", Double, nullable=False),
    Column("ended_at", Double),
)
Index(
    "boot_sessions_live",
    boot_sessions.c.node_id,
    unique=True,
    sqlite_where=text("ended_at IS NULL"),
    postgresql_where=text("ended_at IS NULL"),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("node_id", _ID, ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False),
    Column("operation_id", _ID),
    Column("at", Double, nullable=False),
    Column("stage", String(32), nullable=False),
    Column("detail", Text, nullable=False),
    Index("events_node", "node_id", "id"),
)

operations = Table(
    "operations",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("state", _enum(OperationState), nullable=False),
    Column("subject_kind", String(16), nullable=False),
    Column("subject_id", _ID, nullable=False),
    # A name, or that of a version of an image: NAME@VERSION.
    Column("subject_name", String(120), nullable=False),
    Column("project_id", _ID),
    Column("actor", _NAME, nullable=False),
    # No foreign key: an operation outlives the token that asked for it.
    Column("token_id", _ID),
    Column("args", JSON, nullable=False),
    Column("problem", _JSON),
    Column("cancel_requested", Boolean, nullable=False),
    Column("owner", String(64)),
    Column("lease_until", Double),
    Column("wake_at", Double, nullable=False),
    _created_at(),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("idempotency_key", String(128)),
    Index("operations_subject", "subject_id", "id"),
    Index("operations_idempotency", "token_id", "idempotency_key", unique=True),
)
_LIVE = text("state IN ({})".format(", ".join(f"'{state}'" for state in LIVE)))
# One live operation per node, volume, image …: the database refuses a second, no lock in code can.
Index(
    "operations_live_subject",
    operations.c.subject_kind,
    operations.c.subject_id,
    unique=True,
    sqlite_where=_LIVE,
    postgresql_where=_LIVE,
)
Index("operations_due", operations.c.wake_at, sqlite_where=_LIVE, postgresql_where=_LIVE)

steps = Table(
    "steps",
    metadata,
    Column("operation_id", _ID, ForeignKey("operations.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("name", String(32), nullable=False),
    Column("after", JSON, nullable=False),
    Column("state", _enum(StepState), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", Double, nullable=False),
    Column("result", _JSON),
    Column("problem", _JSON),
    Column("started_at", Double),
    Column("finished_at", Double),
)
