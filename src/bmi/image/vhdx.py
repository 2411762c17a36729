"""Reading of VHDX metadata (Hyper-V): whether the file is one whole disk that was closed in order.

Layout from Microsoft's [MS-VHDX]. Numbers are little-endian.
"""

import struct
import uuid
from pathlib import Path
from typing import BinaryIO

from bmi.image.layout import (
    Blocks,
    Layout,
    damaged,
    incomplete,
    numbers,
    read_at,
    require_plausible,
    truncated,
)

MAGIC = b"vhdxfile"

_MIB = 1 << 20
_HEADERS = (64 << 10, 128 << 10)
_HEADER = struct.Struct(
    "<4sIQ16s16s16s"
)  # signature, checksum, sequence number, three ids; the last: its log's
_REGIONS = (192 << 10, 256 << 10)
_TABLE = struct.Struct("<4sII")  # signature, checksum, entries
_REGION = struct.Struct("<16sQII")  # id, offset, length, required
_METADATA_TABLE = struct.Struct("<8sHH")  # signature, reserved, entries
_ITEM = struct.Struct("<16sIII4x")  # id, offset, length, flags
_BAT = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08").bytes_le
_METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_FILE_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_DISK_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
_SECTOR_SIZE = uuid.UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f").bytes_le
_PARENT = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").bytes_le
_HAS_PARENT = 2
_MAX_ENTRIES = 2047
_PRESENT = {6, 7}  # fully; in part, which only a difference can be
_OFFSET_MASK = ~(_MIB - 1)
_BLOCKS_OF_BITMAP = 1 << 23  # sectors that one sector bitmap block describes


def inspect(path: Path, max_size_bytes: int) -> Layout:
    """What `path` holds; InvalidImageError for a difference to another image, a truncated or a damaged one."""
    length = path.stat().st_size
    with path.open("rb") as file:
        _require_closed(path, file)
        regions = _regions(path, file)
        if not {_BAT, _METADATA} <= regions.keys():
            raise damaged(path, "VHDX", "its region table lacks what every such image has")
        items = _items(path, file, regions[_METADATA][0])
        if _PARENT in items or items[_FILE_PARAMETERS] >> 32 & _HAS_PARENT:
            raise incomplete(path, "is only the difference to another VHDX image, its parent")
        size, sector, block = items[_DISK_SIZE], items[_SECTOR_SIZE], items[_FILE_PARAMETERS] & 0xFFFF_FFFF
        require_plausible(path, size, max_size_bytes)
        if sector not in {512, 4096} or block.bit_count() != 1 or not _MIB <= block <= 256 * _MIB:
            raise damaged(path, "VHDX", "its sizes of sectors or blocks cannot be")
        blocks = -(-size // block)
        ratio = _BLOCKS_OF_BITMAP * sector // block  # after so many entries comes one of a bitmap
        entries = blocks + (blocks - 1) // ratio
        offset, room = regions[_BAT]
        if entries * 8 > room:
            raise damaged(path, "VHDX", "its block table is too small for its disk")
        table = numbers(file, offset, entries, "Q", "little")
    if len(table) < entries:
        raise truncated(path)
    if ratio < entries:
        del table[ratio :: ratio + 1]
    used = Blocks(path, "VHDX", length)
    used.add((entry & _OFFSET_MASK for entry in table if entry & 7 in _PRESENT), block)
    return Layout(size, used.count * block)


def _require_closed(path: Path, file: BinaryIO) -> None:
    headers = [raw for at in _HEADERS if (raw := read_at(file, at, _HEADER.size)).startswith(b"head")]
    known = [_HEADER.unpack(raw) for raw in headers if len(raw) == _HEADER.size]
    if not known:
        raise damaged(path, "VHDX", "it has no header")
    *_, log = max(known, key=lambda header: header[2])
    if log != bytes(16):
        raise damaged(path, "VHDX", "it was not closed in order, so that parts of it are only in its log")


def _regions(path: Path, file: BinaryIO) -> dict[bytes, tuple[int, int]]:
    """Offset and length of each region by its id."""
    for at in _REGIONS:
        raw = read_at(file, at, 64 << 10)
        if raw.startswith(b"regi") and len(raw) == 64 << 10:
            _, _, count = _TABLE.unpack_from(raw)
            found = [_REGION.unpack_from(raw, 16 + n * _REGION.size) for n in range(min(count, _MAX_ENTRIES))]
            return {region: (offset, size) for region, offset, size, _ in found}
    raise damaged(path, "VHDX", "it has no region table")


def _items(path: Path, file: BinaryIO, at: int) -> dict[bytes, int]:
    """The values of the metadata items by their ids, as numbers."""
    raw = read_at(file, at, 64 << 10)
    if not raw.startswith(b"metadata") or len(raw) < 64 << 10:
        raise damaged(path, "VHDX", "it has no metadata")
    _, _, count = _METADATA_TABLE.unpack_from(raw)
    found = {}
    for n in range(min(count, _MAX_ENTRIES)):
        item, offset, size, _ = _ITEM.unpack_from(raw, 32 + n * _ITEM.size)
        found[item] = int.from_bytes(read_at(file, at + offset, min(size, 8)), "little")
    if not {_FILE_PARAMETERS, _DISK_SIZE, _SECTOR_SIZE} <= found.keys():
        raise damaged(path, "VHDX", "its metadata lack what every such image has")
    return found
