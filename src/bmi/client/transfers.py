"""Files to and from a server, going on after broken connections."""

import hashlib
import os
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import httpx

from bmi.client.documents import Upload
from bmi.client.transport import CHUNK_BYTES, Transport, path, read_chunks
from bmi.errors import (
    BmiError,
    ConflictError,
    DriverError,
    InsufficientSpaceError,
    InvalidInputError,
    UnavailableError,
)

Progress = Callable[[int, int], None]

# What one request sends: little enough that a server behind a proxy does not lose much.
_PIECE_BYTES = 64 << 20
# For how long a server that is away is tried again, without a byte getting through.
_PATIENCE_S = 300.0
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.2, 5.0
_HOLE_BYTES = 64 << 10
_TUS = {"Tus-Resumable": "1.0.0"}


def silent(_done: int, _total: int) -> None:
    """For those who need no progress."""


class _Patience:
    """How long a transfer waits for a server that is away."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self.renew()

    def renew(self) -> None:
        """Something has got through."""
        self._deadline, self._pause_s = time.monotonic() + self._patience_s, _FIRST_PAUSE_S

    def wait(self, error: BmiError) -> None:
        """Pauses, ever longer; raises `error` when nothing has got through for too long."""
        if time.monotonic() > self._deadline:
            raise error
        time.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, _MAX_PAUSE_S)


class Transfers(Transport):
    """Uploads and downloads; `patience_s` bounds how long one waits for a server that is away."""

    patience_s = _PATIENCE_S

    # ---- files up -----------------------------------------------------------------------------------

    def upload_file(
        self,
        file: Path,
        *,
        sha256: str | None = None,
        name: str | None = None,
        project: str | None = None,
        on_progress: Progress = silent,
    ) -> str:
        """Sends a file in pieces (tus 1.0.0); returns the upload's id. With `name` the server refuses now what
        it would refuse of an import to that name.
        """
        try:
            size_bytes = file.stat().st_size
            opened = file.open("rb")
        except OSError as error:
            raise InvalidInputError(
                "file", f"{file} cannot be read: {error.strerror}.", remedy="Name a readable disk image."
            ) from error
        with opened:
            upload = self._begin(file, size_bytes, sha256=sha256, name=name, project=project)
            self._send_all(opened, path("uploads", upload["id"]), size_bytes, on_progress)
        return upload["id"]

    def get_upload(self, upload_id: str) -> Upload:
        """An upload of this token, and how much of it has come."""
        return cast("Upload", self._get(path("uploads", upload_id)))

    def delete_upload(self, upload_id: str) -> None:
        """Gives an upload up."""
        self._call("DELETE", path("uploads", upload_id))

    def _begin(self, file: Path, size_bytes: int, **query: str | None) -> Upload:
        headers = {
            **_TUS,
            "Upload-Length": str(size_bytes),
            "Upload-Metadata": f"filename {b64encode(file.name.encode()).decode()}",
        }
        given = {key: value for key, value in query.items() if value is not None}
        answer = self._answer(lambda: self._http.post("/uploads", params=given, headers=headers), again=False)
        return cast("Upload", answer)

    def _send_all(self, opened: BinaryIO, where: str, size_bytes: int, on_progress: Progress) -> None:
        offset, patience = 0, _Patience(self.patience_s)
        # Once even if nothing is left: the server may have stopped right before it was done.
        while True:
            try:
                length = min(_PIECE_BYTES, size_bytes - offset)
                self._send_piece(opened, where, offset, length, size_bytes, on_progress)
                offset += length
                if offset >= size_bytes:
                    return
                patience.renew()
            except (UnavailableError, ConflictError) as error:
                patience.wait(error)
                there = self._offset(where, offset)
                if there > offset:
                    patience.renew()
                offset = there

    def _send_piece(
        self, opened: BinaryIO, where: str, offset: int, length: int, size_bytes: int, on_progress: Progress
    ) -> None:
        headers = {
            **_TUS,
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(length),
            "Upload-Offset": str(offset),
        }

        def content() -> Iterator[bytes]:
            opened.seek(offset)
            for sent, chunk in read_chunks(opened, length):
                yield chunk
                on_progress(offset + sent, size_bytes)

        self._answer(
            lambda: self._http.patch(where, content=content(), headers=headers, timeout=self._sync_timeout),
            again=False,
        )

    def _offset(self, where: str, before: int) -> int:
        """How much the server has, if it can be asked."""
        try:
            return cast("Upload", self._get(where))["offset"]
        except UnavailableError:
            return before

    # ---- files down ---------------------------------------------------------------------------------

    def download_image(
        self,
        name: str,
        file: Path,
        image_format: str = "qcow2",
        *,
        project: str | None = None,
        on_progress: Progress = silent,
    ) -> str:
        """Fetches a prepared image as a sparse file, going on after a broken connection or where an earlier
        call stopped; checks and returns its SHA-256. Raises DriverError when the bytes are not the right ones.
        """
        query = {key: value for key, value in {"format": image_format, "project": project}.items() if value}
        where = path("images", name, "content")
        # A byte of it, and not HEAD, whose refusals do not say why.
        asked = self._answered(
            lambda: self._http.get(where, params=query, headers={"Range": "bytes=0-0"}), again=True
        )
        sha256 = asked.headers["etag"].strip('"')
        size_bytes = int(asked.headers["content-range"].rpartition("/")[2])
        part = file.with_name(f"{file.name}.{sha256[:16]}.part")
        patience = _Patience(self.patience_s)
        try:
            while (have := _length(part)) < size_bytes:
                try:
                    self._fetch_rest(where, query, part, sha256, size_bytes, on_progress)
                except UnavailableError as error:
                    if _length(part) > have:
                        patience.renew()
                    patience.wait(error)
            found = _sha256_of(part)
            if found != sha256:
                part.unlink()
                raise DriverError(
                    f"The file that came has the SHA-256 {found}, not {sha256}.", remedy="Download it again."
                )
            part.rename(file)
        except OSError as error:
            raise InsufficientSpaceError(
                f"{part} cannot be written: {error.strerror}.", remedy="Make room, or choose another place."
            ) from error
        return sha256

    def _fetch_rest(
        self,
        where: str,
        query: dict[str, str],
        part: Path,
        sha256: str,
        size_bytes: int,
        on_progress: Progress,
    ) -> None:
        have = _length(part)
        headers = {"Range": f"bytes={have}-", "If-Range": f'"{sha256}"'}
        with self._streamed("GET", where, params=query, headers=headers) as response:
            if response.status_code != httpx.codes.PARTIAL_CONTENT:
                have = 0
            with part.open("r+b" if part.exists() else "w+b") as file:
                file.truncate(have)
                try:
                    for chunk in response.iter_bytes(CHUNK_BYTES):
                        _write_sparse(file, have, chunk)
                        have += len(chunk)
                        on_progress(have, size_bytes)
                finally:
                    file.truncate(have)


def _length(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _write_sparse(file: BinaryIO, offset: int, data: bytes) -> None:
    """Leaves out what is zero, in whole blocks."""
    view = memoryview(data)
    for start in range(0, len(data), _HOLE_BYTES):
        block = view[start : start + _HOLE_BYTES]
        if any(block):
            os.pwrite(file.fileno(), block, offset + start)


def _sha256_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
