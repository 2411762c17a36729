"""Reading of VDI metadata (VirtualBox): whether the file is one whole disk.

Layout from QEMU's block/vdi.c, which documents it best.
"""

import struct
from pathlib import Path

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

OFFSET, MAGIC = 64, b"\x7f\x10\xda\xbe"

# From 64 on: signature, version, header size, type, flags, comment, map offset, data offset, cylinders, heads,
# sectors, sector size, unused, disk size, block size, block extra, blocks, blocks allocated, and the ids of
# this image, its last snapshot, its link and its parent.
_HEADER = struct.Struct("<4sIIII256sIIIIIIIQIIII16s16s16s16s")
_DYNAMIC, _STATIC = 1, 2
_FIRST_UNUSED = 0xFFFF_FFFE  # never written, or given back
_BLOCK_BYTES = 1 << 20  # the only size there is
_NOBODY = bytes(16)


def inspect(path: Path, max_size_bytes: int) -> Layout:
    """What `path` holds; InvalidImageError for a difference to another image, a truncated or a damaged one."""
    length = path.stat().st_size
    with path.open("rb") as file:
        raw = read_at(file, OFFSET, _HEADER.size)
        if len(raw) < _HEADER.size:
            raise truncated(path)
        (
            _,
            version,
            _,
            kind,
            _,
            _,
            map_offset,
            data_offset,
            _,
            _,
            _,
            _,
            _,
            size,
            block,
            extra,
            blocks,
            _,
            *ids,
        ) = _HEADER.unpack(raw)
        _, _, link, parent = ids
        if kind not in {_DYNAMIC, _STATIC} or link != _NOBODY or parent != _NOBODY:
            raise incomplete(path, "is only the difference to another VDI image, its parent")
        require_plausible(path, size, max_size_bytes)
        if version >> 16 != 1 or block != _BLOCK_BYTES or extra or blocks < -(-size // block):
            raise damaged(
                path, "VDI", "its header contradicts itself or is of a version that BMI does not know"
            )
        needed = -(-size // block)
        table = numbers(file, map_offset, needed, "I", "little")
    if len(table) < needed:
        raise truncated(path)
    used = Blocks(path, "VDI", length)
    used.add((data_offset + entry * block for entry in table if entry < _FIRST_UNUSED), block)
    return Layout(size, used.count * block)
