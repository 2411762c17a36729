"""Images from what the store holds already, and images that leave as files or as the store's own."""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Connection

from bmi.domain.nouns import Actor, Image, Json, ObjectState, Role
from bmi.domain.operations import Operation
from bmi.domain.plans import FLATTEN_IMAGE
from bmi.drivers.storage import Ref
from bmi.errors import BmiError, InsufficientSpaceError
from bmi.image.convert import export_disk
from bmi.store import operations as journal
from bmi.store import records
from bmi.workflow.engine import Context, Outcome, StepType
from bmi.workflow.room import require_room
from bmi.workflow.steps.images import (
    boot_of,
    boot_values,
    count_size,
    delete_boot,
    not_made,
    prepare_places,
    stays,
)

_GIB = 1 << 30
_LONG_S = 3600
_UNBOUNDED_S = 48 * 3600
_BMI = Actor("bmi", Role.ADMIN, None)


def _image(ctx: Context) -> Image:
    with ctx.tools.database.read() as tx:
        return records.images.get(tx, ctx.operation.subject_id)


def _source(image: Image) -> Ref:
    """What the image is made from; a volume is frozen first."""
    origin = image.origin or {}
    return Ref("image" if origin["kind"] == "image" else "snapshot", origin["id"])


# ---- into BMI ---------------------------------------------------------------------------------------


def promote_image(ctx: Context) -> Json:
    image = _image(ctx)
    require_room(ctx.tools)
    return {"size_bytes": ctx.tools.storage.promote(_source(image), image.id)}


def adopt_image(ctx: Context) -> Json:
    """An image of the store that is not ours becomes one of ours; it is neither copied nor changed."""
    require_room(ctx.tools)
    size_bytes = ctx.tools.storage.adopt(ctx.operation.args["location"], ctx.operation.subject_id)
    count_size(ctx, size_bytes)
    return {"size_bytes": size_bytes}


def delete_made(ctx: Context) -> None:
    ctx.tools.storage.delete(Ref("image", ctx.operation.subject_id))


def derive_boot(ctx: Context) -> Json:
    """A copy boots as its original does. In anything else a node may have installed another kernel: what it
    boots with comes from its own bytes.
    """
    image = _image(ctx)
    origin = image.origin or {}
    if origin["kind"] == "image":
        with ctx.tools.database.read() as tx:
            original = records.images.find(tx, id=origin["id"])
        if original and original.boot and _copied_boot(ctx, original.id):
            return original.boot
    with ctx.tools.storage.opened(Ref("image", image.id)) as disk:
        return boot_of(ctx, disk)


def _copied_boot(ctx: Context, original_id: str) -> bool:
    """Whether the artefacts of another image, which never change, are this one's now as well."""
    tools = ctx.tools
    prepare_places(tools)
    source, target = tools.boot_dir(original_id), tools.boot_dir(ctx.operation.subject_id)
    aside = tools.boots_dir / f".boot-{ctx.operation.subject_id}"
    for left in (aside, target):
        shutil.rmtree(left, ignore_errors=True)
    if not source.is_dir():
        return False
    shutil.copytree(source, aside, copy_function=os.link)
    aside.rename(target)
    return True


def drop_snapshot(ctx: Context) -> Json:
    """What was frozen for this operation alone; the image lives on without it."""
    ctx.tools.storage.delete(Ref("snapshot", ctx.operation.args["snapshot_id"]))
    return {}


def flatten_image(ctx: Context) -> Json:
    ctx.tools.storage.flatten(Ref("image", ctx.operation.subject_id))
    return {}


# ---- out of BMI -------------------------------------------------------------------------------------


def publish_image(ctx: Context) -> Json:
    ctx.tools.storage.publish(Ref("image", ctx.operation.subject_id), ctx.operation.args["location"])
    return {}


