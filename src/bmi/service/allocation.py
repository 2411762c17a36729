"""The pool of free nodes: what is in it, what its nodes are labelled, who gets some and how they come back."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from bmi.domain import nouns
from bmi.domain.names import image_name
from bmi.domain.nouns import Actor, Json, Node, NodeState, Project
from bmi.domain.operations import LIVE
from bmi.domain.plans import ALLOCATE, FREE
from bmi.errors import BusyError, InUseError, InvalidInputError, InvalidStateError, NotEnoughNodesError
from bmi.service import quotas
from bmi.service.core import (
    Core,
    OperationView,
    enqueue,
    network_of,
    project_for,
    replayed,
    require_admin,
    reused_key,
    view,
    visible_node,
)
from bmi.store import operations as journal
from bmi.store import ports, records, schema

# The first event of a node's time with a project.
ALLOCATED = "allocated"
_MAX_COUNT = 1000
_MAX_LABELS = 32
_NODES, _OPERATIONS = schema.nodes, schema.operations


@dataclass(frozen=True)
class Allocation:
    """The names of the nodes that were given, and the operations that claim them where they are taken from; none
    where BMI alone decides: they are the project's at once.
    """

    nodes: list[str]
    operations: list[OperationView]


@dataclass(frozen=True)
class PoolView:
    """How many free nodes have exactly these labels."""

    labels: tuple[str, ...]
    free: int


def pool(core: Core) -> list[PoolView]:
    """What of the free nodes everybody may know."""
    with core.database.read() as tx:
        free = tx.execute(select(_NODES.c.id, _NODES.c.labels).where(_NODES.c.state == NodeState.FREE)).all()
        taken = _not_to_be_had(tx)
        counted = Counter(tuple(row.labels) for row in free if row.id not in taken)
    return [PoolView(labels, number) for labels, number in sorted(counted.items())]


def allocate_nodes(
    core: Core,
    actor: Actor,
    count: int,
    *,
    labels: Sequence[str] = (),
    project: str | None = None,
    key: str | None = None,
) -> Allocation:
    """Gives free nodes that have all these labels to a project: `count` or none."""
    if not 1 <= count <= _MAX_COUNT:
        raise InvalidInputError("count", f"{count} is out of range.", remedy=f"Give 1 to {_MAX_COUNT}.")
    wanted = _checked(labels)
    with core.write() as tx:
        owner = project_for(tx, actor, project)
        free = _lock_pool(tx)
        # Only now: what was seen before the locks were there may have changed meanwhile.
        asked: Json = {"count": count, "labels": sorted(wanted), "project": owner.name}
        earlier = _allocated(tx, actor, key, asked)
        if earlier:
            return earlier
        taken = _not_to_be_had(tx)
        chosen = [row for row in free if row.id not in taken and wanted.issubset(row.labels)]
        if len(chosen) < count:
            raise _not_enough(count, len(chosen), wanted)
        network_of(tx, owner)
        quotas.require(tx, owner.id, quotas.Amount(nodes=count))
        given = sorted(chosen, key=lambda row: str(row.name))[:count]
        for row in given:
            give(core, tx, row.id, owner)
        claims = [
            enqueue(core, tx, actor, ALLOCATE, ("node", row.id, row.name), project_id=owner.id)
            for row in given
            if core.settings.isolation.is_external
        ]
        made = Allocation([row.name for row in given], claims)
        if key and actor.token_id:
            ids = [claim.operation.id for claim in claims]
            row = nouns.Allocation(actor.token_id, key, asked, made.nodes, ids)
            records.allocations.insert(tx, row)
    return made


def _allocated(tx: Connection, actor: Actor, key: str | None, asked: Json) -> Allocation | None:
    """What an earlier request with the same Idempotency-Key gave; raises InvalidInputError when it was another."""
    found = records.allocations.find(tx, token_id=actor.token_id, idempotency_key=key) if key else None
    if found is None:
        return None
    if found.asked != asked:
        raise reused_key("allocation")
    claims = [view(tx, journal.operations.get(tx, operation_id)) for operation_id in found.operations]
    return Allocation(found.nodes, claims)


def _lock_pool(tx: Connection) -> Sequence[Any]:
    """The free nodes, all of them locked in one order: whoever comes second waits, and sees what is left. Skipping
    those that somebody else looks at would refuse what can be had when the other one gets nothing.
    """
    query = select(_NODES.c.id, _NODES.c.name, _NODES.c.labels).where(_NODES.c.state == NodeState.FREE)
    return tx.execute(query.order_by(_NODES.c.id).with_for_update()).all()


def _not_to_be_had(tx: Connection) -> set[str]:
    """Nodes that something is being done to, or whose port is not closed for certain."""
    busy = select(_OPERATIONS.c.subject_id).where(_OPERATIONS.c.state.in_(LIVE))
    unsettled = select(_NODES.c.id).where(_NODES.c.state == NodeState.FREE, ports.is_unsettled(_NODES.c.id))
    return {*tx.scalars(busy), *tx.scalars(unsettled)}


def _not_enough(count: int, there: int, labels: set[str]) -> NotEnoughNodesError:
    which = f" labelled {' and '.join(sorted(labels))}" if labels else ""
    return NotEnoughNodesError(
        f"There {'is' if there == 1 else 'are'} {there} free node{'' if there == 1 else 's'}{which}; "
        f"this asks for {count}.",
        remedy="Ask for fewer or for other labels (bmi node pool shows those there are), or wait until some "
        "are freed.",
        asked=count,
        free=there,
        labels=sorted(labels),
    )


def give(core: Core, tx: Connection, node_id: str, project: Project) -> None:
    """The node is the project's from now on. The caller has locked it and counted it."""
    values = {"state": NodeState.ALLOCATED, "project_id": project.id, "problem": None}
    records.nodes.update(tx, id=node_id, values=values)
    journal.add_event(
        tx,
        node_id=node_id,
        operation_id=None,
        at=core.now(),
        stage=ALLOCATED,
        detail=f"project={project.name}",
    )


