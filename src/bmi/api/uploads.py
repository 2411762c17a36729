"""Streams a request body to a file that has no name until it is complete."""

import errno
import hashlib
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from anyio.to_thread import run_sync
from fastapi import Request

from bmi.errors import InsufficientSpaceError, InvalidInputError, TooLargeError

_GIB = 1 << 30
# One hop into a thread per MiB instead of one per network packet.
BATCH_BYTES = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Upload:
    """A private file without a name (O_TMPFILE, open(2)): an abort, or a crash, leaves nothing behind."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = os.open(directory, os.O_TMPFILE | os.O_WRONLY, 0o600)
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Appends; raises InsufficientSpaceError."""
        self._hash.update(data)
        self.size_bytes += len(data)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            raise no_room(error) from error

    def keep(self, name: str) -> Path:
        """Makes the file appear under `name`, whole and on the disk."""
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(self._file)
            # Given a directory, Python calls linkat(2) with AT_SYMLINK_FOLLOW, which /proc needs here.
            os.link(f"/proc/self/fd/{self._file}", name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        except OSError as error:
            raise no_room(error) from error
        finally:
            os.close(directory)
        return self._directory / name


def no_room(error: OSError) -> Exception:
    """What to raise for a write that failed."""
    if error.errno not in _FULL:
        return error
    return InsufficientSpaceError(
        "The disk that takes uploads is full.", remedy="Ask an administrator to make room in data_dir."
    )


def check_announced(request: Request, directory: Path, max_bytes: int) -> None:
    """Refuses what cannot end well, from the headers alone. Raises InvalidInputError, TooLargeError or
    InsufficientSpaceError.
    """
    media_type = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip()
    if media_type.lower() != "application/octet-stream":
        raise InvalidInputError(
            "Content-Type", f"{media_type!r} is not known here.", remedy="Use application/octet-stream."
        )
    announced = request.headers.get("content-length", "")
    size_bytes = int(announced) if announced.isdigit() else 0
    _check_size(size_bytes, max_bytes)
    check_room(directory, size_bytes)


def check_room(directory: Path, size_bytes: int) -> None:
    """Refuses what there is no room for. Raises InsufficientSpaceError."""
    free_bytes = shutil.disk_usage(directory).free
    if size_bytes > free_bytes:
        raise InsufficientSpaceError(
            f"The file has {size_bytes / _GIB:.1f} GiB; there is room for {free_bytes / _GIB:.1f} GiB.",
            remedy="Ask an administrator to make room in data_dir.",
        )


def _check_size(size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise TooLargeError(
            f"The file is larger than {max_bytes / _GIB:g} GiB.",
            remedy="Shrink it, or raise image.max_size_gib.",
        )


async def receive(request: Request, upload: Upload, max_bytes: int) -> None:
    """Reads the whole body; raises what `Upload.write` does, TooLargeError, InvalidInputError when there
    is nothing, and ClientDisconnect.
    """
    batch = bytearray()
    async for chunk in request.stream():
        batch += chunk
        if len(batch) >= BATCH_BYTES:
            _check_size(upload.size_bytes + len(batch), max_bytes)
            await run_sync(upload.write, bytes(batch))
            batch.clear()
    _check_size(upload.size_bytes + len(batch), max_bytes)
    await run_sync(upload.write, bytes(batch))
    if not upload.size_bytes:
        raise InvalidInputError("body", "it is empty.", remedy="Send the image file as the request's body.")
