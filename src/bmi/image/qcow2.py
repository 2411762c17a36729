"""Reading of qcow2 metadata: what the file refers to and how many of its bytes it cannot do without.

Layout from QEMU's docs/interop/qcow2.txt. We look ourselves because qemu-img would open a backing file
before one could object, and reads what a truncated file lacks as zeros without a word.
"""

import struct
import sys
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bmi.errors import InvalidImageError

MAGIC = b"QFI\xfb"

# magic, version, backing offset, backing length, cluster bits, size, encryption, L1 entries, L1 offset
_HEADER = struct.Struct(">4sIQIIQIIQ")
_FEATURES_OFFSET = 72
_CORRUPT, _EXTERNAL_DATA, _EXTENDED_L2 = 1 << 1, 1 << 2, 1 << 4
_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_SECTOR_BYTES = 512
_MAX_L1_ENTRIES = 4 << 20  # QEMU's own limit


@dataclass(frozen=True)
class Header:
    """The part of a qcow2 header that decides whether and how the image can be read."""

    size_bytes: int
    cluster_bits: int
    l1_entries: int
    l1_offset: int
    backing_offset: int
    encryption: int
    features: int

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits


def read_header(path: Path) -> Header:
    """The header of the qcow2 file `path`; InvalidImageError if it is none that we can read."""
    with path.open("rb") as file:
        raw = file.read(_FEATURES_OFFSET + 8)
    if len(raw) < _FEATURES_OFFSET:
        raise _truncated(path)
    magic, version, backing, _, cluster_bits, size, encryption, l1_entries, l1_offset = _HEADER.unpack_from(
        raw
    )
    if magic != MAGIC or version not in {2, 3} or not 9 <= cluster_bits <= 21 or l1_entries > _MAX_L1_ENTRIES:
        raise InvalidImageError(
            f"{path.name} has a damaged qcow2 header or one of a version that BMI does not know."
        )
    features = int.from_bytes(raw[_FEATURES_OFFSET:], "big") if version == 3 else 0
    return Header(size, cluster_bits, l1_entries, l1_offset, backing, encryption, features)


def require_self_contained(path: Path, header: Header) -> None:
    """Refuses an image that needs another file, a key, or repair."""
    if header.backing_offset:
        raise InvalidImageError(
            f"{path.name} is only the difference to another file, its backing file.",
            remedy="Merge the two: qemu-img convert -O qcow2 FILE COMPLETE.qcow2",
        )
    if header.features & _EXTERNAL_DATA:
        raise InvalidImageError(
            f"{path.name} keeps its data in another file.",
            remedy="Merge the two: qemu-img convert -O qcow2 FILE COMPLETE.qcow2",
        )
    if header.encryption:
        raise InvalidImageError(
            f"{path.name} is encrypted.", remedy="Decrypt it first with qemu-img convert, giving it the key."
        )
    if header.features & _CORRUPT:
        raise InvalidImageError(
            f"{path.name} is marked as corrupt.", remedy="Repair it first: qemu-img check -r all FILE"
        )


def require_complete(path: Path, header: Header) -> None:
    """Refuses a file that ends before the last cluster its tables point to."""
    length = path.stat().st_size
    with path.open("rb") as file:
        l1_table = _read_table(file, header.l1_offset, header.l1_entries)
        tables = {entry & _OFFSET_MASK for entry in l1_table} - {0}
        for offset in sorted(tables):
            entries = _read_table(file, offset, header.cluster_bytes // 8)
            step = 2 if header.features & _EXTENDED_L2 else 1
            if len(entries) * 8 < header.cluster_bytes or _needed_bytes(entries[::step], header) > length:
                raise _truncated(path)
    if len(l1_table) < header.l1_entries:
        raise _truncated(path)


def _read_table(file: BinaryIO, offset: int, entries: int) -> "array[int]":
    """Up to `entries` big-endian 64-bit numbers; fewer when the file ends."""
    file.seek(offset)
    raw = file.read(entries * 8)
    table = array("Q", raw[: len(raw) // 8 * 8])
    if sys.byteorder == "little":
        table.byteswap()
    return table


def _needed_bytes(entries: "array[int]", header: Header) -> int:
    """Where the farthest cluster of one L2 table ends."""
    offset_bits = 62 - (header.cluster_bits - 8)
    plain = compressed = 0
    for entry in entries:
        if not entry & _COMPRESSED:
            plain = max(plain, entry & _OFFSET_MASK)
            continue
        start = entry & ((1 << offset_bits) - 1)
        sectors = (entry & (_COMPRESSED - 1)) >> offset_bits
        # The last sector may be cut where the compressed data ends.
        compressed = max(compressed, (start // _SECTOR_BYTES + sectors) * _SECTOR_BYTES + 1)
    return max(plain + header.cluster_bytes if plain else 0, compressed)


def _truncated(path: Path) -> InvalidImageError:
    return InvalidImageError(
        f"{path.name} is truncated: parts of the disk that it describes are missing.",
        remedy="Download or copy it again and compare its checksum.",
    )
