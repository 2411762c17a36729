"""What is done to nodes: their switch ports, their boots, and how the operations on them end."""

import math
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from bmi.domain.nouns import Attachment, Event, Json, Network, Nic, NodeState, ObjectState, Port, iscsi_name
from bmi.domain.operations import Operation
from bmi.errors import BmiError, CancelledError, DriverError, TimedOutError, from_problem
from bmi.store import operations as journal
from bmi.store import ports as port_rows
from bmi.store import records, schema
from bmi.workflow.engine import Context, Outcome, StepType, Wait
from bmi.workflow.ports import session_patience_s
from bmi.workflow.steps.volumes import unchanged, volume_and_network
from bmi.workflow.targets import portal_of

_SCRIPT_POLL_S = 1
# The keeper wakes who waits for a port; this is for news that got lost with a process.
_PORT_POLL_S = 2
# Operations after which the node still belongs to the project whose network its port may be on.
_LEAVE_PORTS_BEHIND = {"release", "detach"}

# ---- the switch port --------------------------------------------------------------------------------


def open_port(ctx: Context) -> Json | Wait:
    """Lets the node on its networks, the one that it boots from untagged, and waits until its ports are so."""
    found = volume_and_network(ctx)
    if found is None:
        return {}
    database, node_id = ctx.tools.database, ctx.operation.subject_id
    with database.write() as tx:
        _attach_boot_nic(tx, records.boot_nic(tx, node_id), found[1], database.now())
        ports = port_rows.set_open(tx, node_id, database.now(), is_open=True)
    return until_settled(ctx, ports, "is not open")


def _attach_boot_nic(tx: Connection, nic: Nic, network: Network, now: float) -> None:
    """The boot NIC is on the network of the volume and on no other untagged."""
    there = records.attachments.find(tx, nic_id=nic.id, tagged=False)
    if there and there.network_id == network.id:
        return
    table = schema.attachments
    on_it = (table.c.network_id == network.id) | table.c.tagged.is_(False)
    records.attachments.delete(tx, on_it, nic_id=nic.id)
    records.attachments.insert(tx, Attachment(nic.id, network.id, tagged=False))
    if nic.open:
        port_rows.touch(tx, nic, now)


def close_port(ctx: Context) -> Json | Wait:
    """Takes the node off all networks, and waits until it is. A release waits for no switch that is away: the
    port is closed when that is back, and nobody else gets the node before. To be free, it waits as long as it takes.
    """
    database = ctx.tools.database
    with database.write() as tx:
        ports = port_rows.set_open(tx, ctx.operation.subject_id, database.now(), is_open=False)
    problem = _problem(ports)
    if problem and ctx.operation.kind in _LEAVE_PORTS_BEHIND:
        return {"ports": [port.name for port in ports], "waits": problem["detail"]}
    patience_s = math.inf if ctx.operation.kind == "free" else None
    return until_settled(ctx, ports, "is not closed", patience_s)


def _close_again(ctx: Context) -> Json | Wait:
    """The undo of opening: what cannot be closed now stays with the project, and is closed when it can be."""
    database = ctx.tools.database
    with database.write() as tx:
        ports = port_rows.set_open(tx, ctx.operation.subject_id, database.now(), is_open=False)
    problem = _problem(ports)
    if problem:
        raise DriverError(str(problem["detail"]), retryable=False, remedy=str(problem.get("remedy", "")))
    return until_settled(ctx, ports, "is not closed")


def _problem(ports: Sequence[Port]) -> Json | None:
    """Why a port that is not yet as it should be is not, as far as that was tried."""
    return next((p.problem for p in ports if p.problem and p.applied_revision < p.revision), None)


