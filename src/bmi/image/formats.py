"""Telling disk images from everything else by what is in the file, never by its name."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from bmi.errors import InvalidImageError
from bmi.image import qcow2

Format = Literal["raw", "qcow2"]


@dataclass(frozen=True)
class _Mark:
    """Bytes that give a kind of file away; a negative offset counts from the end."""

    offset: int
    magic: bytes
    name: str


_REFUSED = (
    _Mark(0, b"KDMV", "a VMDK image"),
    _Mark(0, b"COWD", "a VMDK image"),
    _Mark(0, b"# Disk DescriptorFile", "a VMDK descriptor"),
    _Mark(0, b"vhdxfile", "a VHDX image"),
    _Mark(0, b"conectix", "a VHD image"),
    _Mark(-512, b"conectix", "a VHD image"),
    _Mark(64, b"\x7f\x10\xda\xbe", "a VDI image"),
    _Mark(0, b"QED\0", "a QED image"),
    _Mark(0, b"WithoutFreeSpace", "a Parallels image"),
    _Mark(0, b"WithouFreSpacExt", "a Parallels image"),
    _Mark(-512, b"koly", "a DMG image"),
    _Mark(0, b"LUKS\xba\xbe", "an encrypted (LUKS) disk"),
    _Mark(0x8001, b"CD001", "an ISO image (a CD to install from, not an installed system)"),
    _Mark(257, b"ustar", "a tar archive"),
    _Mark(0, b"\x1f\x8b", "compressed with gzip"),
    _Mark(0, b"\xfd7zXZ\0", "compressed with xz"),
    _Mark(0, b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    _Mark(0, b"BZh", "compressed with bzip2"),
    _Mark(0, b"PK\x03\x04", "a zip archive"),
    _Mark(0, b"hsqs", "a squashfs archive"),
)
_FILE_SYSTEMS = (
    _Mark(1080, b"\x53\xef", "ext"),
    _Mark(0, b"XFSB", "XFS"),
    _Mark(65600, b"_BHRfS_M", "btrfs"),
    *(_Mark(sector * 512, b"LABELONE", "LVM") for sector in range(4)),
)
_GPT_MAGIC = b"EFI PART"
_PROTECTIVE = 0xEE
_MBR_ENTRY = struct.Struct("<B3xB3xII")  # boot flag, type, first sector, sectors
_ADVICE = "Convert it to qcow2 or raw first (qemu-img convert -O qcow2, or unpack it)."


def detect(path: Path) -> Format:
    """The format of the image file `path`; InvalidImageError, with what it is instead, for all else.

    A raw disk has no mark of its own, so only a file that begins like a disk is one: with a partition
    table that fits into the file, or with a file system or LVM volume. The caller vouches that `path`
    is a regular file.
    """
    with path.open("rb") as file:
        size_bytes = path.stat().st_size
        if size_bytes == 0:
            raise InvalidImageError(f"{path.name} is empty.", remedy="Download or copy it again.")
        if _has(file, size_bytes, _Mark(0, qcow2.MAGIC, "qcow2")):
            return "qcow2"
        for mark in _REFUSED:
            if _has(file, size_bytes, mark):
                raise InvalidImageError(
                    f"{path.name} is {mark.name}; BMI takes raw and qcow2 disks.", remedy=_ADVICE
                )
        end_bytes = _partitions_end(file)
        if end_bytes > size_bytes:
            raise InvalidImageError(
                f"{path.name} is truncated: its partition table describes a disk of at least {end_bytes} bytes, "
                f"but the file ends after {size_bytes}.",
                remedy="Download or copy it again and compare its checksum.",
            )
        if end_bytes or any(_has(file, size_bytes, mark) for mark in _FILE_SYSTEMS):
            return "raw"
    raise InvalidImageError(
        f"{path.name} is not a disk image: it is no qcow2, and has neither a partition table nor a file system.",
        remedy="Give the file of a whole disk, raw or qcow2.",
    )


def _has(file: BinaryIO, size_bytes: int, mark: _Mark) -> bool:
    start = mark.offset if mark.offset >= 0 else size_bytes + mark.offset
    return start >= 0 and _read(file, start, len(mark.magic)) == mark.magic


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length)


def _partitions_end(file: BinaryIO) -> int:
    """The bytes that the disk must have for its partition table to be true; 0 if it has none."""
    for sector_bytes in (512, 4096):
        header = _read(file, sector_bytes, 40)
        if header.startswith(_GPT_MAGIC) and len(header) == 40:
            (last_sector,) = struct.unpack_from("<Q", header, 32)  # of the backup table, at the very end
            return (int(last_sector) + 1) * sector_bytes
    boot_sector = _read(file, 0, 512)
    if boot_sector[510:] != b"\x55\xaa":
        return 0
    entries = list(_mbr_entries(boot_sector))
    if any(flag not in {0, 0x80} for flag, _, _, _ in entries):
        return 0  # the boot sector of a file system, or chance
    return (
        max((first + count for _, kind, first, count in entries if kind not in {0, _PROTECTIVE}), default=0)
        * 512
    )


def _mbr_entries(boot_sector: bytes) -> Iterator[tuple[int, int, int, int]]:
    for position in range(446, 510, _MBR_ENTRY.size):
        yield _MBR_ENTRY.unpack_from(boot_sector, position)
