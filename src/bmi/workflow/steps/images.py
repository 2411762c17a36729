"""What is done to images and snapshots."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import Connection

from bmi.domain.nouns import Json, ObjectState
from bmi.domain.operations import Operation
from bmi.drivers.storage import Ref
from bmi.errors import BmiError, InvalidImageError
from bmi.image.bootable import build_boot as build_boot_artefacts
from bmi.image.convert import convert, probe
from bmi.store import records
from bmi.workflow.engine import Context, Outcome, StepType
from bmi.workflow.room import require_room

_GIB = 1 << 30
_LONG_S = 3600
# Far more than image.convert_timeout_s, which ends a conversion before.
_CONVERT_TIMEOUT_S = 48 * 3600
_ANOTHER_FILE = "Give the file of a whole disk, raw or qcow2."


def convert_image(ctx: Context) -> Json:
    """The uploaded file becomes a raw sparse disk inside the store; it is not an image yet."""
    upload = ctx.tools.upload_path(ctx.operation.subject_id)
    try:
        return _convert(ctx, upload)
    except InvalidImageError as error:
        # The file's own name is an id; people know it by what they wanted to call the image.
        said = f"The file of image {ctx.operation.subject_name!r}"
        detail = error.detail.replace(str(upload), said).replace(upload.name, said)
        raise InvalidImageError(detail, remedy=error.remedy or _ANOTHER_FILE, **error.facts) from error


def _convert(ctx: Context, upload: Path) -> Json:
    tools = ctx.tools
    found = probe(upload)
    if found.virtual_size_bytes > tools.max_image_bytes:
        raise InvalidImageError(
            f"{upload.name} declares a disk of {found.virtual_size_bytes / _GIB:.0f} GiB; "
            f"at most {tools.max_image_bytes / _GIB:.0f} GiB are accepted.",
            remedy="Shrink it, or raise image.max_size_gib.",
        )
    # A sparse image needs no more room than its file holds, compressed ones aside; a full disk during
    # the conversion is caught as well.
    held = upload.stat()
    require_room(tools, held.st_blocks * 512 if found.format == "raw" else held.st_size)
    staged = tools.storage.staging_path(ctx.operation.subject_id)
    done = convert(upload, staged, timeout_s=tools.convert_timeout_s)
    return {"format": found.format, "size_bytes": done.size_bytes}


def undo_convert(ctx: Context) -> None:
    ctx.tools.storage.discard_staging(ctx.operation.subject_id)
    ctx.tools.upload_path(ctx.operation.subject_id).unlink(missing_ok=True)


def build_boot(ctx: Context) -> Json:
    tools, image_id = ctx.tools, ctx.operation.subject_id
    for directory in (tools.work_dir, tools.boots_dir):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    staged, boot_dir = tools.storage.staging_path(image_id), tools.boot_dir(image_id)
    return asdict(build_boot_artefacts(staged, boot_dir, work_dir=tools.work_dir))


def delete_boot(ctx: Context) -> Json:
    shutil.rmtree(ctx.tools.boot_dir(ctx.operation.subject_id), ignore_errors=True)
    return {}


def commit_image(ctx: Context) -> Json:
    size_bytes = ctx.tools.storage.commit_image(ctx.operation.subject_id)
    ctx.tools.upload_path(ctx.operation.subject_id).unlink(missing_ok=True)
    return {"size_bytes": size_bytes}


def delete_image(ctx: Context) -> Json:
    ctx.tools.storage.delete(Ref("image", ctx.operation.subject_id))
    return {}


def snapshot_volume(ctx: Context) -> Json:
    with ctx.tools.database.read() as tx:
        snapshot = records.snapshots.get(tx, ctx.operation.args["snapshot_id"])
    require_room(ctx.tools)
    return {"size_bytes": ctx.tools.storage.snapshot(snapshot.volume_id, snapshot.id)}


def undo_snapshot(ctx: Context) -> None:
    ctx.tools.storage.delete(Ref("snapshot", ctx.operation.args["snapshot_id"]))


def delete_snapshot(ctx: Context) -> Json:
    ctx.tools.storage.delete(Ref("snapshot", ctx.operation.subject_id))
    return {}


STEPS = (
    StepType("convert_image", convert_image, undo_convert, timeout_s=_CONVERT_TIMEOUT_S),
    StepType("build_boot", build_boot, delete_boot, timeout_s=_LONG_S),
    StepType("commit_image", commit_image, delete_image, timeout_s=_LONG_S),
    StepType("delete_image", delete_image, why="what is deleted is gone"),
    StepType("delete_boot", delete_boot, why="what is deleted is gone"),
    StepType("snapshot_volume", snapshot_volume, undo_snapshot),
    StepType("delete_snapshot", delete_snapshot, why="what is deleted is gone"),
)


def _imported(tx: Connection, operation: Operation, results: Mapping[str, Json], _now: float) -> None:
    values = {
        "state": ObjectState.READY,
        "format": results["convert_image"]["format"],
        "size_bytes": results["commit_image"]["size_bytes"],
        "boot": results["build_boot"],
    }
    records.images.update(tx, id=operation.subject_id, values=values)


def _not_imported(tx: Connection, operation: Operation, _error: BmiError, _now: float) -> None:
    records.images.delete(tx, id=operation.subject_id)


def _image_gone(tx: Connection, operation: Operation, _results: Mapping[str, Json], _now: float) -> None:
    records.images.delete(tx, id=operation.subject_id)


def _snapshot_gone(tx: Connection, operation: Operation, _results: Mapping[str, Json], _now: float) -> None:
    records.snapshots.delete(tx, id=operation.subject_id)


def _stays(_tx: Connection, _operation: Operation, _error: BmiError, _now: float) -> None:
    """What could not be deleted stays in `deleting`; a retry goes on."""


OUTCOMES = {
    "import-image": Outcome(_imported, _not_imported),
    "delete-image": Outcome(_image_gone, _stays),
    "delete-snapshot": Outcome(_snapshot_gone, _stays),
}