def until_settled(
    ctx: Context, ports: Sequence[Port], trouble: str, patience_s: float | None = None
) -> Json | Wait:
    """Done when the ports are what they should be; raises what keeps them from it when waiting does not help, or
    has not helped for `patience_s` (None: as long as a boot may take), or that nobody has seen to them so long,
    and as long as a session may take.
    """
    patience_s = ctx.tools.boot_timeout_s if patience_s is None else patience_s
    late = [port for port in ports if port.applied_revision < port.revision]
    if not late:
        return {"ports": [port.name for port in ports]} if ports else {}
    problem, now = _problem(late), ctx.tools.database.now()
    if problem and not problem.get("retryable", True):
        raise from_problem(problem)
    if problem and now >= ctx.started_at + patience_s:
        raise TimedOutError(
            f"Port {late[0].name} {trouble} after {patience_s:g} s: {problem['detail']}",
            retryable=False,
            remedy=str(problem.get("remedy", "")),
        )
    unseen_s = max(patience_s, session_patience_s(len(late)))
    if problem is None and now >= max(ctx.started_at, late[0].due_at) + unseen_s:
        raise TimedOutError(
            f"Port {late[0].name} {trouble} after {unseen_s:g} s: nobody has seen to it.",
            retryable=False,
            remedy="The server's log says what keeps it from its switch: journalctl -u bmi",
        )
    return Wait(until=now + _PORT_POLL_S)


# ---- the boot ----------------------------------------------------------------------------------------


def await_up(ctx: Context) -> Json | Wait:
    """Waits, holding no thread, until the node reports that its OS is up.

    A disk whose own boot loader is started has nothing of ours in it that could report: there, the last
    that is seen of the boot is the firmware fetching its script.
    """
    # Of this boot: what an earlier one reported, before a retry perhaps, says nothing.
    node_id, begun = ctx.operation.subject_id, ctx.results["power_on"]["since"]
    events = schema.events
    with ctx.tools.database.read() as tx:
        volume = records.volumes.find(tx, node_id=node_id)
        image = records.images.get(tx, volume.image_id) if volume else None
        reports = image is None or (image.boot or {}).get("method") != "sanboot"
        up = records.events.find(
            tx, events.c.at >= begun, node_id=node_id, stage="up" if reports else "script"
        )
        last = journal.last_event(tx, node_id, begun)
    if up:
        return {"seen": up.stage, "up_at": up.at, "bytes_served": _bytes_served(ctx)}
    deadline = ctx.started_at + ctx.tools.boot_timeout_s
    now = ctx.tools.database.now()
    if now < deadline:
        return Wait(until=deadline if reports else min(deadline, now + _SCRIPT_POLL_S))
    raise _not_up(ctx.tools.boot_timeout_s, last, now)


def _not_up(timeout_s: float, last: Event | None, now: float) -> TimedOutError:
    """A node of which nothing came but its own power-on was not seen on the network at all."""
    if last is None or last.stage == "power-on":
        said = "it never asked for an address"
        remedy = (
            "Compare its MAC address, cable, switch port and boot order with `bmi node show`; "
            "then retry or release it."
        )
    else:
        detail = f" ({last.detail})" if last.detail else ""
        said = f"last seen at stage {last.stage!r}, {now - last.at:.0f} s ago{detail}"
        remedy = "Look at its console, and at `bmi node events`, then retry or release it."
    return TimedOutError(
        f"The node was not up within {timeout_s:g} s: {said}.",
        retryable=False,
        remedy=remedy,
        stage=last.stage if last else None,
    )


def _bytes_served(ctx: Context) -> int:
    """What the node has read of its volume up to now."""
    found = volume_and_network(ctx)
    if found is None:
        return 0
    volume, network = found
    iqn = iscsi_name(ctx.tools.iqn_prefix, "volume", volume.id)
    try:
        return ctx.tools.export.bytes_served(portal_of(ctx.tools, network)).get(iqn, 0)
    except DriverError:
        return 0  # a node that is up does not fail for want of a statistic


STEPS = (
    StepType("open_port", open_port, _close_again),
    StepType("close_port", close_port, why="a repair never opens a port"),
    StepType("await_up", await_up, why="it only looks"),
)


# ---- how operations on nodes end --------------------------------------------------------------------


