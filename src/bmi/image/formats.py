"""Telling disk images from everything else by what is in the file, never by its name."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from bmi.errors import InvalidImageError
from bmi.image import qcow2, vdi, vhd, vhdx, vmdk
from bmi.image.layout import read_at

Format = Literal["raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx"]
Compression = Literal["gzip", "xz", "zstd"]


@dataclass(frozen=True)
class _Mark:
    """Bytes that give a kind of file away; a negative offset counts from the end."""

    offset: int
    magic: bytes
    name: str


_IMAGES: tuple[tuple[_Mark, Format], ...] = (
    (_Mark(0, qcow2.MAGIC, "a qcow2 image"), "qcow2"),
    (_Mark(0, vmdk.MAGIC, "a VMDK image"), "vmdk"),
    (_Mark(vdi.OFFSET, vdi.MAGIC, "a VDI image"), "vdi"),
    (_Mark(0, vhdx.MAGIC, "a VHDX image"), "vhdx"),
    (_Mark(0, vhd.MAGIC, "a VHD image"), "vhd"),
    (_Mark(-512, vhd.MAGIC, "a VHD image"), "vhd"),
)
_PACKED: tuple[tuple[_Mark, Compression], ...] = (
    (_Mark(0, b"\x1f\x8b", "compressed with gzip"), "gzip"),
    (_Mark(0, b"\xfd7zXZ\0", "compressed with xz"), "xz"),
    (_Mark(0, b"\x28\xb5\x2f\xfd", "compressed with zstd"), "zstd"),
)
_REFUSED = (
    _Mark(0, b"COWD", "a part of a VMDK image"),
    _Mark(0, vmdk.DESCRIPTOR, "only the description of a VMDK image, which keeps its data in other files"),
    _Mark(0, b"json:", "a reference to other files"),
    _Mark(0, b"QED\0", "a QED image"),
    _Mark(0, b"WithoutFreeSpace", "a Parallels image"),
    _Mark(0, b"WithouFreSpacExt", "a Parallels image"),
    _Mark(-512, b"koly", "a DMG image"),
    _Mark(0, b"LUKS\xba\xbe", "an encrypted (LUKS) disk"),
    _Mark(0x8001, b"CD001", "an ISO image (a CD to install from, not an installed system)"),
    _Mark(257, b"ustar", "a tar archive"),
    *(mark for mark, _ in _PACKED),
    _Mark(0, b"BZh", "compressed with bzip2"),
    _Mark(0, b"\x04\x22\x4d\x18", "compressed with lz4"),
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
_TAKEN = "raw, qcow2, VMDK, VDI, VHD and VHDX disks, also compressed with gzip, xz or zstd"
_ADVICE = "Convert it to qcow2 or raw first (qemu-img convert -O qcow2, or unpack it)."


def compression(path: Path) -> Compression | None:
    """What `path` is compressed with, of what BMI can undo; None when it is not."""
    with path.open("rb") as file:
        start = file.read(8)
    return next((name for mark, name in _PACKED if start.startswith(mark.magic)), None)


def has_container_start(start: bytes) -> bool:
    """Whether a file with this beginning (the first 512 bytes) can only be an image that is not raw."""
    return any(start[m.offset :].startswith(m.magic) for m, _ in _IMAGES if m.offset >= 0)


def detect(path: Path) -> Format:
    """The format of the image file `path`; InvalidImageError, with what it is instead, for all else.

    A raw disk has no mark of its own, so only a file that begins like a disk is one: with a partition
    table that fits into the file, or with a file system or LVM volume. What has the marks of two kinds is
    refused: two readers could see two disks in it. The caller vouches that `path` is a regular file.
    """
    with path.open("rb") as file:
        size_bytes = path.stat().st_size
        if size_bytes == 0:
            raise InvalidImageError(f"{path.name} is empty.", remedy="Download or copy it again.")
        images = {image: mark.name for mark, image in _IMAGES if _has(file, size_bytes, mark)}
        others = [mark.name for mark in _REFUSED if _has(file, size_bytes, mark)]
        if images and len(images) + len(others) > 1:
            raise InvalidImageError(
                f"{path.name} is ambiguous: it is {' and also '.join([*images.values(), *others])}.",
                remedy="Make it anew from the disk that is meant: qemu-img convert -f FORMAT -O qcow2 FILE NEW.qcow2",
            )
        if others:
            raise InvalidImageError(f"{path.name} is {others[0]}; BMI takes {_TAKEN}.", remedy=_ADVICE)
        for image in images:
            return image
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
        f"{path.name} is not a disk image: it has no format that BMI knows, no partition table and no file system.",
        remedy=f"Give the file of a whole disk; BMI takes {_TAKEN}.",
    )


def _has(file: BinaryIO, size_bytes: int, mark: _Mark) -> bool:
    start = mark.offset if mark.offset >= 0 else size_bytes + mark.offset
    return start >= 0 and read_at(file, start, len(mark.magic)) == mark.magic


def _partitions_end(file: BinaryIO) -> int:
    """The bytes that the disk must have for its partition table to be true; 0 if it has none."""
    for sector_bytes in (512, 4096):
        header = read_at(file, sector_bytes, 40)
        if header.startswith(_GPT_MAGIC) and len(header) == 40:
            (last_sector,) = struct.unpack_from("<Q", header, 32)  # of the backup table, at the very end
            return (int(last_sector) + 1) * sector_bytes
    boot_sector = read_at(file, 0, 512)
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