def prepare_download(ctx: Context) -> Json:
    """The image as one file, whose name says its checksum; made again where it lay too long."""
    tools, args = ctx.tools, ctx.operation.args
    image_id, image_format = args["image_id"], args["format"]
    tools.downloads_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in tools.downloads_dir.glob(f"{image_id}.*.{image_format}"):
        os.utime(path)
        return _prepared(path)
    ref, part = Ref("image", image_id), _part(ctx)
    needed = tools.storage.usage(ref).allocated_bytes
    free = shutil.disk_usage(tools.downloads_dir).free
    if free - needed < tools.reserve_gib * _GIB:
        raise InsufficientSpaceError(
            f"The download needs about {needed / _GIB:.1f} GiB; {free / _GIB:.1f} GiB are free.",
            remedy="Ask an administrator to make room in data_dir.",
        )
    with tools.storage.opened(ref) as disk:
        export_disk(disk, part, image_format=image_format, timeout_s=tools.convert_timeout_s)
    with part.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    done = tools.downloads_dir / f"{image_id}.{checksum}.{image_format}"
    part.rename(done)
    return _prepared(done)


def _prepared(path: Path) -> Json:
    return {"size_bytes": path.stat().st_size, "sha256": path.name.split(".")[1]}


def _part(ctx: Context) -> Path:
    return ctx.tools.downloads_dir / f".{ctx.operation.subject_id}.part"


def forget_part(ctx: Context) -> None:
    _part(ctx).unlink(missing_ok=True)


STEPS = (
    StepType("promote_image", promote_image, delete_made, patient=True),
    StepType("adopt_image", adopt_image, delete_made, patient=True),
    StepType("derive_boot", derive_boot, delete_boot, timeout_s=_LONG_S, patient=True),
    StepType("drop_snapshot", drop_snapshot, drop_snapshot, patient=True),
    StepType("flatten_image", flatten_image, why="nothing is lost", timeout_s=_UNBOUNDED_S, patient=True),
    StepType("publish_image", publish_image, why="it is not ours", timeout_s=_UNBOUNDED_S, patient=True),
    StepType("prepare_download", prepare_download, forget_part, timeout_s=_UNBOUNDED_S, patient=True),
)


# ---- how these operations end -----------------------------------------------------------------------


def _made(tx: Connection, operation: Operation, results: Mapping[str, Json], now: float) -> None:
    size_bytes = next(
        result["size_bytes"] for name, result in results.items() if name in {"promote_image", "adopt_image"}
    )
    values = {"state": ObjectState.READY, "size_bytes": size_bytes, **boot_values(results["derive_boot"])}
    image = records.images.get(tx, operation.subject_id)
    if operation.kind == "promote-volume":
        # The snapshot in between goes; whoever asks where the image came from means the volume.
        between = records.snapshots.get(tx, operation.args["snapshot_id"])
        values["origin"] = {**(image.origin or {}), "id": between.volume_id}
    records.images.update(tx, id=image.id, values=values)
    _forget_snapshot(tx, operation)
    # A snapshot should not have to stay for the image's sake. A copy, and what was adopted, is wanted
    # without its bytes being copied; whoever wants them copied says so.
    if (image.origin or {}).get("kind") in {"snapshot", "volume"}:
        subject = (operation.subject_kind, image.id, image.name)
        args = {"image": f"{image.name}@{image.version}"}
        journal.enqueue(
            tx, FLATTEN_IMAGE, now=now, actor=_BMI, subject=subject, project_id=image.project_id, args=args
        )


def _forget_snapshot(tx: Connection, operation: Operation) -> None:
    if operation.kind == "promote-volume":
        records.snapshots.delete(tx, id=operation.args["snapshot_id"])


def _not_made(tx: Connection, operation: Operation, error: BmiError, now: float) -> None:
    not_made(tx, operation, error, now)
    _forget_snapshot(tx, operation)


def _flat(tx: Connection, operation: Operation, _results: Mapping[str, Json], _now: float) -> None:
    image = records.images.get(tx, operation.subject_id)
    origin = {key: value for key, value in (image.origin or {}).items() if key != "depends"}
    records.images.update(tx, id=image.id, values={"origin": origin or None})


OUTCOMES = {
    "promote-image": Outcome(_made, _not_made),
    "promote-volume": Outcome(_made, _not_made),
    "adopt-image": Outcome(_made, _not_made),
    "flatten-image": Outcome(_flat, stays),
    "publish-image": Outcome(stays, stays),
    "prepare-download": Outcome(stays, stays),
}
