"""Where the bytes of a file lie on the disk below it (Linux, Documentation/filesystems/fiemap.rst)."""

import fcntl
import os
import struct
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from bmi.drivers.storage import Extent

_FS_IOC_FIEMAP = 0xC020660B
# struct fiemap: start, length, flags, mapped_extents, extent_count, 4 bytes reserved.
_FIEMAP = struct.Struct("=QQIIII")
# struct fiemap_extent: logical, physical, length, 16 bytes reserved, flags, 12 bytes reserved.
_FIEMAP_EXTENT = struct.Struct("=QQQ16xI12x")
_SYNC = 0x1
_EXTENTS_A_CALL = 1024

_LAST, _UNWRITTEN, _SHARED = 0x1, 0x800, 0x2000
# UNKNOWN, DELALLOC, ENCODED (compressed, encrypted), NOT_ALIGNED, INLINE, TAIL: no block that is theirs alone.
_NO_BLOCKS = 0x2 | 0x4 | 0x8 | 0x100 | 0x200 | 0x400


@dataclass(frozen=True, slots=True)
class Run:
    """A part of a file, in bytes, that lies in one piece on the disk.

    Where the `home` of two files is equal at an offset, they have that block, and so its bytes, in common;
    None means that the part reads as zeros. `shared` says that other files have it too.
    """

    start: int
    end: int
    home: Hashable
    shared: bool


def runs_of(file: int) -> list[Run]:
    """The runs of an open file, ascending, without its holes; what was written is brought to the disk first.

    Raises OSError.
    """
    return list(_runs(file, os.fstat(file).st_size))


def differing(older: Sequence[Run], newer: Sequence[Run], size_bytes: int) -> list[Extent]:
    """Where, in the first `size_bytes`, two files of one file system may differ; elsewhere they do not."""
    edges = {0, size_bytes, *chain.from_iterable((run.start, run.end) for run in chain(older, newer))}
    cuts = sorted(edge for edge in edges if edge <= size_bytes)
    parts = zip(pairwise(cuts), _homes(older, cuts), _homes(newer, cuts), strict=False)
    return merged(Extent(start, end - start) for (start, end), was, now in parts if was != now)


def merged(extents: Iterable[Extent]) -> list[Extent]:
    """The same bytes, for ascending extents, in extents that do not touch each other."""
    found: list[Extent] = []
    for extent in extents:
        if found and extent.offset <= (end := found[-1].offset + found[-1].length):
            longer = max(end, extent.offset + extent.length) - found[-1].offset
            found[-1] = Extent(found[-1].offset, longer)
        else:
            found.append(extent)
    return found


def _runs(file: int, size_bytes: int) -> Iterator[Run]:
    start, flags = 0, 0
    while start < size_bytes and not flags & _LAST:
        call = bytearray(_FIEMAP.size + _EXTENTS_A_CALL * _FIEMAP_EXTENT.size)
        _FIEMAP.pack_into(call, 0, start, size_bytes - start, _SYNC, 0, _EXTENTS_A_CALL, 0)
        fcntl.ioctl(file, _FS_IOC_FIEMAP, call)
        count = _FIEMAP.unpack_from(call)[3]
        if not count:
            return
        for number in range(count):
            place = _FIEMAP.size + number * _FIEMAP_EXTENT.size
            logical, physical, length, flags = _FIEMAP_EXTENT.unpack_from(call, place)
            start = logical + length
            yield Run(logical, start, _home(physical - logical, flags), bool(flags & _SHARED))


def _home(distance: int, flags: int) -> Hashable:
    if flags & _UNWRITTEN:
        return None
    return object() if flags & _NO_BLOCKS else distance  # an object equals nothing but itself


def _homes(runs: Sequence[Run], cuts: Sequence[int]) -> Iterator[Hashable]:
    """What is at each of the ascending offsets `cuts`."""
    ahead = iter(runs)
    run = next(ahead, None)
    for cut in cuts:
        while run and run.end <= cut:
            run = next(ahead, None)
        yield run.home if run and run.start <= cut else None