def give_free_node(core: Core, tx: Connection, node: Node, project: Project) -> None:
    """Gives one that is named instead of chosen, as an administrator may; raises BusyError, OverQuotaError."""
    if tx.scalar(select(ports.is_unsettled(node.id))):
        raise BusyError(
            f"The switch port of node {node.name!r} is not closed yet.", remedy="Wait, or look at its switch."
        )
    quotas.require(tx, project.id, quotas.Amount(nodes=1))
    give(core, tx, node.id, project)


def free_node(core: Core, actor: Actor, name: str, *, key: str | None = None) -> OperationView:
    """Gives a node back to the pool, once its ports are closed for certain; refused while it has a volume."""
    with core.write() as tx:
        earlier = replayed(tx, actor, key, FREE.kind, name)
        if earlier:
            return earlier
        node = visible_node(tx, actor, name, lock=True)
        journal.refuse_if_busy(tx, "node", node.id, name)
        if node.project_id is None:
            raise InvalidStateError(
                f"The node {name!r} is {node.state}; nobody has it.", remedy="There is nothing to do."
            )
        volume = records.volumes.find(tx, node_id=node.id)
        if volume:
            raise InUseError(
                f"The node {name!r} has the volume {volume.name!r}.",
                remedy=f"Release it first: bmi release {name} [--keep-volume]",
                users=[f"volume {volume.name}"],
            )
        ports.try_again(tx, node.id, core.now())
        records.nodes.update(tx, id=node.id, values={"state": NodeState.RELEASING})
        return enqueue(core, tx, actor, FREE, ("node", node.id, name), project_id=node.project_id, key=key)


# ---- labels -----------------------------------------------------------------------------------------


def label_node(
    core: Core, actor: Actor, name: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()
) -> None:
    """Changes what a node can be asked for by."""
    require_admin(actor)
    with core.database.write() as tx:
        node = visible_node(tx, actor, name, lock=True)
        kept = (set(node.labels) - _checked(remove)) | _checked(add)
        records.nodes.update(tx, id=node.id, values={"labels": node_labels(kept)})


def node_labels(labels: Iterable[str]) -> list[str]:
    """Labels as a row keeps them; raises InvalidInputError."""
    checked = sorted(_checked(labels))
    if len(checked) > _MAX_LABELS:
        raise InvalidInputError("labels", f"there are more than {_MAX_LABELS}.", remedy="Remove some.")
    return checked


def _checked(labels: Iterable[str]) -> set[str]:
    return {image_name(label, "labels") for label in labels}
