"""Reading of VMDK metadata (VMware): whether the file is one whole disk, sparse or stream-optimised.

Layout from VMware's Virtual Disk Format 5.0. Numbers are little-endian, positions are in sectors.
"""

import re
import struct
from pathlib import Path
from typing import BinaryIO

from bmi.errors import InvalidImageError
from bmi.image.layout import (
    SECTOR_BYTES,
    Blocks,
    Layout,
    damaged,
    incomplete,
    numbers,
    read_at,
    require_plausible,
    truncated,
)

MAGIC = b"KDMV"
DESCRIPTOR = b"# Disk DescriptorFile"

# magic, version, flags, capacity, grain size, descriptor position, its size, entries of a grain table,
# redundant directory, grain directory, overhead, unclean, line ends, compression
_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
_AT_END = 0xFFFF_FFFF_FFFF_FFFF
_FOOTER_OFFSET = -1024
_COMPRESSED = 1 << 16
_MARKER = struct.Struct("<QI")  # of a compressed grain: its place on the disk, its bytes
_MAX_DESCRIPTOR_SECTORS = 128
_ZEROS = 1  # a table entry for a grain that reads as zeros
_SETTING = re.compile(r'^\s*(\w+)\s*=\s*"?([^"\n]*)"?\s*$', re.MULTILINE)
_EXTENT = re.compile(r"^\s*(?:RW|RDONLY|NOACCESS)\s+(.*)$", re.MULTILINE)
_OWN_EXTENT = re.compile(r'\d+\s+SPARSE\s+"[^"/\\:]+"\s*')
_KINDS = {"monolithicSparse", "streamOptimized"}


def inspect(path: Path, max_size_bytes: int) -> Layout:
    """What `path` holds; InvalidImageError for one that refers to other files, a truncated or a damaged one."""
    length = path.stat().st_size
    with path.open("rb") as file:
        header = _header(path, read_at(file, 0, _HEADER.size))
        _require_alone(path, file, header)
        if header[9] == _AT_END:
            header = _header(path, read_at(file, length + _FOOTER_OFFSET, _HEADER.size))
        _, _, flags, capacity, grain, _, _, per_table, _, directory, *_ = header
        size, grain_bytes = capacity * SECTOR_BYTES, grain * SECTOR_BYTES
        require_plausible(path, size, max_size_bytes)
        if grain.bit_count() != 1 or not 8 <= grain <= 4096 or not 0 < per_table <= 512:
            raise damaged(path, "VMDK", "its sizes of grains or tables cannot be")
        tables = -(-capacity // (grain * per_table))
        positions = numbers(file, directory * SECTOR_BYTES, tables, "I", "little")
        if len(positions) < tables:
            raise truncated(path)
        places, used = Blocks(path, "VMDK", length), Blocks(path, "VMDK", length)
        places.add((at * SECTOR_BYTES for at in positions if at), per_table * 4)
        farthest = 0
        for at in filter(None, positions):
            grains = [e for e in numbers(file, at * SECTOR_BYTES, per_table, "I", "little") if e > _ZEROS]
            used.add((e * SECTOR_BYTES for e in grains), SECTOR_BYTES if flags & _COMPRESSED else grain_bytes)
            farthest = max(farthest, *grains, 0)
        if flags & _COMPRESSED and farthest:
            _require_grain(path, file, farthest * SECTOR_BYTES, length)
    return Layout(size, used.count * grain_bytes)


def _header(path: Path, raw: bytes) -> tuple[int, ...]:
    if len(raw) < _HEADER.size or not raw.startswith(MAGIC):
        raise truncated(path)
    header = _HEADER.unpack(raw)
    if header[1] not in {1, 2, 3} or header[12] != b"\n \r\n":
        raise damaged(path, "VMDK", "its header is damaged or of a version that BMI does not know")
    return header


def _require_alone(path: Path, file: BinaryIO, header: tuple[int, ...]) -> None:
    """Refuses what lives off other files. QEMU follows the descriptor of a file without capacity."""
    _, _, _, capacity, _, position, sectors, *_ = header
    if capacity == 0:
        raise incomplete(path, "is a VMDK image without a disk of its own")
    if position == 0:
        raise incomplete(path, "is only a part of a VMDK image, whose description lies in another file")
    if sectors > _MAX_DESCRIPTOR_SECTORS:
        raise damaged(path, "VMDK", "its description is too long")
    raw = read_at(file, position * SECTOR_BYTES, sectors * SECTOR_BYTES)
    text = raw.split(b"\0", 1)[0].decode("utf-8", "replace")
    settings = {name.lower(): value for name, value in _SETTING.findall(text)}
    if settings.get("parentcid", "ffffffff").lower() != "ffffffff" or "parentfilenamehint" in settings:
        raise incomplete(path, "is only the difference to another VMDK image, its parent")
    extents = _EXTENT.findall(text)
    if len(extents) != 1 or not _OWN_EXTENT.fullmatch(extents[0]):
        raise incomplete(path, "is a VMDK image that keeps its data in other files or devices")
    if settings.get("createtype") not in _KINDS:
        raise InvalidImageError(
            f"{path.name} is a VMDK image of a kind that BMI does not take: {settings.get('createtype', 'none')!r}.",
            remedy="Convert it where it was made: qemu-img convert -O qcow2 FILE COMPLETE.qcow2",
        )


def _require_grain(path: Path, file: BinaryIO, at: int, length: int) -> None:
    """Looks whether the last compressed grain is there to its end."""
    raw = read_at(file, at, _MARKER.size)
    if len(raw) < _MARKER.size or at + _MARKER.size + _MARKER.unpack(raw)[1] > length:
        raise truncated(path)
