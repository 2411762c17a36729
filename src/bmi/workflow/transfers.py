"""Files on their way in and out that nobody needs any more: uploads and prepared downloads."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from sqlalchemy import select

from bmi.domain.operations import LIVE
from bmi.store import records, schema
from bmi.store.ids import made_at
from bmi.workflow.tools import Tools

# What it is, and how it is removed.
Orphan = tuple[str, Callable[[], object]]


def stale_uploads(tools: Tools, *, grace_s: float) -> Iterator[Orphan]:
    """Files that are no upload's and no image's. A file that comes in one piece is there before its row, and
    no journal tells of it: only its age does. Uploads that have expired are forgotten first.
    """
    now = tools.database.now()
    with tools.database.write() as tx:
        records.uploads.delete(tx, schema.uploads.c.expires_at <= now)
    before = now - grace_s
    listed = {path.name for path in _files(tools.uploads_dir) if (made_at(path.name) or before) < before}
    with tools.database.read() as tx:
        owned = {*tx.scalars(select(schema.uploads.c.id)), *tx.scalars(select(schema.images.c.id))}
    for name in sorted(listed - owned):
        yield f"the upload {name}", partial(tools.upload_path(name).unlink, missing_ok=True)


def stale_downloads(tools: Tools) -> Iterator[Orphan]:
    """Prepared files that nobody fetched for long or whose image is gone, and halves of such files."""
    listed = _files(tools.downloads_dir)
    before = tools.database.now() - tools.transfer_lifetime_s
    with tools.database.read() as tx:
        images = set(tx.scalars(select(schema.images.c.id)))
        live = set(
            tx.scalars(select(schema.operations.c.subject_id).where(schema.operations.c.state.in_(LIVE)))
        )
    for path in listed:
        image_id, part_of = path.name.partition(".")[0], path.name.removeprefix(".").removesuffix(".part")
        is_part = path.name.startswith(".")
        if (is_part and part_of not in live) or (
            not is_part and (image_id not in images or _touched_at(path) < before)
        ):
            yield f"the download {path.name}", partial(path.unlink, missing_ok=True)


def _touched_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []
