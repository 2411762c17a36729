"""What is done to nodes: their switch ports, their boots, and how the operations on them end."""

from collections.abc import Mapping

from sqlalchemy import Connection

from bmi.domain.nouns import Event, Json, NodeState, ObjectState, iscsi_name
from bmi.domain.operations import Operation
from bmi.drivers.switch import Switch
from bmi.errors import BmiError, CancelledError, DriverError, TimedOutError
from bmi.store import operations as journal
from bmi.store import records, schema
from bmi.workflow.engine import Context, Outcome, StepType, Wait
from bmi.workflow.steps.volumes import unchanged, volume_and_network
from bmi.workflow.targets import portal_of

_SCRIPT_POLL_S = 1

# ---- the switch port --------------------------------------------------------------------------------


def _port(ctx: Context) -> tuple[Switch, str] | None:
    """The switch port that the node is cabled to; None when BMI does not manage it."""
    with ctx.tools.database.read() as tx:
        nic = records.sole_nic(tx, ctx.operation.subject_id)
        if nic.switch_id is None or nic.port is None:
            return None
        switch = records.switches.get(tx, nic.switch_id)
    return ctx.tools.switch(switch.driver, switch.options), nic.port


def open_port(ctx: Context) -> Json:
    found, port = volume_and_network(ctx), _port(ctx)
    if found is None or port is None:
        return {}
    switch, name = port
    switch.set_access(name, found[1].vlan)
    return {"port": name, "vlan": found[1].vlan}


def close_port(ctx: Context) -> Json:
    port = _port(ctx)
    if port is None:
        return {}
    switch, name = port
    switch.close(name)
    return {"port": name}


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
    StepType("open_port", open_port, close_port),
    StepType("close_port", close_port, why="a repair never opens a port"),
    StepType("await_up", await_up, why="it only looks"),
)


# ---- how operations on nodes end --------------------------------------------------------------------


def _end_boots(tx: Connection, node_id: str, now: float) -> None:
    table = schema.boot_sessions
    records.boot_sessions.update(tx, table.c.ended_at.is_(None), node_id=node_id, values={"ended_at": now})


def _forget_address(tx: Connection, node_id: str) -> None:
    nic = records.sole_nic(tx, node_id)
    tx.execute(schema.addresses.delete().where(schema.addresses.c.nic_id == nic.id))


def _give_back(tx: Connection, node_id: str, *, keeping_volume: bool) -> None:
    """Everything in the world has been taken from the node; so it is in the rows, and it is free."""
    if keeping_volume:
        records.volumes.update(tx, node_id=node_id, values={"node_id": None})
    else:
        records.volumes.delete(tx, node_id=node_id)
    _forget_address(tx, node_id)
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
        # Everything was undone: the node is as free as it was, and a volume that was there before still is.
        _give_back(tx, operation.subject_id, keeping_volume=operation.kind == "attach")
        return
    values: Json = {"state": NodeState.ERROR, "problem": error.problem() | {"operation": operation.id}}
    records.nodes.update(tx, id=operation.subject_id, values=values)


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
    "register": Outcome(_came_back, _became_error),
    "unregister": Outcome(_unregistered, _became_error),
    "power-on": Outcome(unchanged, unchanged),
    "power-off": Outcome(unchanged, unchanged),
    "power-cycle": Outcome(unchanged, unchanged),
    "snapshot": Outcome(_snapshot_taken, _snapshot_failed),
}
