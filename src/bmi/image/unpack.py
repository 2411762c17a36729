"""Undoing compression: gzip, xz and zstd run confined, and what they give is written sparse and within limits."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bmi.errors import DriverError, InsufficientSpaceError, InvalidImageError, TimedOutError
from bmi.image.confined import confined, require_confined
from bmi.image.formats import Compression

# Memory beyond which a file was made to hurt: xz -9 needs 65 MiB, zstd up to --ultra -22 128 MiB.
_PROGRAMS: dict[Compression, list[str]] = {
    "gzip": ["gzip", "-dc"],
    "xz": ["xz", "-dc", "--format=xz", "--memlimit-decompress=256MiB"],
    "zstd": ["zstd", "-dcq", "--memory=128MiB"],
}
_MEMORY_BYTES = 1 << 30
_HOLE_BYTES = 64 << 10
_PIPE_BYTES = 1 << 20
_LOOK_EVERY_BYTES = 64 << 20
# A disk's data, zeros aside, never becomes so much smaller; a bomb does.
_MAX_RATIO = 256
_ALWAYS_ALLOWED_BYTES = 64 << 20


@dataclass(frozen=True)
class Limits:
    """What unpacking may take: the disk's size, and what must stay free on the file system written to."""

    max_size_bytes: int
    keep_free_bytes: int


@contextmanager
def unpacked(source: Path, compression: Compression, *, timeout_s: float) -> Iterator[IO[bytes]]:
    """A stream of the bytes that `source` holds. Raises InvalidImageError at the end of the context when the
    file is damaged, truncated or has something behind its end, and TimedOutError after `timeout_s`.
    """
    command = confined(_PROGRAMS[compression], memory_bytes=_MEMORY_BYTES)
    with source.open("rb") as packed:
        try:
            program = subprocess.Popen(
                command,
                stdin=packed,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=_PIPE_BYTES,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise DriverError(
                f"The program {command[0]} is not installed.",
                retryable=False,
                remedy="Install the package bubblewrap (script/setup installs all that is needed).",
            ) from error
    expired = threading.Event()

    def _expire() -> None:
        expired.set()
        _kill(program)

    alarm = threading.Timer(timeout_s, _expire)
    alarm.start()
    with program:  # closes the pipes and waits
        try:
            assert program.stdout is not None and program.stderr is not None  # noqa: S101, PT018  PIPE was asked for
            yield program.stdout
            said = program.stderr.read(2000).decode("utf-8", "replace").strip()
            code = program.wait()
        finally:
            alarm.cancel()
            _kill(program)
    if expired.is_set():
        raise TimedOutError(f"{source.name} was not unpacked within {timeout_s:g} s.")
    if code:
        require_confined(compression, said)
        raise _reason(source, compression, said)


def _kill(program: subprocess.Popen[bytes]) -> None:
    """With its whole group: bubblewrap killed while it starts leaves a child that holds the pipes."""
    if program.poll() is None:
        os.killpg(program.pid, signal.SIGKILL)


def write_sparse(
    stream: IO[bytes], target: IO[bytes], *, source: Path, head: bytes = b"", limits: Limits
) -> int:
    """Writes `head` and the rest of `stream` to the empty file `target`, long zeros as holes; returns its size.

    `source` is the file it was packed in. Raises InvalidImageError for more than the limits or for a
    compression bomb, InsufficientSpaceError when little room is left.
    """
    allowed_bytes = max(_ALWAYS_ALLOWED_BYTES, _MAX_RATIO * source.stat().st_size)
    zeros = bytes(_HOLE_BYTES)
    size = written = 0
    look_at = 0
    piece = head or stream.read(_HOLE_BYTES)
    while piece:
        if size + len(piece) > limits.max_size_bytes:
            raise InvalidImageError(
                f"{source.name} unpacks to more than {limits.max_size_bytes} bytes, the most that is accepted."
            )
        if piece != zeros[: len(piece)]:
            if written >= look_at:
                _require_room(target, limits)
                look_at = written + _LOOK_EVERY_BYTES
            target.seek(size)
            target.write(piece)
            written += len(piece)
            if written > allowed_bytes:
                raise InvalidImageError(
                    f"{source.name} is a compression bomb: its {source.stat().st_size} bytes unpack to more than "
                    f"{_MAX_RATIO} times as many that are not zeros.",
                    remedy="Give the file uncompressed, or as qcow2.",
                )
        size += len(piece)
        piece = stream.read(_HOLE_BYTES)
    target.truncate(size)
    return size


def _require_room(target: IO[bytes], limits: Limits) -> None:
    found = os.fstatvfs(target.fileno())
    free_bytes = found.f_bavail * found.f_frsize
    if free_bytes - _LOOK_EVERY_BYTES < limits.keep_free_bytes:
        raise InsufficientSpaceError(
            f"Unpacking the image would leave less than {limits.keep_free_bytes >> 20} MiB free.",
            remedy="Delete volumes, snapshots or images that nobody needs, or enlarge the disk.",
        )


def _reason(source: Path, compression: Compression, said: str) -> InvalidImageError:
    last = said.splitlines()[-1] if said else "no reason given"
    if "memory" in last.lower():
        return InvalidImageError(
            f"{source.name} was compressed so that unpacking it takes more memory than BMI gives.",
            remedy=f"Compress it anew with an ordinary level: {compression} -9.",
        )
    why = "something follows its end" if "trailing garbage" in said else last
    return InvalidImageError(
        f"{source.name} is damaged or truncated: {compression} cannot unpack it ({why.rstrip('.')}).",
        remedy="Download or copy it again and compare its checksum.",
    )
