"""Reading of qcow2 metadata: what the file refers to and how many of its bytes it cannot do without.

Layout from QEMU's docs/interop/qcow2.txt. We look ourselves because qemu-img would open a backing file
before one could object, and reads what a truncated file lacks as zeros without a word.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

from bmi.errors import InvalidImageError
from bmi.image.layout import Blocks, Layout, damaged, incomplete, numbers, require_plausible, truncated

MAGIC = b"QFI\xfb"

# magic, version, backing offset, backing length, cluster bits, size, encryption, L1 entries, L1 offset,
# reference table's offset and clusters, snapshots, their offset
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_FEATURES_OFFSET, _LENGTH_OFFSET = 72, 100
_CORRUPT, _EXTERNAL_DATA, _EXTENDED_L2 = 1 << 1, 1 << 2, 1 << 4
_KNOWN_FEATURES = 0b11111
_OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_SECTOR_BYTES = 512
# QEMU's own limits
_MAX_L1_ENTRIES = 4 << 20
_MAX_REFERENCE_TABLE_BYTES = 8 << 20
_MAX_SNAPSHOTS = 65536
_SNAPSHOT_BYTES = 40  # the least that one takes


@dataclass(frozen=True)
class Header:
    """The part of a qcow2 header that decides whether and how the image can be read."""

    size_bytes: int
    cluster_bits: int
    l1_entries: int
    l1_offset: int
    references_end: int
    snapshots_end: int
    backing_offset: int
    encryption: int
    features: int

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits

    @property
    def bytes_per_table(self) -> int:
        """How much of the disk one L2 table describes."""
        return self.cluster_bytes * self.cluster_bytes // (16 if self.features & _EXTENDED_L2 else 8)


def inspect(path: Path, max_size_bytes: int) -> Layout:
    """What `path` holds; InvalidImageError for an image that needs another file, a key or repair, that is
    truncated, or whose tables contradict its header.
    """
    header = _read_header(path)
    _require_self_contained(path, header)
    require_plausible(path, header.size_bytes, max_size_bytes)  # before its tables are read
    return Layout(header.size_bytes, _allocated_bytes(path, header))


def _read_header(path: Path) -> Header:
    with path.open("rb") as file:
        raw = file.read(_LENGTH_OFFSET + 4)
    if len(raw) < _FEATURES_OFFSET:
        raise truncated(path)
    (magic, version, backing, _, bits, size, encryption, l1_entries, l1_offset, *rest) = _HEADER.unpack_from(
        raw
    )
    references, clusters, snapshots, snapshots_offset = rest
    if magic != MAGIC or version not in {2, 3} or not 9 <= bits <= 21 or l1_entries > _MAX_L1_ENTRIES:
        raise InvalidImageError(
            f"{path.name} has a damaged qcow2 header or one of a version that BMI does not know."
        )
    if clusters << bits > _MAX_REFERENCE_TABLE_BYTES or snapshots > _MAX_SNAPSHOTS:
        raise damaged(path, "qcow2", "its tables are larger than any image needs")
    features = int.from_bytes(raw[_FEATURES_OFFSET : _FEATURES_OFFSET + 8], "big") if version == 3 else 0
    return Header(
        size_bytes=size,
        cluster_bits=bits,
        l1_entries=l1_entries,
        l1_offset=l1_offset,
        references_end=references + (clusters << bits),
        snapshots_end=snapshots_offset + snapshots * _SNAPSHOT_BYTES if snapshots else 0,
        backing_offset=backing,
        encryption=encryption,
        features=features,
    )


def _require_self_contained(path: Path, header: Header) -> None:
    """Refuses an image that needs another file, a key, repair, or a newer reader."""
    if header.backing_offset:
        raise incomplete(path, "is only the difference to another file, its backing file")
    if header.features & _EXTERNAL_DATA:
        raise incomplete(path, "keeps its data in another file")
    if header.encryption:
        raise InvalidImageError(
            f"{path.name} is encrypted.", remedy="Decrypt it first with qemu-img convert, giving it the key."
        )
    if header.features & _CORRUPT:
        raise InvalidImageError(
            f"{path.name} is marked as corrupt.", remedy="Repair it first: qemu-img check -r all FILE"
        )
    if unknown := header.features & ~_KNOWN_FEATURES:
        raise InvalidImageError(
            f"{path.name} uses features of qcow2 that BMI does not know ({unknown:#x}).",
            remedy="Convert it where it was made: qemu-img convert -O qcow2 -o compat=1.1 FILE PLAIN.qcow2",
        )


def _allocated_bytes(path: Path, header: Header) -> int:
    """Walks the tables; refuses a file that ends before the last cluster they point to."""
    length, cluster = path.stat().st_size, header.cluster_bytes
    needed = -(-header.size_bytes // header.bytes_per_table)
    if header.l1_entries < needed:
        raise damaged(path, "qcow2", "its tables are too small for its disk")
    if max(header.references_end, header.snapshots_end, header.l1_offset + header.l1_entries * 8) > length:
        raise truncated(path)
    step = 2 if header.features & _EXTENDED_L2 else 1
    tables, plain = Blocks(path, "qcow2", length), Blocks(path, "qcow2", length)
    packed = 0
    with path.open("rb") as file:
        l1 = numbers(file, header.l1_offset, needed, "Q", "big")
        positions = [offset for entry in l1 if (offset := entry & _OFFSET_MASK)]
        if any(offset % cluster for offset in positions):
            raise damaged(path, "qcow2", "its tables lie where none can be")
        tables.add(positions, cluster)
        for offset in positions:
            entries = [e for e in numbers(file, offset, cluster // 8, "Q", "big")[::step] if e]
            compressed = [e for e in entries if e & _COMPRESSED]
            plain.add((o for e in entries if not e & _COMPRESSED and (o := e & _OFFSET_MASK)), cluster)
            if _compressed_end(compressed, header) > length:
                raise truncated(path)
            packed += len(compressed)
    return (plain.count + packed) * cluster


def _compressed_end(entries: list[int], header: Header) -> int:
    """Where the farthest of these compressed clusters ends, at least."""
    offset_bits = 62 - (header.cluster_bits - 8)
    farthest = 0
    for entry in entries:
        start = entry & ((1 << offset_bits) - 1)
        sectors = (entry & (_COMPRESSED - 1)) >> offset_bits
        # The last sector may be cut where the compressed data ends.
        farthest = max(farthest, (start // _SECTOR_BYTES + sectors) * _SECTOR_BYTES + 1)
    return farthest
