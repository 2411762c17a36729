"""Reading of VHD metadata (Virtual PC, Azure): whether the file is one whole disk.

Layout from Microsoft's Virtual Hard Disk Image Format Specification, 1.0. Numbers are big-endian.
"""

import struct
from pathlib import Path

from bmi.image.layout import (
    SECTOR_BYTES,
    UNUSED_32,
    Blocks,
    Layout,
    damaged,
    incomplete,
    numbers,
    read_at,
    require_plausible,
    truncated,
)

MAGIC = b"conectix"

# cookie, features, version, data offset, time, creator, its version and system, original size, current size,
# geometry, disk type, checksum
_FOOTER = struct.Struct(">8sIIQI4sI4sQQIII")
_CHECKSUM = slice(64, 68)
_FIXED, _DYNAMIC, _DIFFERENCE = 2, 3, 4
# cookie, data offset, table offset, version, table entries, block size
_SPARSE = struct.Struct(">8sQQIII")
_MAX_BLOCK_BYTES = 256 << 20


def inspect(path: Path, max_size_bytes: int) -> Layout:
    """What `path` holds; InvalidImageError for a difference to another image, a truncated or a damaged one."""
    length = path.stat().st_size
    with path.open("rb") as file:
        footer = read_at(file, 0, SECTOR_BYTES)
        is_fixed = not footer.startswith(MAGIC)
        if is_fixed:
            footer = read_at(file, length - SECTOR_BYTES, SECTOR_BYTES)
        if len(footer) < SECTOR_BYTES:
            raise truncated(path)
        _, _, version, data_offset, *_, size, _, kind, checksum = _FOOTER.unpack_from(footer)
        if kind == _DIFFERENCE:
            raise incomplete(path, "is only the difference to another VHD image, its parent")
        if kind != (_FIXED if is_fixed else _DYNAMIC) or version >> 16 != 1 or checksum != _sum(footer):
            raise damaged(path, "VHD", "its footer contradicts itself")
        require_plausible(path, size, max_size_bytes)
        if is_fixed:
            if size > length - SECTOR_BYTES:
                raise truncated(path)
            return Layout(size, size)
        header = read_at(file, data_offset, _SPARSE.size)
        if len(header) < _SPARSE.size:
            raise truncated(path)
        cookie, _, table_offset, _, entries, block = _SPARSE.unpack(header)
        needed = -(-size // block) if block else 0
        if (
            cookie != b"cxsparse"
            or block.bit_count() != 1
            or not SECTOR_BYTES <= block <= _MAX_BLOCK_BYTES
            or entries < needed
        ):
            raise damaged(path, "VHD", "its header contradicts itself")
        table = numbers(file, table_offset, needed, "I", "big")
    if len(table) < needed:
        raise truncated(path)
    bitmap_bytes = -(-block // (SECTOR_BYTES * 8) // SECTOR_BYTES) * SECTOR_BYTES
    used = Blocks(path, "VHD", length)
    used.add((entry * SECTOR_BYTES for entry in table if entry != UNUSED_32), bitmap_bytes + block)
    return Layout(size, used.count * block)


def _sum(footer: bytes) -> int:
    return ~(sum(footer) - sum(footer[_CHECKSUM])) & 0xFFFF_FFFF
