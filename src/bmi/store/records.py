"""One gateway per table: rows in, frozen records out, broken rules as BMI's own errors."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Table, and_, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from bmi.domain import nouns
from bmi.errors import AlreadyExistsError, BusyError, ConflictError, InUseError, NotFoundError
from bmi.store import schema

Record = TypeVar("Record")

# What it means to a person when a rule of the schema is broken: index name (PostgreSQL) or columns
# (SQLite) -> sentence.
_TAKEN = {
    ("projects_name", "projects.name"): "A project of this name exists.",
    ("users_name", "users.name"): "A user of this name exists.",
    ("users_subject", "users.issuer, users.subject"): "Another user is linked to this subject.",
    ("tokens_name", "tokens.name"): "A token of this name exists.",
    ("tokens_user_name", "tokens.user_id, tokens.name"): "You have a token of this name.",
    (
        "networks_name",
        "networks_name_site",
        "networks.project_id, networks.name",
        "networks.name",
    ): "A network of this name exists.",
    ("networks_vlan", "networks.vlan"): "Another network has this VLAN.",
    ("networks_address", "networks.address"): "Another network has this address range.",
    ("networks_netns", "networks.netns"): "Another network has this network namespace.",
    ("networks_project", "networks.project_id"): "The project has a network already.",
    ("switches_name", "switches.name"): "A switch of this name exists.",
    ("nodes_name", "nodes.name"): "A node of this name exists.",
    ("nics_mac", "nics.mac"): "mac: another node has this address.",
    ("nics_node_name", "nics.node_id, nics.name"): "The node has a NIC of this name.",
    ("nics_switch_port", "nics.switch_id, nics.port"): "port: another node is cabled to this switch port.",
    ("attachments_native", "attachments.nic_id"): "The NIC is on another network untagged.",
    ("attachments_pkey", "attachments.nic_id, attachments.network_id"): "The NIC is on this network already.",
    ("ports_name", "ports.switch_id, ports.name"): "This port of the switch is known.",
    (
        "images_name",
        "images_name_site",
        "images.project_id, images.name, images.version",
        "images.name, images.version",
    ): "This version of the image exists.",
    ("snapshots_name", "snapshots.project_id, snapshots.name"): "A snapshot of this name exists.",
    ("volumes_name", "volumes.project_id, volumes.name"): "A volume of this name exists.",
    ("volumes_node", "volumes.node_id"): "The node has a volume already.",
    ("boot_sessions_live", "boot_sessions.node_id"): "The node has a live boot already.",
}
_BUSY = {
    ("operations_live_subject", "operations.subject_kind, operations.subject_id"): (
        "Another operation on this object has just begun."
    ),
    (
        "operations_idempotency",
        "operations.token_id, operations.idempotency_key",
        "allocations_pkey",
        "allocations.token_id, allocations.idempotency_key",
    ): ("Another request with this Idempotency-Key has just been made."),
}


# SQLSTATE 23503, PostgreSQL's manual, appendix A.
_FOREIGN_KEY_VIOLATION = "23503"


def _broken_rule(error: IntegrityError) -> str:
    """The broken rule: an index's name on PostgreSQL, its columns on SQLite, never a person's values."""
    diagnostics = getattr(error.orig, "diag", None)
    if diagnostics is None:
        return str(error.orig).removeprefix("UNIQUE constraint failed: ")
    return str(diagnostics.constraint_name)


def _translated(error: IntegrityError) -> Exception:
    rule = _broken_rule(error)
    for marks, sentence in _TAKEN.items():
        if rule in marks:
            return AlreadyExistsError(sentence, remedy="Choose another, or remove the one that exists.")
    for marks, sentence in _BUSY.items():
        if rule in marks:
            return BusyError(sentence, remedy="Try again in a moment.")
    return error


def _is_about_references(error: IntegrityError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    return state == _FOREIGN_KEY_VIOLATION or "FOREIGN KEY" in str(error.orig)


class Gateway(Generic[Record]):
    """Reads and writes records of one kind. All methods take the transaction they belong to."""

    def __init__(self, table: Table, record: type[Record], kind: str) -> None:
        self.table = table
        self.kind = kind
        self._record = record
        self._columns = [table.c[f.name] for f in fields(record)]  # type: ignore[arg-type]  # a dataclass

    def _make(self, row: Row[Any]) -> Record:
        return self._record(**row._mapping)  # noqa: SLF001  # SQLAlchemy's public name for it

    def _where(self, where: tuple[ColumnElement[bool], ...], equal: dict[str, Any]) -> ColumnElement[bool]:
        return and_(True, *where, *(self.table.c[name] == value for name, value in equal.items()))

    def find(
        self, tx: Connection, *where: ColumnElement[bool], lock: bool = False, **equal: Any
    ) -> Record | None:
        """The one record that matches, or None. `lock` holds the row until the transaction ends."""
        query = select(*self._columns).where(self._where(where, equal)).limit(1)
        row = tx.execute(query.with_for_update() if lock else query).first()
        return self._make(row) if row else None

    def get(self, tx: Connection, record_id: str, *, lock: bool = False) -> Record:
        """The record with this id; raises NotFoundError."""
        record = self.find(tx, lock=lock, id=record_id)
        if record is None:
            raise NotFoundError(self.kind, record_id)
        return record

    def list(
        self,
        tx: Connection,
        *where: ColumnElement[bool],
        order: str = "id",
        newest_first: bool = False,
        limit: int | None = None,
        **equal: Any,
    ) -> list[Record]:
        """All records that match, in `order` of that column or, with `newest_first`, against it."""
        by = self.table.c[order]
        query = (
            select(*self._columns)
            .where(self._where(where, equal))
            .order_by(by.desc() if newest_first else by)
            .limit(limit)
        )
        return [self._make(row) for row in tx.execute(query)]

    def insert(self, tx: Connection, record: Record, **extra: Any) -> Record:
        """Adds the record; raises AlreadyExistsError when a name or address is taken, BusyError when a
        live operation holds the subject, ConflictError when what it refers to is gone.
        """
        values = {f.name: getattr(record, f.name) for f in fields(record)} | extra  # type: ignore[arg-type]
        try:
            tx.execute(insert(self.table).values(values))
        except IntegrityError as error:
            if _is_about_references(error):
                raise ConflictError(
                    f"Something that the {self.kind} needs has just been removed.", remedy="Look again."
                ) from error
            raise _translated(error) from error
        return record

    def update(
        self, tx: Connection, *where: ColumnElement[bool], values: dict[str, Any], **equal: Any
    ) -> int:
        """Changes the records that match and returns how many there were; raises AlreadyExistsError when a
        name is taken.
        """
        try:
            return tx.execute(update(self.table).where(self._where(where, equal)).values(values)).rowcount
        except IntegrityError as error:
            raise _translated(error) from error

    def delete(self, tx: Connection, *where: ColumnElement[bool], **equal: Any) -> int:
        """Removes the records that match and returns how many there were; raises InUseError."""
        try:
            return tx.execute(delete(self.table).where(self._where(where, equal))).rowcount
        except IntegrityError as error:
            raise InUseError(
                f"Something still refers to the {self.kind}.", remedy="Remove what depends on it first."
            ) from error


projects = Gateway(schema.projects, nouns.Project, "project")
users = Gateway(schema.users, nouns.User, "user")
memberships = Gateway(schema.memberships, nouns.Membership, "membership")
tokens = Gateway(schema.tokens, nouns.Token, "token")
oidc_logins = Gateway(schema.oidc_logins, nouns.OidcLogin, "login")
audit = Gateway(schema.audit, nouns.AuditEntry, "audit entry")
networks = Gateway(schema.networks, nouns.Network, "network")
switches = Gateway(schema.switches, nouns.Switch, "switch")
nodes = Gateway(schema.nodes, nouns.Node, "node")
allocations = Gateway(schema.allocations, nouns.Allocation, "allocation")
nics = Gateway(schema.nics, nouns.Nic, "NIC")
attachments = Gateway(schema.attachments, nouns.Attachment, "attachment")
ports = Gateway(schema.ports, nouns.Port, "port")
images = Gateway(schema.images, nouns.Image, "image")
uploads = Gateway(schema.uploads, nouns.Upload, "upload")
volumes = Gateway(schema.volumes, nouns.Volume, "volume")
snapshots = Gateway(schema.snapshots, nouns.Snapshot, "snapshot")
boot_sessions = Gateway(schema.boot_sessions, nouns.BootSession, "boot session")
events = Gateway(schema.events, nouns.Event, "event")


def boot_nic(tx: Connection, node_id: str) -> nouns.Nic:
    """The NIC that a node boots from."""
    found = nics.find(tx, node_id=node_id, name=nouns.BOOT_NIC)
    if found is None:
        raise NotFoundError("NIC", node_id)
    return found


def addresses_in(tx: Connection, network_id: str) -> Sequence[str]:
    """The IPv4 addresses in use on a network."""
    table = schema.addresses
    return list(tx.scalars(select(table.c.ip).where(table.c.network_id == network_id)))
