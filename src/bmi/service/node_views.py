"""Nodes with everything that is shown with them, read with one query however many they are."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from sqlalchemy import Boolean, Connection, Row, Select, String, and_, bindparam, or_, select

from bmi.domain.nouns import BOOT_NIC, Actor, Nic, Node, Volume
from bmi.domain.operations import LIVE, Operation
from bmi.store import schema


@dataclass(frozen=True)
class NodeView:
    """A node with everything that is shown with it."""

    node: Node
    nic: Nic | None
    switch: str | None
    project: str | None
    address: str | None
    volume: Volume | None
    image: str | None
    snapshot: str | None
    operation: Operation | None


_nodes, _nics, _volumes, _operations = schema.nodes, schema.nics, schema.volumes, schema.operations
_addresses = schema.addresses

# The whole records of a view and their tables, in the order in which they are selected.
_RECORDS: tuple[tuple[type[Any], Any], ...] = (
    (Node, _nodes),
    (Nic, _nics),
    (Volume, _volumes),
    (Operation, _operations),
)
_COLUMNS = [[table.c[field.name] for field in fields(record)] for record, table in _RECORDS]
_BOUNDS = [sum(map(len, _COLUMNS[:count])) for count in range(len(_COLUMNS) + 1)]

_JOINED = (
    _nodes.outerjoin(_nics, and_(_nics.c.node_id == _nodes.c.id, _nics.c.name == BOOT_NIC))
    .outerjoin(schema.switches, schema.switches.c.id == _nics.c.switch_id)
    .outerjoin(schema.projects, schema.projects.c.id == _nodes.c.project_id)
    .outerjoin(_volumes, _volumes.c.node_id == _nodes.c.id)
    .outerjoin(
        _addresses,
        and_(_addresses.c.nic_id == _nics.c.id, _addresses.c.network_id == _volumes.c.network_id),
    )
    .outerjoin(schema.images, schema.images.c.id == _volumes.c.image_id)
    .outerjoin(schema.snapshots, schema.snapshots.c.id == _volumes.c.snapshot_id)
    .outerjoin(_operations, and_(_operations.c.subject_id == _nodes.c.id, _operations.c.state.in_(LIVE)))
)
# Made once: putting a statement together takes longer than running it.
_VISIBLE: Select[Any] = (
    select(
        *(column for columns in _COLUMNS for column in columns),
        schema.switches.c.name,
        schema.projects.c.name,
        _addresses.c.ip,
        schema.images.c.name,
        schema.snapshots.c.name,
    )
    .select_from(_JOINED)
    .where(
        or_(
            bindparam("sees_all", type_=Boolean),
            _nodes.c.project_id == bindparam("own", type_=String),
        )
    )
)
_ONE = _VISIBLE.where(_nodes.c.name == bindparam("name"))
_PAGE = _VISIBLE.where(_nodes.c.name > bindparam("after")).order_by(_nodes.c.name).limit(bindparam("limit"))


def find_node_view(tx: Connection, actor: Actor, name: str) -> NodeView | None:
    """The node of this name, if the actor may see it."""
    row = tx.execute(_ONE, _sight(actor) | {"name": name}).first()
    return _view(row) if row else None


def list_node_views(tx: Connection, actor: Actor, *, after: str, limit: int) -> list[NodeView]:
    """The nodes that the actor may see, by name, beginning behind the name `after`."""
    return [_view(row) for row in tx.execute(_PAGE, _sight(actor) | {"after": after, "limit": limit})]


def _sight(actor: Actor) -> dict[str, Any]:
    return {"sees_all": actor.is_admin, "own": actor.project_id}


def _view(row: Row[Any]) -> NodeView:
    node, nic, volume, operation = (
        _record(record, row[start:end])
        for (record, _), (start, end) in zip(_RECORDS, pairwise(_BOUNDS), strict=True)
    )
    switch, project, address, image, snapshot = row[_BOUNDS[-1] :]
    return NodeView(node, nic, switch, project, address, volume, image, snapshot, operation)


def _record(record: type[Any], values: Sequence[Any]) -> Any:
    """The record, or None where nothing was joined: every table's first column is its id."""
    return record(*values) if values[0] is not None else None
