"""What is done to nodes and their volumes."""

from collections.abc import Mapping

from sqlalchemy import Connection

from bmi.domain.nouns import Event, Json, Network, NodeState, ObjectState, Volume
from bmi.domain.operations import Operation
from bmi.drivers.bmc import Bmc, BmcAccess
from bmi.drivers.storage import Ref
from bmi.drivers.switch import Switch
from bmi.errors import BmiError, CancelledError, DriverError, TimedOutError
from bmi.store import operations as journal
from bmi.store import records, schema
from bmi.workflow.engine import Context, Outcome, StepType, Wait
from bmi.workflow.room import require_room
from bmi.workflow.targets import portal_of, target_of

_SCRIPT_POLL_S = 1

# ---- looking things up ------------------------------------------------------------------------------


def _volume(ctx: Context) -> Volume | None:
    with ctx.tools.database.read() as tx:
        return records.volumes.find(tx, node_id=ctx.operation.subject_id)


def _volume_and_network(ctx: Context) -> tuple[Volume, Network] | None:
    with ctx.tools.database.read() as tx:
        volume = records.volumes.find(tx, node_id=ctx.operation.subject_id)
        return (volume, records.networks.get(tx, volume.network_id)) if volume else None


def _set_volume(ctx: Context, volume_id: str, **values: object) -> None:
    with ctx.tools.database.write() as tx:
        records.volumes.update(tx, id=volume_id, values=values)


def _bmc(ctx: Context) -> tuple[Bmc, BmcAccess]:
    with ctx.tools.database.read() as tx:
        node = records.nodes.get(tx, ctx.operation.subject_id)
    access = BmcAccess(
        address=node.bmc_address,
        username=node.bmc_username,
        password=ctx.tools.vault.open(node.bmc_password),
        verify_tls=node.bmc_verify_tls,
    )
    return ctx.tools.bmc(node.bmc_driver), access


def _port(ctx: Context) -> tuple[Switch, str] | None:
    """The switch port that the node is cabled to; None when BMI does not manage it."""
    with ctx.tools.database.read() as tx:
        nic = records.sole_nic(tx, ctx.operation.subject_id)
        if nic.switch_id is None or nic.port is None:
            return None
        switch = records.switches.get(tx, nic.switch_id)
    return ctx.tools.switch(switch.driver, switch.options), nic.port


# ---- the volume -------------------------------------------------------------------------------------


def clone_volume(ctx: Context) -> Json:
    volume = _volume(ctx)
    if volume is None:
        return {}
    source = Ref("snapshot", volume.snapshot_id) if volume.snapshot_id else Ref("image", volume.image_id)
    if volume.state is not ObjectState.READY and not volume.exported:
        # A failed try may have booted from it, and its undo may have failed as well.
        ctx.tools.storage.delete(Ref("volume", volume.id))
    require_room(ctx.tools)
    size_bytes = ctx.tools.storage.clone(source, volume.id)
    _set_volume(ctx, volume.id, state=ObjectState.READY, size_bytes=size_bytes)
    return {"volume": volume.id, "size_bytes": size_bytes}


def delete_volume(ctx: Context) -> Json:
    volume = _volume(ctx)
    if volume is None:
        return {}
    # First of all, so that what could not be deleted is never taken for a fresh clone.
    _set_volume(ctx, volume.id, state=ObjectState.DELETING)
    ctx.tools.storage.delete(Ref("volume", volume.id))
    return {"volume": volume.id}


def export_volume(ctx: Context) -> Json:
    found = _volume_and_network(ctx)
    if found is None:
        return {}
    volume, network = found
    target = target_of(ctx.tools, volume)
    # First of all, so that an exporter that restarts right now does not leave it out.
    _set_volume(ctx, volume.id, exported=True)
    ctx.tools.export.ensure(portal_of(ctx.tools, network), target)
    return {"iqn": target.iqn, "portal": f"{network.interface.ip}:{ctx.tools.portal_port}"}


def unexport_volume(ctx: Context) -> Json:
    found = _volume_and_network(ctx)
    if found is None:
        return {}
    volume, network = found
    # First of all, so that an exporter that restarts right now does not bring it back.
    _set_volume(ctx, volume.id, exported=False)
    target = target_of(ctx.tools, volume)
    ctx.tools.export.remove(portal_of(ctx.tools, network), target.iqn)
    return {"iqn": target.iqn}


# ---- the switch port --------------------------------------------------------------------------------


def open_port(ctx: Context) -> Json:
    found, port = _volume_and_network(ctx), _port(ctx)
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


# ---- power ------------------------------------------------------------------------------------------


def power_off(ctx: Context) -> Json:
    bmc, access = _bmc(ctx)
    bmc.power_off(access)
    return {}


