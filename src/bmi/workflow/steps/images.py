"""Images from files: fetched, converted, made bootable, stored; and images that go."""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import Connection

from bmi.domain.nouns import Json, ObjectState
from bmi.domain.operations import Operation
from bmi.drivers.storage import Ref
from bmi.errors import BmiError, CancelledError, InvalidImageError
from bmi.image import formats
from bmi.image.bootable import build_boot as build_boot_artefacts
from bmi.image.convert import convert, probe
from bmi.image.fetch import FetchRules, fetch
from bmi.store import operations as journal
from bmi.store import quotas, records
from bmi.workflow.engine import Context, Outcome, StepType
from bmi.workflow.room import require_room
from bmi.workflow.tools import Tools

_GIB = 1 << 30
_LONG_S = 3600
# Far more than image.convert_timeout_s and image.url_timeout_s, which end a step before.
_UNBOUNDED_S = 48 * 3600
# A connection that is lost is taken up again where it broke off.
_FETCH_ATTEMPTS = 10
_LOOK_EVERY_S = 2
_ANOTHER_FILE = "Give the file of a whole disk."


def fetch_image(ctx: Context) -> Json:
    """What is behind the URL becomes the file that is converted; a fetch that was killed goes on."""
    tools, args = ctx.tools, ctx.operation.args
    tools.uploads_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    rules = FetchRules(
        max_bytes=tools.max_image_bytes,
        allow_http=tools.url_allow_http,
        allowed_networks=tools.url_networks,
        timeout_s=tools.url_timeout_s,
    )
    fetched = fetch(
        tools.vault.open(args["sealed_url"]),
        tools.upload_path(ctx.operation.subject_id),
        rules,
        sha256=args["sha256"] or "",
        progress=_unless_cancelled(ctx),
    )
    return {"size_bytes": fetched.size_bytes, "sha256": fetched.sha256}


def _unless_cancelled(ctx: Context) -> Callable[[int, int | None], None]:
    """Ends what takes hours when the operation is cancelled."""
    looked_at = time.monotonic()

    def look(_done: int, _total: int | None) -> None:
        nonlocal looked_at
        if time.monotonic() - looked_at < _LOOK_EVERY_S:
            return
        looked_at = time.monotonic()
        with ctx.tools.database.read() as tx:
            if journal.operations.get(tx, ctx.operation.id).cancel_requested:
                raise CancelledError("The operation was cancelled.")

    return look


def forget_upload(ctx: Context) -> None:
    ctx.tools.upload_path(ctx.operation.subject_id).unlink(missing_ok=True)


def convert_image(ctx: Context) -> Json:
    """The file becomes a raw sparse disk inside the store; it is not an image yet."""
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
    if formats.compression(upload):
        # How much a compressed one needs shows while it is unpacked.
        require_room(tools, upload.stat().st_size)
    else:
        found = probe(upload)
        if found.virtual_size_bytes > tools.max_image_bytes:
            raise InvalidImageError(
                f"{upload.name} declares a disk of {found.virtual_size_bytes / _GIB:.0f} GiB; "
                f"at most {tools.max_image_bytes / _GIB:.0f} GiB are accepted.",
                remedy="Shrink it, or raise image.max_size_gib.",
            )
        count_size(ctx, found.virtual_size_bytes)
        require_room(tools, found.allocated_bytes)
    tools.work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    done = convert(
        upload,
        tools.storage.staging_path(ctx.operation.subject_id),
        timeout_s=tools.convert_timeout_s,
        max_size_bytes=tools.max_image_bytes,
        work_dir=tools.work_dir,
        keep_free_bytes=int(tools.reserve_gib * _GIB),
    )
    count_size(ctx, done.size_bytes)
    packed = f"+{done.compression}" if done.compression else ""
    return {"format": f"{done.format}{packed}", "size_bytes": done.size_bytes}


def count_size(ctx: Context, size_bytes: int) -> None:
    """Writes down the size of the disk as soon as it is known, once, if the project's quota allows it."""
    with ctx.tools.database.write() as tx:
        image = records.images.get(tx, ctx.operation.subject_id, lock=True)
        if image.size_bytes is None:
            quotas.require(tx, image.project_id, quotas.Amount(image_bytes=size_bytes))
            records.images.update(tx, id=image.id, values={"size_bytes": size_bytes})


