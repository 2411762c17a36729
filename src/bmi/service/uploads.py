"""Files on their way in, piece by piece; the bytes themselves are the API's business."""

from pathlib import Path

from bmi.domain.names import sha256 as checked_sha256
from bmi.domain.nouns import Actor, Upload
from bmi.errors import ForbiddenError, InvalidInputError, NotFoundError, TooLargeError
from bmi.service.core import Core
from bmi.store import records
from bmi.store.ids import new_id

_MAX_FILE_NAME = 200


def uploads_dir(core: Core) -> Path:
    """Where the API keeps what has come; the files are called by their uploads' ids."""
    return core.settings.server.data_dir / "uploads"


def new_upload_id() -> str:
    """An id for a file that is about to be uploaded in one piece."""
    return new_id()


def file_name(said: str) -> str:
    """What a person calls the file, without its directories: for showing only."""
    name = "".join(c for c in said.replace("\\", "/").rpartition("/")[2] if c.isprintable())
    return name[:_MAX_FILE_NAME] or "upload"


def check_size(core: Core, size_bytes: int) -> None:
    """Refuses what is no image by its size. Raises TooLargeError or InvalidInputError."""
    limit = core.settings.image.max_size_gib << 30
    if size_bytes > limit:
        raise TooLargeError(
            f"The file is larger than {limit >> 30} GiB.", remedy="Shrink it, or raise image.max_size_gib."
        )
    if size_bytes < 1:
        raise InvalidInputError("Upload-Length", "the file is empty.", remedy="Send a disk image.")


def create_upload(
    core: Core, actor: Actor, size_bytes: int, *, name: str = "", sha256: str | None = None
) -> Upload:
    """A file of `size_bytes` that will come in pieces, from this token alone. With `sha256` its bytes are
    checked when all have come.
    """
    if actor.token_id is None:
        raise ForbiddenError("An upload needs a token that it belongs to.", remedy="Use a token.")
    check_size(core, size_bytes)
    with core.write() as tx:
        now = core.now()
        upload = Upload(
            id=new_id(),
            token_id=actor.token_id,
            file_name=file_name(name),
            size_bytes=size_bytes,
            expected_sha256=checked_sha256(sha256) if sha256 else None,
            sha256=None,
            created_at=now,
            expires_at=now + core.settings.image.transfer_lifetime_s,
        )
        return records.uploads.insert(tx, upload)


def get_upload(core: Core, actor: Actor, upload_id: str) -> Upload:
    """An upload of this very token that has not expired."""
    with core.database.read() as tx:
        found = records.uploads.find(tx, id=upload_id, token_id=actor.token_id)
    if found is None or found.expires_at <= core.now():
        raise NotFoundError(
            "upload", upload_id, remedy="Begin again: it has ended, expired, or belongs to another token."
        )
    return found


def note_progress(core: Core, upload: Upload, *, sha256: str | None = None) -> Upload:
    """Bytes have come: the upload lives on. `sha256` is given when they were the last ones."""
    expires_at = core.now() + core.settings.image.transfer_lifetime_s
    with core.write() as tx:
        # An older request that only now notices its end must not take the checksum back.
        values = {"expires_at": expires_at} | ({"sha256": sha256} if sha256 else {})
        records.uploads.update(tx, id=upload.id, values=values)
        return records.uploads.get(tx, upload.id)


def delete_upload(core: Core, actor: Actor, upload_id: str) -> None:
    """Forgets an upload; whoever calls this removes the file."""
    upload = get_upload(core, actor, upload_id)
    with core.write() as tx:
        records.uploads.delete(tx, id=upload.id)
