"""What is done to volumes, whether a node has them or not."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from bmi.domain.nouns import Json, Network, ObjectState, Volume, iscsi_name
from bmi.domain.operations import Operation
from bmi.drivers.storage import Ref
from bmi.errors import BmiError, DriverError
from bmi.store import records
from bmi.workflow.engine import Context, Outcome, StepType
from bmi.workflow.room import require_room
from bmi.workflow.steps.power import require_off
from bmi.workflow.targets import portal_of, target_of

_LONG_S = 48 * 3600
# Operations that delete the volume next.
_VOLUME_GOES = {"release", "provision"}
# What an operation keeps of a comparison; the sums are of all.
_MAX_EXTENTS = 1000


def volume_of(ctx: Context) -> Volume | None:
    """The volume that the operation is on, or that its node has."""
    subject_id = ctx.operation.subject_id
    with ctx.tools.database.read() as tx:
        if ctx.operation.subject_kind == "volume":
            return records.volumes.find(tx, id=subject_id)
        return records.volumes.find(tx, node_id=subject_id)


def volume_and_network(ctx: Context) -> tuple[Volume, Network] | None:
    """The same with the network that it is served in."""
    volume = volume_of(ctx)
    if volume is None:
        return None
    with ctx.tools.database.read() as tx:
        return volume, records.networks.get(tx, volume.network_id)


def _set_volume(ctx: Context, volume_id: str, **values: Any) -> None:
    with ctx.tools.database.write() as tx:
        records.volumes.update(tx, id=volume_id, values=values)


# ---- made and deleted -------------------------------------------------------------------------------


def clone_volume(ctx: Context) -> Json:
    volume = volume_of(ctx)
    if volume is None:
        return {}
    source = Ref("snapshot", volume.snapshot_id) if volume.snapshot_id else Ref("image", volume.image_id)
    if volume.state is not ObjectState.READY and not volume.exported:
        # A failed try may have booted from it, and its undo may have failed as well.
        ctx.tools.storage.delete(Ref("volume", volume.id))
    require_room(ctx.tools)
    size_bytes = ctx.tools.storage.clone(source, volume.id, size_bytes=volume.size_bytes)
    _set_volume(ctx, volume.id, state=ObjectState.READY, size_bytes=size_bytes)
    return {"volume": volume.id, "size_bytes": size_bytes}


def delete_volume(ctx: Context) -> Json:
    volume = volume_of(ctx)
    if volume is None:
        return {}
    # First of all, so that what could not be deleted is never taken for a fresh clone.
    _set_volume(ctx, volume.id, state=ObjectState.DELETING)
    ctx.tools.storage.delete(Ref("volume", volume.id))
    return {"volume": volume.id}


# ---- served and withdrawn ---------------------------------------------------------------------------


def export_volume(ctx: Context) -> Json:
    found = volume_and_network(ctx)
    if found is None:
        return {}
    volume, network = found
    target = target_of(ctx.tools, volume)
    # First of all, so that an exporter that restarts right now does not leave it out.
    _set_volume(ctx, volume.id, exported=True)
    ctx.tools.export.ensure(portal_of(ctx.tools, network), target)
    return {"iqn": target.iqn, "portal": f"{network.interface.ip}:{ctx.tools.portal_port}"}


def unexport_volume(ctx: Context) -> Json:
    """Nobody can write to the volume when this is done: its export is gone, and an exporter that died with the
    volume open is shut out of the store.
    """
    found = volume_and_network(ctx)
    if found is None:
        return {}
    volume, network = found
    # First of all, so that an exporter that restarts right now does not bring it back.
    _set_volume(ctx, volume.id, exported=False)
    iqn = iscsi_name(ctx.tools.iqn_prefix, "volume", volume.id)
    ctx.tools.export.remove(portal_of(ctx.tools, network), iqn)
    try:
        ctx.tools.storage.fence(volume.id)
    except DriverError as error:
        # A disk that is lost must not keep its node: only one that stays has to be spared.
        if error.retryable or ctx.operation.kind not in _VOLUME_GOES:
            raise
    return {"iqn": iqn}


# ---- changed ----------------------------------------------------------------------------------------


def roll_back_volume(ctx: Context) -> Json:
    volume = volume_of(ctx)
    if volume is None:
        return {}
    if volume.node_id:
        # Once more: one that was turned on before its disk was withdrawn has parts of the old one in memory.
        require_off(ctx)
    with ctx.tools.database.read() as tx:
        snapshot = records.snapshots.get(tx, ctx.operation.args["snapshot_id"])
    require_room(ctx.tools)
    size_bytes = ctx.tools.storage.roll_back(volume.id, snapshot.id)
    values: dict[str, object] = {"size_bytes": size_bytes}
    if snapshot.volume_id != volume.id:
        # Another volume's bytes: they boot with their own kernel, and may depend on what they came from.
        values |= {"image_id": snapshot.image_id, "snapshot_id": snapshot.id}
    _set_volume(ctx, volume.id, **values)
    return {"size_bytes": size_bytes}


def flatten_volume(ctx: Context) -> Json:
    volume = volume_of(ctx)
    if volume is None:
        return {}
    require_room(ctx.tools)
    ctx.tools.storage.flatten(Ref("volume", volume.id))
    # It boots with the image's kernel all the same.
    _set_volume(ctx, volume.id, snapshot_id=None)
    return {}


# ---- compared ---------------------------------------------------------------------------------------


def compare(ctx: Context) -> Json:
    older, newer = (ctx.operation.args[point] for point in ("older", "newer"))
    found = ctx.tools.storage.changed(Ref(older["kind"], older["id"]), Ref(newer["kind"], newer["id"]))
    return {
        "bytes": sum(extent.length for extent in found),
        "extents": len(found),
        "first_extents": [[extent.offset, extent.length] for extent in found[:_MAX_EXTENTS]],
    }


STEPS = (
    StepType("clone_volume", clone_volume, delete_volume, patient=True),
    StepType("delete_volume", delete_volume, why="what is deleted is gone", patient=True),
    StepType("export_volume", export_volume, unexport_volume, patient=True),
    StepType("unexport_volume", unexport_volume, why="a release only goes forward", patient=True),
    StepType("withdraw_volume", unexport_volume, export_volume, patient=True),
    StepType(
        "roll_back_volume",
        roll_back_volume,
        why="the volume is as before or rolled back",
        timeout_s=_LONG_S,
        patient=True,
    ),
    StepType("flatten_volume", flatten_volume, why="nothing is lost", timeout_s=_LONG_S, patient=True),
    StepType("compare", compare, why="it only looks", timeout_s=_LONG_S, patient=True),
)


# ---- how operations on volumes end ------------------------------------------------------------------


def unchanged(_tx: Connection, _operation: Operation, _outcome: object, _now: float) -> None:
    """The subject is as it was; the operation itself says how it went."""


def _volume_gone(tx: Connection, operation: Operation, _results: Mapping[str, Json], _now: float) -> None:
    records.volumes.delete(tx, id=operation.subject_id)


def _stays(_tx: Connection, _operation: Operation, _error: BmiError, _now: float) -> None:
    """What could not be deleted stays in `deleting`; a retry goes on."""


OUTCOMES = {
    "delete-volume": Outcome(_volume_gone, _stays),
    "roll-back": Outcome(unchanged, unchanged),
    "roll-back-volume": Outcome(unchanged, unchanged),
    "flatten": Outcome(unchanged, unchanged),
    "diff": Outcome(unchanged, unchanged),
}