def undo_convert(ctx: Context) -> None:
    ctx.tools.storage.discard_staging(ctx.operation.subject_id)
    forget_upload(ctx)


def build_boot(ctx: Context) -> Json:
    return boot_of(ctx, ctx.tools.storage.staging_path(ctx.operation.subject_id))


def boot_of(ctx: Context, disk: Path) -> Json:
    """Makes what clones of the raw disk boot with."""
    tools = ctx.tools
    prepare_places(tools)
    boot_dir = tools.boot_dir(ctx.operation.subject_id)
    return asdict(build_boot_artefacts(disk, boot_dir, work_dir=tools.work_dir))


def prepare_places(tools: Tools) -> None:
    for directory in (tools.work_dir, tools.boots_dir):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def commit_image(ctx: Context) -> Json:
    size_bytes = ctx.tools.storage.commit_image(ctx.operation.subject_id)
    forget_upload(ctx)
    return {"size_bytes": size_bytes}


def _doomed(ctx: Context) -> list[str]:
    """The images that the operation is about: several versions are deleted as one."""
    ids: list[str] = ctx.operation.args.get("image_ids", [ctx.operation.subject_id])
    return ids


def delete_image(ctx: Context) -> Json:
    for image_id in _doomed(ctx):
        ctx.tools.storage.delete(Ref("image", image_id))
    return {}


def delete_boot(ctx: Context) -> Json:
    """What lies beside the image as files: boot artefacts and prepared downloads."""
    for image_id in _doomed(ctx):
        shutil.rmtree(ctx.tools.boot_dir(image_id), ignore_errors=True)
        for path in ctx.tools.downloads_dir.glob(f"{image_id}.*"):
            path.unlink(missing_ok=True)
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
    StepType(
        "fetch_image",
        fetch_image,
        forget_upload,
        attempts=_FETCH_ATTEMPTS,
        backoff_s=1,
        timeout_s=_UNBOUNDED_S,
    ),
    StepType("convert_image", convert_image, undo_convert, timeout_s=_UNBOUNDED_S, patient=True),
    StepType("build_boot", build_boot, delete_boot, timeout_s=_LONG_S),
    StepType("commit_image", commit_image, delete_image, timeout_s=_LONG_S, patient=True),
    StepType("delete_image", delete_image, why="what is deleted is gone", patient=True),
    StepType("delete_boot", delete_boot, why="what is deleted is gone"),
    StepType("snapshot_volume", snapshot_volume, undo_snapshot, patient=True),
    StepType("delete_snapshot", delete_snapshot, why="what is deleted is gone", patient=True),
)


def _imported(tx: Connection, operation: Operation, results: Mapping[str, Json], _now: float) -> None:
    values = {
        "state": ObjectState.READY,
        "format": results["convert_image"]["format"],
        "size_bytes": results["commit_image"]["size_bytes"],
        **boot_values(results["build_boot"]),
    }
    if "fetch_image" in results:
        values["sha256"] = results["fetch_image"]["sha256"]
    records.images.update(tx, id=operation.subject_id, values=values)


def boot_values(boot: Json) -> Json:
    """What is known of an image once its disk was looked at."""
    return {"boot": boot, "os_name": boot.get("os_name") or None}


def not_made(tx: Connection, operation: Operation, _error: BmiError, _now: float) -> None:
    records.images.delete(tx, id=operation.subject_id)


def _image_gone(tx: Connection, operation: Operation, _results: Mapping[str, Json], _now: float) -> None:
    for image_id in operation.args.get("image_ids", [operation.subject_id]):
        records.images.delete(tx, id=image_id)


def _snapshot_gone(tx: Connection, operation: Operation, _results: Mapping[str, Json], _now: float) -> None:
    records.snapshots.delete(tx, id=operation.subject_id)


def stays(_tx: Connection, _operation: Operation, _outcome: object, _now: float) -> None:
    """The row is as it was; what could not be deleted stays in `deleting`, and a retry goes on."""


OUTCOMES = {
    "import-image": Outcome(_imported, not_made),
    "fetch-image": Outcome(_imported, not_made),
    "delete-image": Outcome(_image_gone, stays),
    "delete-snapshot": Outcome(_snapshot_gone, stays),
}
