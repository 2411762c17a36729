"""What the readers of all image formats share: refusals, tables of numbers, and adding up what they point to."""

import os
import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from bmi.errors import InvalidImageError

SECTOR_BYTES = 512
UNUSED_32 = 0xFFFF_FFFF
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Layout:
    """The disk that an image file describes, and the most that its data takes as a raw file, in bytes."""

    size_bytes: int
    allocated_bytes: int


def require_plausible(path: Path, size_bytes: int, max_size_bytes: int) -> None:
    if not 0 < size_bytes <= max_size_bytes:
        raise InvalidImageError(
            f"{path.name} declares a disk of {size_bytes} bytes; between 1 and {max_size_bytes} are accepted.",
        )


def damaged(path: Path, kind: str, what: str) -> InvalidImageError:
    """`what` goes on after "its" or names the part that cannot be."""
    return InvalidImageError(
        f"{path.name} is a damaged {kind} image: {what}.",
        remedy="Download or copy it again and compare its checksum.",
    )


def truncated(path: Path) -> InvalidImageError:
    return InvalidImageError(
        f"{path.name} is truncated: parts of the disk that it describes are missing.",
        remedy="Download or copy it again and compare its checksum.",
    )


def incomplete(path: Path, why: str) -> InvalidImageError:
    """For an image that lives off other files; `why` is a predicate."""
    return InvalidImageError(
        f"{path.name} {why}.",
        remedy="Make one complete file of it where the others are: qemu-img convert -O qcow2 FILE COMPLETE.qcow2",
    )


def read_at(file: BinaryIO, offset: int, length: int) -> bytes:
    """Up to `length` bytes; fewer, or none, when the file ends before."""
    if not 0 <= offset < os.fstat(file.fileno()).st_size:  # nor may it be more than the kernel takes
        return b""
    file.seek(offset)
    return file.read(length)


def numbers(
    file: BinaryIO, offset: int, count: int, code: Literal["I", "Q"], order: Literal["little", "big"]
) -> "array[int]":
    """Up to `count` unsigned numbers of 32 (I) or 64 (Q) bits; fewer when the file ends."""
    width = array(code).itemsize
    raw = read_at(file, offset, count * width)
    table = array(code, raw[: len(raw) // width * width])
    if order != sys.byteorder:
        table.byteswap()
    return table


class Blocks:
    """Adds up the blocks that an image's tables point to; refuses those outside the file or in one place.

    Otherwise a small file whose tables name the same block again and again would fill the disk.
    """

    def __init__(self, path: Path, kind: str, length: int) -> None:
        self._path, self._kind, self._length = path, kind, length
        self._used = 0
        self.count = 0

    def add(self, starts: Iterable[int], block_bytes: int) -> None:
        """Blocks by where they start; `block_bytes` is the least that each takes in the file."""
        found = list(starts)
        for first in range(0, len(found), _CHUNK):
            part = found[first : first + _CHUNK]
            if max(part) + block_bytes > self._length:
                raise truncated(self._path)
            self._used += len(part) * block_bytes
            if len(set(part)) < len(part) or self._used > self._length:
                raise damaged(self._path, self._kind, "several parts of the disk lie in the same place")
        self.count += len(found)
