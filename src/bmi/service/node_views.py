"""Nodes with everything that is shown with them, read with two queries however many they are."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

from sqlalchemy import Boolean, Connection, Row, Select, String, and_, bindparam, or_, select

from bmi.domain.nouns import BOOT_NIC, Actor, Nic, Node, Volume
from bmi.domain.operations import LIVE, Operation
from bmi.store import schema


@dataclass(frozen=True)
class OnNetwork:
    """A network that a NIC should be on while its node has a volume; `project` None: the site's."""

    name: str
    project: str | None
    tagged: bool


@dataclass(frozen=True)
class NicView:
    """A NIC, the switch that it is cabled to and its networks."""

    nic: Nic
    switch: str | None
    networks: list[OnNetwork]


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
    nics: list[NicView]


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
_NIC_COLUMNS = [_nics.c[field.name] for field in fields(Nic)]
_attachments, _networks = schema.attachments, schema.networks
_NICS = (
    select(
        *_NIC_COLUMNS, schema.switches.c.name, _networks.c.name, schema.projects.c.name, _attachments.c.tagged
    )
    .select_from(
        _nics.outerjoin(schema.switches, schema.switches.c.id == _nics.c.switch_id)
        .outerjoin(_attachments, and_(_attachments.c.nic_id == _nics.c.id, _attachments.c.leaving.is_(False)))
        .outerjoin(_networks, _networks.c.id == _attachments.c.network_id)
        .outerjoin(schema.projects, schema.projects.c.id == _networks.c.project_id)
    )
    .where(_nics.c.node_id.in_(bindparam("ids", expanding=True)))
    .order_by(
        _nics.c.node_id, _nics.c.name != BOOT_NIC, _nics.c.name, _attachments.c.tagged, _networks.c.name
    )
)
_ONE = _VISIBLE.where(_nodes.c.name == bindparam("name"))
_PAGE = _VISIBLE.where(_nodes.c.name > bindparam("after")).order_by(_nodes.c.name).limit(bindparam("limit"))


def find_node_view(tx: Connection, actor: Actor, name: str) -> NodeView | None:
    """The node of this name, if the actor may see it."""
    return next(iter(_views(tx, _ONE, _sight(actor) | {"name": name})), None)


def list_node_views(tx: Connection, actor: Actor, *, after: str, limit: int) -> list[NodeView]:
    """The nodes that the actor may see, by name, beginning behind the name `after`."""
    return _views(tx, _PAGE, _sight(actor) | {"after": after, "limit": limit})


def _sight(actor: Actor) -> dict[str, Any]:
    return {"sees_all": actor.is_admin, "own": actor.project_id}


def _views(tx: Connection, query: Select[Any], values: dict[str, Any]) -> list[NodeView]:
    rows = tx.execute(query, values).all()
    nics = _nics_of(tx, [row[0] for row in rows])
    return [_view(row, nics[row[0]]) for row in rows]


def _nics_of(tx: Connection, node_ids: Sequence[str]) -> dict[str, list[NicView]]:
    """The NICs of each node, the one that it boots from first."""
    found: dict[str, list[NicView]] = {node_id: [] for node_id in node_ids}
    last: NicView | None = None
    for row in tx.execute(_NICS, {"ids": list(node_ids)}) if node_ids else ():
        nic, (switch, network, project, tagged) = Nic(*row[: len(_NIC_COLUMNS)]), row[len(_NIC_COLUMNS) :]
        if last is None or last.nic.id != nic.id:
            last = NicView(nic, switch, [])
            found[nic.node_id].append(last)
        if network is not None:
            last.networks.append(OnNetwork(network, project, tagged))
    return found


def _view(row: Row[Any], nics: list[NicView]) -> NodeView:
    node, nic, volume, operation = (
        _record(record, row[start:end])
        for (record, _), (start, end) in zip(_RECORDS, pairwise(_BOUNDS), strict=True)
    )
    switch, project, address, image, snapshot = row[_BOUNDS[-1] :]
    return NodeView(node, nic, switch, project, address, volume, image, snapshot, operation, nics)


def _record(record: type[Any], values: Sequence[Any]) -> Any:
    """The record, or None where nothing was joined: every table's first column is its id."""
    return record(*values) if values[0] is not None else None
