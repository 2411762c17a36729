"""The bytes of resumable uploads: appended as they come, kept when the connection breaks."""

import hashlib
import os
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from anyio.to_thread import run_sync
from fastapi import Request
from starlette.requests import ClientDisconnect

from bmi.api.uploads import BATCH_BYTES, no_room
from bmi.errors import BusyError, ConflictError, TooLargeError

_READ_BYTES = 1 << 20
# Sums of uploads that are under way; one that is not among them is made again from the file.
_MAX_SUMS = 1000


class Intake:
    """The files of the uploads of one server. The newest request for an upload is the one that writes: the
    one before may hang on a connection that is long dead.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._writers: dict[str, Writer] = {}
        self._sums: dict[str, tuple[int, hashlib._Hash]] = {}

    def offset(self, upload_id: str) -> int:
        """How many bytes have come."""
        try:
            return (self._directory / upload_id).stat().st_size
        except FileNotFoundError:
            return 0

    def remove(self, upload_id: str) -> None:
        """Forgets what has come."""
        with self._lock:
            self._writers.pop(upload_id, None)
            self._sums.pop(upload_id, None)
        (self._directory / upload_id).unlink(missing_ok=True)

    def writer(self, upload_id: str, offset: int, size_bytes: int) -> "Writer":
        """Goes on with a file at `offset`; raises ConflictError, with the right one, when it is not its end."""
        with self._lock:
            have = self.offset(upload_id)
            if offset != have:
                raise ConflictError(
                    f"The upload is at offset {have}, not at {offset}.",
                    remedy="Ask with HEAD where to go on.",
                    offset=have,
                )
            writer = Writer(self, self._directory / upload_id, have, size_bytes)
            self._writers[upload_id] = writer
            return writer

    def is_current(self, writer: "Writer") -> bool:
        with self._lock:
            return self._writers.get(writer.upload_id) is writer

    def take_sum(self, path: Path, offset: int) -> "hashlib._Hash":
        """The checksum of the first `offset` bytes, to go on with."""
        with self._lock:
            summed, found = self._sums.pop(path.name, (-1, hashlib.sha256()))
        if summed == offset:
            return found
        fresh = hashlib.sha256()
        if offset:
            with path.open("rb") as file:
                while offset and (data := file.read(min(_READ_BYTES, offset))):
                    fresh.update(data)
                    offset -= len(data)
        return fresh

    def end(self, writer: "Writer", checksum: "hashlib._Hash") -> None:
        with self._lock:
            if self._writers.get(writer.upload_id) is not writer:
                return
            del self._writers[writer.upload_id]
            self._sums[writer.upload_id] = (writer.position, checksum)
            while len(self._sums) > _MAX_SUMS:
                del self._sums[next(iter(self._sums))]


class Writer:
    """One request's turn at a file. What was written stays, however the turn ends."""

    def __init__(self, intake: Intake, path: Path, offset: int, size_bytes: int) -> None:
        self._intake = intake
        self._path = path
        self._size_bytes = size_bytes
        self.upload_id = path.name
        self.position = offset
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._sum: hashlib._Hash | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        if self._sum is not None:
            self._intake.end(self, self._sum)

    @property
    def is_complete(self) -> bool:
        return self.position == self._size_bytes

    def finish(self) -> str:
        """Makes the whole file durable; returns its checksum."""
        checksum = self._checksum()
        try:
            os.fsync(self._file)
        except OSError as error:
            raise no_room(error) from error
        return checksum.hexdigest()

    def write(self, data: bytes) -> None:
        """Appends; raises InsufficientSpaceError, TooLargeError, or BusyError when a newer request has come."""
        if self.position + len(data) > self._size_bytes:
            raise TooLargeError(
                f"More bytes came than the {self._size_bytes} that were announced.", remedy="Begin again."
            )
        checksum = self._checksum()
        if not self._intake.is_current(self):
            raise BusyError("A newer request goes on with this upload.", remedy="Let it.")
        rest = memoryview(data)
        try:
            while rest:
                written = os.pwrite(self._file, rest, self.position)
                checksum.update(rest[:written])
                rest = rest[written:]
                self.position += written
        except OSError as error:
            raise no_room(error) from error

    def _checksum(self) -> "hashlib._Hash":
        if self._sum is None:
            self._sum = self._intake.take_sum(self._path, self.position)
        return self._sum


async def receive(request: Request, writer: Writer) -> None:
    """Writes the body as it comes; what came before the connection broke is kept."""
    batch = bytearray()
    try:
        async for chunk in request.stream():
            batch += chunk
            if len(batch) >= BATCH_BYTES:
                taken, batch = bytes(batch), bytearray()
                await run_sync(writer.write, taken)
    except ClientDisconnect:
        with suppress(BusyError):
            await run_sync(writer.write, bytes(batch))
        raise
    await run_sync(writer.write, bytes(batch))
