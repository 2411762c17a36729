"""Writing a sparse file of this machine into an RBD image, several objects at a time."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bmi.drivers.storage.ceph_cluster import rbd

# One object, and a depth at which writing is as fast as it gets.
_CHUNK_BYTES = 4 << 20
_IN_FLIGHT = 8
_PAGE_BYTES = 4096


def upload(source: Path, image: Any) -> None:
    """Writes what is not zero in `source`, and returns when all of it is stored. Raises rbd.Error."""
    free = threading.Semaphore(_IN_FLIGHT)
    failed: list[int] = []

    def done(completion: Any) -> None:
        code = completion.get_return_value()
        if code < 0:
            failed.append(-code)
        free.release()

    with source.open("rb", buffering=0) as file:
        for offset, data in _data(file.fileno()):
            free.acquire()
            if failed:
                free.release()
                break
            image.aio_write(data, offset, done)
    for _ in range(_IN_FLIGHT):
        free.acquire()
    if failed:
        raise rbd.OSError(f"error writing ({os.strerror(failed[0])})", errno=failed[0])
    image.flush()


def _data(file: int) -> Iterator[tuple[int, bytes]]:
    """The parts of a file that are not zero, none across the border of an object, with their offsets."""
    start, size_bytes = 0, os.fstat(file).st_size
    while start < size_bytes:
        try:
            start = os.lseek(file, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(file, start, os.SEEK_HOLE)
        while start < end:
            border = min(end, (start // _CHUNK_BYTES + 1) * _CHUNK_BYTES)
            data = os.pread(file, border - start, start)
            if not data:
                return
            yield from _without_zeros_around(start, data)
            start += len(data)


def _without_zeros_around(offset: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    kept = data.rstrip(b"\0")
    if kept:
        first = (len(kept) - len(kept.lstrip(b"\0"))) // _PAGE_BYTES * _PAGE_BYTES
        yield offset + first, kept[first:]