def power_on(ctx: Context) -> Json:
    bmc, access = _bmc(ctx)
    bmc.power_on(access)
    with ctx.tools.database.write() as tx:
        operation = ctx.operation
        journal.add_event(
            tx,
            node_id=operation.subject_id,
            operation_id=operation.id,
            at=ctx.tools.database.now(),
            stage="power-on",
        )
    # When it was first tried: a worker that died right after turning it on must not move this moment.
    return {"since": ctx.started_at}


def set_network_boot(ctx: Context) -> Json:
    bmc, access = _bmc(ctx)
    bmc.boot_network_once(access)
    return {}


def check_bmc(ctx: Context) -> Json:
    bmc, access = _bmc(ctx)
    return {"found": bmc.check(access), "power": bmc.power_state(access)}


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
    found = _volume_and_network(ctx)
    if found is None:
        return 0
    volume, network = found
    iqn = target_of(ctx.tools, volume).iqn
    try:
        return ctx.tools.export.bytes_served(portal_of(ctx.tools, network)).get(iqn, 0)
    except DriverError:
        return 0  # a node that is up does not fail for want of a statistic


STEPS = (
    StepType("clone_volume", clone_volume, delete_volume),
    StepType("export_volume", export_volume, unexport_volume),
    StepType("open_port", open_port, close_port),
    StepType("power_on", power_on, power_off),
    StepType("set_network_boot", set_network_boot, why="the setting is used up by the next boot"),
    StepType("power_off", power_off, why="what ran before must not run again"),
    StepType("close_port", close_port, why="a repair never opens a port"),
    StepType("unexport_volume", unexport_volume, why="a release only goes forward"),
    StepType("delete_volume", delete_volume, why="what is deleted is gone"),
    StepType("check_bmc", check_bmc, why="it only looks", attempts=2),
    StepType("await_up", await_up, why="it only looks"),
)


# ---- how operations on nodes end --------------------------------------------------------------------


def _end_boots(tx: Connection, node_id: str, now: float) -> None:
    table = schema.boot_sessions
    records.boot_sessions.update(tx, table.c.ended_at.is_(None), node_id=node_id, values={"ended_at": now})


def forget_volume(tx: Connection, node_id: str) -> None:
    """Removes the rows of a node's volume and its address; both are gone in the world already."""
    volume = records.volumes.find(tx, node_id=node_id)
    if volume is None:
        return
    records.volumes.delete(tx, id=volume.id)
    nic = records.sole_nic(tx, node_id)
    tx.execute(schema.addresses.delete().where(schema.addresses.c.nic_id == nic.id))


def _became(state: NodeState) -> Outcome:
    def succeeded(tx: Connection, operation: Operation, _results: Mapping[str, Json], now: float) -> None:
        values: dict[str, object] = {"state": state, "problem": None}
        if state is NodeState.FREE:
            values["project_id"] = None
            forget_volume(tx, operation.subject_id)
        # A boot that reported has ended already; one that cannot report (sanboot) ends here.
        _end_boots(tx, operation.subject_id, now)
        records.nodes.update(tx, id=operation.subject_id, values=values)

    return Outcome(succeeded, _became_error)


def _became_error(tx: Connection, operation: Operation, error: BmiError, now: float) -> None:
    _end_boots(tx, operation.subject_id, now)
    if isinstance(error, CancelledError) and operation.kind == "provision":
        # Everything was undone: the node is as free as it was.
        forget_volume(tx, operation.subject_id)
        free: Json = {"state": NodeState.FREE, "project_id": None, "problem": None}
        records.nodes.update(tx, id=operation.subject_id, values=free)
        return
    values: Json = {"state": NodeState.ERROR, "problem": error.problem() | {"operation": operation.id}}
    records.nodes.update(tx, id=operation.subject_id, values=values)


def _unregistered(tx: Connection, operation: Operation, _results: Mapping[str, Json], _now: float) -> None:
    records.nodes.delete(tx, id=operation.subject_id)


def _unchanged(_tx: Connection, _operation: Operation, _outcome: object, _now: float) -> None:
    """The node is as it was; the operation itself says how it went."""


def _snapshot_taken(tx: Connection, operation: Operation, results: Mapping[str, Json], _now: float) -> None:
    values = {"state": ObjectState.READY, "size_bytes": results["snapshot_volume"]["size_bytes"]}
    records.snapshots.update(tx, id=operation.args["snapshot_id"], values=values)


def _snapshot_failed(tx: Connection, operation: Operation, _error: BmiError, _now: float) -> None:
    records.snapshots.delete(tx, id=operation.args["snapshot_id"])


OUTCOMES = {
    "provision": _became(NodeState.ACTIVE),
    "release": _became(NodeState.FREE),
    "register": _became(NodeState.FREE),
    "unregister": Outcome(_unregistered, _became_error),
    "power-on": Outcome(_unchanged, _unchanged),
    "power-off": Outcome(_unchanged, _unchanged),
    "power-cycle": Outcome(_unchanged, _unchanged),
    "snapshot": Outcome(_snapshot_taken, _snapshot_failed),
}
