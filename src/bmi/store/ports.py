"""Switch ports as rows: what each should be, what makes one due, and which are not yet as they should be.

What a port should be is never written down. It follows from the NIC that is cabled to it: what that is attached
to while the NIC is open, and nothing otherwise. A change of that makes the port due, and the keeper
(workflow/ports) sees to it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, select, update

from bmi.domain.nouns import Nic, Port
from bmi.domain.operations import OperationState, StepState
from bmi.domain.plans import PORT_STEPS
from bmi.store import records, schema
from bmi.store.ids import new_id

_PORTS, _NICS = schema.ports, schema.nics
# Written out in the statement: a database uses a partial index only where it sees the index's condition.
UNSETTLED: ColumnElement[bool] = _PORTS.c.applied_revision < _PORTS.c.revision
_OF_NIC = and_(_NICS.c.switch_id == _PORTS.c.switch_id, _NICS.c.port == _PORTS.c.name)


@dataclass(frozen=True)
class Wanted:
    """The VLANs that a port should be on; none: closed."""

    native: int | None = None
    tagged: frozenset[int] = field(default_factory=frozenset)


def wanted(tx: Connection, ports: Iterable[Port]) -> dict[str, Wanted]:
    """What these ports should be, by their ids."""
    ids = [port.id for port in ports]
    attachments, networks = schema.attachments, schema.networks
    rows = tx.execute(
        select(_PORTS.c.id, attachments.c.tagged, networks.c.vlan)
        .join(_NICS, _OF_NIC)
        .join(attachments, attachments.c.nic_id == _NICS.c.id)
        .join(networks, networks.c.id == attachments.c.network_id)
        .where(_PORTS.c.id.in_(ids), _NICS.c.open, attachments.c.leaving.is_(False))
    )
    native: dict[str, int] = {}
    tagged: dict[str, set[int]] = defaultdict(set)
    for port_id, is_tagged, vlan in rows:
        if is_tagged:
            tagged[port_id].add(vlan)
        else:
            native[port_id] = vlan
    return {port_id: Wanted(native.get(port_id), frozenset(tagged[port_id])) for port_id in ids}


def manage(tx: Connection, switch_id: str, name: str, now: float) -> Port:
    """The row of a port, made when BMI does not manage it yet; it is then due to be made what it should be."""
    found = records.ports.find(tx, switch_id=switch_id, name=name, lock=True)
    return found or records.ports.insert(tx, Port(new_id(), switch_id, name, due_at=now))


def touch(tx: Connection, nic: Nic, now: float) -> None:
    """What the NIC should be on has changed, by its attachments or by being opened or closed."""
    if nic.switch_id is None or nic.port is None:
        return
    lock(tx, _of_node(nic.node_id))
    found = records.ports.find(tx, switch_id=nic.switch_id, name=nic.port, lock=True)
    if found:
        make_due(tx, [found.id], now)
    else:
        manage(tx, nic.switch_id, nic.port, now)


def lock(tx: Connection, *where: ColumnElement[bool]) -> None:
    """Holds these ports until the transaction ends. Whoever holds several takes them by id, which makes no circle."""
    tx.execute(select(_PORTS.c.id).where(*where).order_by(_PORTS.c.id).with_for_update())


def make_due(tx: Connection, port_ids: Iterable[str], now: float) -> None:
    """Has these ports made what they should be, whatever was seen of them before."""
    these = _PORTS.c.id.in_(list(port_ids))
    lock(tx, these)
    anew: dict[str, Any] = {"revision": _PORTS.c.revision + 1, "due_at": now, "attempts": 0, "problem": None}
    tx.execute(update(_PORTS).where(these).values(anew))


def set_open(tx: Connection, node_id: str, now: float, *, is_open: bool) -> list[Port]:
    """Lets a node on its networks, or takes it off them; returns the ports of its NICs."""
    lock(tx, _of_node(node_id))
    cabled = [nic for nic in records.nics.list(tx, node_id=node_id, order="name") if nic.port]
    for nic in cabled:
        if nic.open != is_open:
            records.nics.update(tx, id=nic.id, values={"open": is_open})
            touch(tx, nic, now)
        elif nic.switch_id and nic.port:
            manage(tx, nic.switch_id, nic.port, now)
    return of_node(tx, node_id)


def of_node(tx: Connection, node_id: str) -> list[Port]:
    """The managed ports that a node is cabled to."""
    return records.ports.list(tx, _of_node(node_id), order="name")


def _of_node(node_id: str) -> ColumnElement[bool]:
    return exists().where(_OF_NIC, _NICS.c.node_id == node_id)


def vlans_left_open(tx: Connection) -> set[int]:
    """The VLANs that ports may still be on which are not yet what they should be. Usually these are of networks that
    are there; of a network that is gone, if somebody insisted that the port is gone as well.
    """
    left = [port.applied for port in records.ports.list(tx, UNSETTLED) if port.applied]
    return {vlan for config in left for vlan in (config["native"], *config["tagged"]) if vlan}


def forget_left(tx: Connection) -> None:
    """Forgets what NICs were to leave, where their ports are as they should be: they have left. Usually the operation
    that took them off does; one that failed, with its switch away, is not there any more when that is back.

    To be called without ports locked: who takes a NIC off locks the attachment first.
    """
    attachments = schema.attachments
    unsettled = exists().where(_OF_NIC, _NICS.c.id == attachments.c.nic_id, UNSETTLED)
    records.attachments.delete(tx, attachments.c.leaving, ~unsettled)


def try_again(tx: Connection, node_id: str, now: float) -> None:
    """Forgets why the ports of a node are not yet what they should be: somebody may have mended it."""
    make_due(tx, [port.id for port in of_node(tx, node_id) if port.applied_revision < port.revision], now)


def is_unsettled(node_id: ColumnElement[str] | str) -> ColumnElement[bool]:
    """Whether a node has a port that is not yet what it should be: perhaps open, though it should be closed."""
    return exists().where(_OF_NIC, _NICS.c.node_id == node_id, UNSETTLED)


def due(tx: Connection, now: float) -> list[Port]:
    """The ports that somebody has to see to now, by id."""
    return records.ports.list(tx, UNSETTLED, _PORTS.c.due_at <= now)


def others_come(tx: Connection, switch_id: str) -> bool:
    """Whether an operation that is under way has yet to ask for a change of a port of this switch."""
    operations, steps = schema.operations, schema.steps
    waiting = (
        select(steps.c.seq)
        .join(operations, operations.c.id == steps.c.operation_id)
        .join(_NICS, _NICS.c.node_id == operations.c.subject_id)
        .where(
            _NICS.c.switch_id == switch_id,
            operations.c.state.in_([OperationState.QUEUED, OperationState.RUNNING]),
            steps.c.name.in_(PORT_STEPS),
            steps.c.state == StepState.PENDING,
        )
    )
    return bool(tx.scalar(select(waiting.exists())))


def nodes_behind(tx: Connection, ports: Iterable[Port]) -> Sequence[str]:
    """The nodes that are cabled to these ports."""
    ids = [port.id for port in ports]
    return tx.scalars(
        select(_NICS.c.node_id).join(_PORTS, _OF_NIC).where(_PORTS.c.id.in_(ids)).distinct()
    ).all()


# ---- one session a switch --------------------------------------------------------------------------------


def claim_switch(tx: Connection, switch_id: str, session: str, *, now: float, lease_s: float) -> bool:
    """Takes the right to a session with a switch, unless another that is alive has it."""
    table = schema.switches
    free = table.c.keeper.is_(None) | (table.c.kept_until < now)
    values = {"keeper": session, "kept_until": now + lease_s}
    return bool(tx.execute(update(table).where(table.c.id == switch_id, free).values(values)).rowcount)


def keep_switches(tx: Connection, sessions: Iterable[str], until: float) -> None:
    """One heartbeat for these sessions."""
    table = schema.switches
    tx.execute(update(table).where(table.c.keeper.in_(list(sessions))).values(kept_until=until))


def release_switch(tx: Connection, switch_id: str, session: str) -> bool:
    """Gives the right back; False when another session has taken it meanwhile."""
    table = schema.switches
    mine = (table.c.id == switch_id, table.c.keeper == session)
    return bool(tx.execute(update(table).where(*mine).values(keeper=None, kept_until=None)).rowcount)