def _end_boots(tx: Connection, node_id: str, now: float) -> None:
    table = schema.boot_sessions
    records.nodes.find(tx, id=node_id, lock=True)  # first, as who opens a boot does
    records.boot_sessions.update(tx, table.c.ended_at.is_(None), node_id=node_id, values={"ended_at": now})


def _give_back(tx: Connection, node_id: str, *, keeping_volume: bool) -> None:
    """Everything in the world has been taken from the node; so it is in the rows. It stays its project's."""
    if keeping_volume:
        records.volumes.update(tx, node_id=node_id, values={"node_id": None})
    else:
        records.volumes.delete(tx, node_id=node_id)
    nic = records.boot_nic(tx, node_id)
    tx.execute(schema.addresses.delete().where(schema.addresses.c.nic_id == nic.id))
    records.attachments.delete(tx, nic_id=nic.id, tagged=False)
    records.nodes.update(tx, id=node_id, values={"state": NodeState.ALLOCATED, "problem": None})


def set_free(tx: Connection, node_id: str) -> None:
    """Nobody has the node any more."""
    table = schema.attachments
    of_node = select(schema.nics.c.id).where(schema.nics.c.node_id == node_id)
    records.attachments.delete(tx, table.c.nic_id.in_(of_node))
    free: Json = {"state": NodeState.FREE, "project_id": None, "problem": None}
    records.nodes.update(tx, id=node_id, values=free)


def _came_up(tx: Connection, operation: Operation, _results: Mapping[str, Json], now: float) -> None:
    # A boot that reported has ended already; one that cannot report (sanboot) ends here.
    _end_boots(tx, operation.subject_id, now)
    records.nodes.update(tx, id=operation.subject_id, values={"state": NodeState.ACTIVE, "problem": None})


def _came_back(tx: Connection, operation: Operation, _results: Mapping[str, Json], now: float) -> None:
    _end_boots(tx, operation.subject_id, now)
    _give_back(tx, operation.subject_id, keeping_volume=operation.kind == "detach")


def _became_error(tx: Connection, operation: Operation, error: BmiError, now: float) -> None:
    _end_boots(tx, operation.subject_id, now)
    if isinstance(error, CancelledError) and operation.kind in {"provision", "attach"}:
        # Everything was undone: the node is whose it was, and a volume that was there before still is.
        _give_back(tx, operation.subject_id, keeping_volume=operation.kind == "attach")
        if operation.args.get("allocates"):
            set_free(tx, operation.subject_id)
        return
    values: Json = {"state": NodeState.ERROR, "problem": error.problem() | {"operation": operation.id}}
    records.nodes.update(tx, id=operation.subject_id, values=values)


def _registered(tx: Connection, operation: Operation, _results: Mapping[str, Json], _now: float) -> None:
    set_free(tx, operation.subject_id)


def _unregistered(tx: Connection, operation: Operation, _results: Mapping[str, Json], _now: float) -> None:
    records.nodes.delete(tx, id=operation.subject_id)


def _snapshot_taken(tx: Connection, operation: Operation, results: Mapping[str, Json], _now: float) -> None:
    values = {"state": ObjectState.READY, "size_bytes": results["snapshot_volume"]["size_bytes"]}
    records.snapshots.update(tx, id=operation.args["snapshot_id"], values=values)


def _snapshot_failed(tx: Connection, operation: Operation, _error: BmiError, _now: float) -> None:
    records.snapshots.delete(tx, id=operation.args["snapshot_id"])


OUTCOMES = {
    "provision": Outcome(_came_up, _became_error),
    "attach": Outcome(_came_up, _became_error),
    "release": Outcome(_came_back, _became_error),
    "detach": Outcome(_came_back, _became_error),
    "register": Outcome(_registered, _became_error),
    "unregister": Outcome(_unregistered, _became_error),
    "power-on": Outcome(unchanged, unchanged),
    "power-off": Outcome(unchanged, unchanged),
    "power-cycle": Outcome(unchanged, unchanged),
    "snapshot": Outcome(_snapshot_taken, _snapshot_failed),
}
