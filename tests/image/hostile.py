"""Image files that were made to hurt: each is a way to change a good file, and the word its refusal must hold."""

import gzip
import io
import json
import lzma
import random
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

MIB = 1 << 20
SIZE = 8 * MIB
LARGER = 200 * MIB  # than the disk, but not too large
EXABYTES = 7 << 60

Change = Callable[[bytearray], None]


def disk_bytes(size: int = SIZE) -> bytes:
    """A disk with an MBR, one partition, and data in three places."""
    disk = bytearray(size)
    disk[446:462] = struct.pack("<B3xB3xII", 0x80, 0x83, 2048, size // 512 - 2048)
    disk[510:512] = b"\x55\xaa"
    for place, length in ((MIB, 100_000), (3 * MIB, 5000), (size - 5000, 5000)):
        disk[place : place + length] = random.Random(place).randbytes(length)
    return bytes(disk)


@cache
def image(image_format: str, *options: str) -> bytes:
    """What qemu-img makes of the disk."""
    with TemporaryDirectory() as work:
        raw, made = Path(work) / "raw", Path(work) / "made"
        raw.write_bytes(disk_bytes())
        given = [word for option in options for word in ("-o", option)]
        command: list[str | Path] = [
            "qemu-img",
            "convert",
            "-f",
            "raw",
            "-O",
            image_format,
            *given,
            raw,
            made,
        ]
        subprocess.run(command, check=True)
        return made.read_bytes()


@dataclass(frozen=True)
class Hostile:
    """A file to refuse: `make` gives its bytes, `says` is a pattern of the reason."""

    name: str
    make: Callable[[], bytes]
    says: str
    max_size_bytes: int = 256 * MIB


def _put(offset: int, layout: str, *values: object) -> Change:
    def change(file: bytearray) -> None:
        struct.pack_into(layout, file, offset, *values)

    return change


def _replace(old: bytes, new: bytes) -> Change:
    """Within a VMDK's description, which is padded with zeros."""

    def change(file: bytearray) -> None:
        at = file.index(old)
        end = file.index(b"\0", at)
        text = file[at:end].replace(old, new, 1)
        file[at : at + len(text)] = text

    return change


def _changed(name: str, says: str, base: Callable[[], bytes], *changes: Change) -> Hostile:
    def make() -> bytes:
        file = bytearray(base())
        for change in changes:
            change(file)
        return bytes(file)

    return Hostile(name, make, says)


def _u64(file: bytearray, offset: int, layout: str = ">Q") -> int:
    (value,) = struct.unpack_from(layout, file, offset)
    return int(value)


# --- qcow2 ----------------------------------------------------------------------------------------------------


def _qcow2() -> bytes:
    return image("qcow2", "cluster_size=4096")


def _backing(name: bytes) -> list[Change]:
    def change(file: bytearray) -> None:
        file[1024 : 1024 + len(name)] = name

    return [_put(8, ">QI", 1024, len(name)), change]


def _l1(file: bytearray) -> int:
    return _u64(file, 40)


def _l2(file: bytearray) -> int:
    return _u64(file, _l1(file)) & 0x00FF_FFFF_FFFF_FE00


def _entry(table: Callable[[bytearray], int], number: int, value: Callable[[bytearray], int]) -> Change:
    def change(file: bytearray) -> None:
        struct.pack_into(">Q", file, table(file) + 8 * number, value(file))

    return change


def _all_to_one(file: bytearray) -> None:
    """Each entry of the first L2 table names the same cluster."""
    at = _l2(file)
    first = next(e for n in range(512) if (e := _u64(file, at + 8 * n)))
    for n in range(512):
        struct.pack_into(">Q", file, at + 8 * n, first)


def _all_compressed(file: bytearray) -> None:
    at = _l2(file)
    for n in range(512):
        struct.pack_into(">Q", file, at + 8 * n, 1 << 62 | 8192)


_PLAIN = 1 << 63
QCOW2 = [
    _changed("backing-file", "backing file", _qcow2, *_backing(b"/etc/shadow")),
    _changed(
        "backing-json", "backing file", _qcow2, *_backing(b'json:{"driver":"file","filename":"/etc/shadow"}')
    ),
    _changed("backing-nbd", "backing file", _qcow2, *_backing(b"nbd://127.0.0.1/x")),
    _changed("data-file", "in another file", _qcow2, _put(72, ">Q", 4)),
    _changed("encrypted-aes", "encrypted", _qcow2, _put(32, ">I", 1)),
    _changed("encrypted-luks", "encrypted", _qcow2, _put(32, ">I", 2)),
    _changed("marked-corrupt", "corrupt", _qcow2, _put(72, ">Q", 2)),
    _changed("unknown-feature", "features", _qcow2, _put(72, ">Q", 1 << 5)),
    _changed("unknown-feature-63", "features", _qcow2, _put(72, ">Q", 1 << 63)),
    *(
        _changed(f"cluster-bits-{bits}", "damaged", _qcow2, _put(20, ">I", bits))
        for bits in (0, 8, 22, 63, 0xFFFF_FFFF)
    ),
    *(_changed(f"version-{version}", "version", _qcow2, _put(4, ">I", version)) for version in (0, 1, 4)),
    _changed("size-zero", "declares a disk of 0", _qcow2, _put(24, ">Q", 0)),
    _changed("size-exabytes", "declares a disk of", _qcow2, _put(24, ">Q", EXABYTES)),
    _changed("size-negative", "declares a disk of", _qcow2, _put(24, ">q", -512)),
    _changed("size-beyond-tables", "too small", _qcow2, _put(24, ">Q", LARGER)),
    _changed("l1-huge", "damaged", _qcow2, _put(36, ">I", 0xFFFF_FFFF)),
    _changed("l1-beyond-the-end", "truncated", _qcow2, _put(36, ">I", 4 << 20)),
    _changed("l1-elsewhere", "truncated", _qcow2, _put(40, ">Q", 1 << 62)),
    _changed("l1-negative", "truncated", _qcow2, _put(40, ">q", -4096)),
    _changed("references-huge", "larger than", _qcow2, _put(56, ">I", 0xFFFF_FFFF)),
    _changed("references-elsewhere", "truncated", _qcow2, _put(48, ">Q", 1 << 62)),
    _changed("references-self", "damaged", _qcow2, _put(48, ">Q", 0)),
    _changed("snapshots-huge", "larger than", _qcow2, _put(60, ">I", 0xFFFF_FFFF)),
    _changed("snapshots-missing", "truncated", _qcow2, _put(60, ">IQ", 65536, 4096)),
    _changed("l2-unaligned", "where none can be", _qcow2, _entry(_l1, 0, lambda f: _PLAIN | _l2(f) + 512)),
    _changed("l2-elsewhere", "truncated", _qcow2, _entry(_l1, 0, lambda f: _PLAIN | 1 << 50)),
    _changed("l2-shared", "same place", _qcow2, _entry(_l1, 1, lambda f: _PLAIN | _l2(f))),
    _changed("l2-is-the-header", "damaged|truncated", _qcow2, _entry(_l1, 0, lambda f: _PLAIN | _l1(f))),
    _changed("l2-is-its-own-data", "damaged", _qcow2, _entry(_l2, 5, lambda f: _PLAIN | _l2(f))),
    _changed("cluster-elsewhere", "truncated", _qcow2, _entry(_l2, 5, lambda f: _PLAIN | 1 << 50)),
    _changed("clusters-shared", "same place", _qcow2, _all_to_one),
    _changed("compressed-shared", "damaged|cannot be read", _qcow2, _all_compressed),
    Hostile("qcow2-magic-only", lambda: b"QFI\xfb", "truncated"),
    Hostile("qcow2-half", lambda: _qcow2()[: len(_qcow2()) // 2], "truncated"),
    Hostile("raw-that-starts-like-qcow2", lambda: b"QFI\xfb" + disk_bytes()[4:], "damaged|version"),
]

# --- VMDK -----------------------------------------------------------------------------------------------------


def _vmdk() -> bytes:
    return image("vmdk")


def _stream() -> bytes:
    return image("vmdk", "subformat=streamOptimized")


def _descriptor(extent: str, kind: str = "monolithicFlat", parent: str = "ffffffff") -> bytes:
    lines = [
        "# Disk DescriptorFile",
        "version=1",
        "CID=1",
        f"parentCID={parent}",
        f'createType="{kind}"',
        extent,
    ]
    return "\n".join([*lines, ""]).encode()


def _described(text: bytes) -> Change:
    def change(file: bytearray) -> None:
        at, sectors = struct.unpack_from("<QQ", file, 28)
        file[at * 512 : (at + sectors) * 512] = text.ljust(sectors * 512, b"\0")

    return change


def _own(extent: str, **more: str) -> list[Change]:
    return [_described(_descriptor(extent, kind="monolithicSparse", **more))]


def _grain_tables(file: bytearray, *, shared: bool) -> None:
    """Makes all grain tables one, or all grains of the first table."""
    directory = _u64(file, 56, "<Q") * 512
    (first,) = struct.unpack_from("<I", file, directory)
    if shared:
        struct.pack_into("<4I", file, directory, *[first] * 4)
        return
    table = first * 512
    grains = struct.unpack_from("<512I", file, table)
    struct.pack_into("<512I", file, table, *[max(grains)] * 512)


_OWN_EXTENT = 'RW 16384 SPARSE "made"'
VMDK = [
    Hostile("vmdk-flat", lambda: _descriptor('RW 16384 FLAT "disk-flat.vmdk" 0'), "only the description"),
    Hostile("vmdk-absolute", lambda: _descriptor('RW 16384 FLAT "/etc/shadow" 0'), "only the description"),
    Hostile(
        "vmdk-device", lambda: _descriptor('RW 16384 FLAT "/dev/sda" 0', "fullDevice"), "only the description"
    ),
    Hostile(
        "vmdk-description-in-raw",
        lambda: _descriptor('RW 16384 FLAT "/etc/shadow" 0').ljust(440, b"\n") + disk_bytes()[440:],
        "only the description",
    ),
    Hostile("vmdk-cowd", lambda: b"COWD" + bytes(4096), "part of a VMDK"),
    _changed(
        "vmdk-no-capacity",
        "without a disk",
        _vmdk,
        _put(12, "<Q", 0),
        _described(_descriptor('RW 16384 FLAT "/etc/shadow" 0')),
    ),
    _changed("vmdk-extent-flat", "other files", _vmdk, *_own('RW 16384 FLAT "/etc/shadow" 0')),
    _changed("vmdk-extent-absolute", "other files", _vmdk, *_own('RW 16384 SPARSE "/etc/shadow"')),
    _changed("vmdk-extent-above", "other files", _vmdk, *_own('RW 16384 SPARSE "../x.vmdk"')),
    _changed("vmdk-extent-url", "other files", _vmdk, *_own('RW 16384 SPARSE "nbd:127.0.0.1:1"')),
    _changed("vmdk-two-extents", "other files", _vmdk, *_own(f'{_OWN_EXTENT}\nRW 16384 SPARSE "b"')),
    _changed("vmdk-no-extent", "other files", _vmdk, *_own("")),
    _changed("vmdk-parent", "parent", _vmdk, *_own(_OWN_EXTENT, parent="12345678")),
    _changed("vmdk-parent-hint", "parent", _vmdk, *_own(f'{_OWN_EXTENT}\nparentFileNameHint="/etc/shadow"')),
    _changed("vmdk-kind", "of a kind", _vmdk, _described(_descriptor(_OWN_EXTENT, "vmfsSparse"))),
    _changed("vmdk-description-huge", "too long", _vmdk, _put(36, "<Q", 1 << 50)),
    _changed("vmdk-description-missing", "other files", _vmdk, _put(28, "<Q", 1 << 60)),
    _changed("vmdk-undescribed", "part of", _vmdk, _put(28, "<QQ", 0, 0)),
    _changed("vmdk-size-exabytes", "declares a disk of", _vmdk, _put(12, "<Q", EXABYTES // 512)),
    _changed("vmdk-size-negative", "declares a disk of", _vmdk, _put(12, "<q", -8)),
    _changed("vmdk-version", "version", _vmdk, _put(4, "<I", 9)),
    *(_changed(f"vmdk-grain-{n}", "sizes of grains", _vmdk, _put(20, "<Q", n)) for n in (0, 3, 1, 1 << 40)),
    *(_changed(f"vmdk-entries-{n}", "sizes of grains", _vmdk, _put(44, "<I", n)) for n in (0, 0xFFFF_FFFF)),
    _changed("vmdk-directory-elsewhere", "truncated", _vmdk, _put(56, "<Q", 1 << 50)),
    _changed("vmdk-grains-shared", "same place", _vmdk, lambda file: _grain_tables(file, shared=False)),
    _changed(
        "vmdk-tables-shared",
        "same place",
        lambda: _vmdk().ljust(20 * MIB, b"\0"),
        _put(12, "<Q", 4 * 65536),
        lambda file: _grain_tables(file, shared=True),
    ),
    Hostile("vmdk-half", lambda: _vmdk()[: len(_vmdk()) // 2], "truncated"),
    Hostile("vmdk-stream-half", lambda: _stream()[: len(_stream()) // 2], "truncated"),
    _changed("vmdk-footer-missing", "truncated", _stream, _put(56, "<Q", 0xFFFF_FFFF_FFFF_FFFF)),
    Hostile("vmdk-header-only", lambda: _vmdk()[:60], "truncated"),
]

# --- VDI ------------------------------------------------------------------------------------------------------


def _vdi() -> bytes:
    return image("vdi")


def _map(*entries: int) -> Change:
    return _put(512, f"<{len(entries)}I", *entries)


VDI = [
    _changed("vdi-undo", "parent", _vdi, _put(76, "<I", 3)),
    _changed("vdi-difference", "parent", _vdi, _put(76, "<I", 4)),
    _changed("vdi-linked", "parent", _vdi, _put(440, "16s", b"another-image-id")),
    _changed("vdi-size-exabytes", "declares a disk of", _vdi, _put(368, "<Q", EXABYTES)),
    _changed("vdi-size-negative", "declares a disk of", _vdi, _put(368, "<q", -1)),
    _changed("vdi-size-zero", "declares a disk of 0", _vdi, _put(368, "<Q", 0)),
    _changed("vdi-size-beyond-blocks", "contradicts", _vdi, _put(368, "<Q", LARGER)),
    *(_changed(f"vdi-block-{n}", "contradicts", _vdi, _put(376, "<I", n)) for n in (0, 1, 1 << 31)),
    _changed("vdi-version", "version", _vdi, _put(68, "<I", 9 << 16)),
    _changed("vdi-map-elsewhere", "truncated", _vdi, _put(340, "<I", 0xFFFF_FE00)),
    _changed("vdi-data-elsewhere", "truncated", _vdi, _put(344, "<I", 0xFFFF_FE00)),
    _changed("vdi-block-elsewhere", "truncated", _vdi, _map(0, 0x7FFF_FFFF)),
    _changed("vdi-blocks-shared", "same place", _vdi, _map(*[0] * 8)),
    Hostile("vdi-half", lambda: _vdi()[: len(_vdi()) // 2], "truncated"),
    Hostile("vdi-header-only", lambda: _vdi()[:100], "truncated"),
]

# --- VHD ------------------------------------------------------------------------------------------------------


def _vhd() -> bytes:
    return image("vpc", "force_size=on")


def _fixed() -> bytes:
    return image("vpc", "subformat=fixed,force_size=on")


def _footer(offset: int, layout: str, value: int, *, at_end: bool = False) -> Change:
    """Changes a VHD's footer and makes its checksum right again."""

    def change(file: bytearray) -> None:
        start = len(file) - 512 if at_end else 0
        struct.pack_into(layout, file, start + offset, value)
        struct.pack_into(">I", file, start + 64, 0)
        struct.pack_into(">I", file, start + 64, ~sum(file[start : start + 512]) & 0xFFFF_FFFF)

    return change


VHD = [
    _changed("vhd-difference", "parent", _vhd, _footer(60, ">I", 4)),
    _changed("vhd-kind", "contradicts", _vhd, _footer(60, ">I", 99)),
    _changed("vhd-fixed-in-front", "contradicts", _vhd, _footer(60, ">I", 2)),
    _changed("vhd-checksum", "contradicts", _vhd, _put(64, ">I", 1)),
    _changed("vhd-size-exabytes", "declares a disk of", _vhd, _footer(48, ">Q", EXABYTES)),
    _changed("vhd-size-negative", "declares a disk of", _vhd, _footer(48, ">q", -512)),
    _changed("vhd-size-zero", "declares a disk of 0", _vhd, _footer(48, ">Q", 0)),
    _changed("vhd-size-beyond-table", "contradicts", _vhd, _footer(48, ">Q", LARGER)),
    _changed("vhd-header-elsewhere", "truncated", _vhd, _footer(16, ">Q", 1 << 62)),
    _changed("vhd-header-negative", "truncated", _vhd, _footer(16, ">q", -512)),
    *(_changed(f"vhd-block-{n}", "contradicts", _vhd, _put(512 + 32, ">I", n)) for n in (0, 3, 1 << 31)),
    _changed("vhd-table-elsewhere", "truncated", _vhd, _put(512 + 16, ">Q", 1 << 62)),
    _changed("vhd-block-elsewhere", "truncated", _vhd, _put(1536, ">I", 0x7FFF_FFFF)),
    _changed("vhd-blocks-shared", "same place", _vhd, _put(1536, ">4I", 4, 4, 4, 4)),
    Hostile("vhd-half", lambda: _vhd()[: len(_vhd()) // 2], "truncated"),
    _changed("vhd-fixed-larger", "truncated", _fixed, _footer(48, ">Q", LARGER, at_end=True)),
    _changed("vhd-fixed-exabytes", "declares a disk of", _fixed, _footer(48, ">Q", EXABYTES, at_end=True)),
    Hostile(
        "raw-that-ends-like-vhd", lambda: disk_bytes()[:-512] + b"conectix".ljust(512, b"\0"), "contradicts"
    ),
]

# --- VHDX -----------------------------------------------------------------------------------------------------

_PARAMETERS, _DISK_SIZE = (
    bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b"),
    bytes.fromhex("2442a52f1bcd7648b2115dbed83bf4b8"),
)
_SECTOR_SIZE = bytes.fromhex("1dbf41816fa90947ba47f233a8faab5f")
_PAGE_83 = bytes.fromhex("ab12cabee6b2234593efc309e000c746")
_LOCATOR = bytes.fromhex("2d5fd3a80bb34d45abf7d3d84834ab0c")
_BLOCK_TABLE = bytes.fromhex("6677c22d23f600429d64115e9bfd4a08")


def _vhdx() -> bytes:
    return image("vhdx", "block_size=1048576")


def _item(item: bytes, layout: str, *values: int, skip: int = 0) -> Change:
    """Changes a value of the metadata."""

    def change(file: bytearray) -> None:
        table = file.index(b"metadata")
        (offset,) = struct.unpack_from("<I", file, file.index(item, table) + 16)
        struct.pack_into(layout, file, table + offset + skip, *values)

    return change


def _blocks(*entries: int) -> Change:
    def change(file: bytearray) -> None:
        struct.pack_into(f"<{len(entries)}Q", file, _u64(file, file.index(_BLOCK_TABLE) + 16, "<Q"), *entries)

    return change


def _everywhere(old: bytes, new: bytes) -> Change:
    def change(file: bytearray) -> None:
        file[:] = file.replace(old, new)

    return change


def _log(file: bytearray) -> None:
    for header in (65536, 131072):
        file[header + 48 : header + 64] = b"a log to replay!"


def _small_table(file: bytearray) -> None:
    struct.pack_into("<I", file, file.index(_BLOCK_TABLE) + 24, 8)


VHDX = [
    _changed("vhdx-difference", "parent", _vhdx, _item(_PARAMETERS, "<I", 2, skip=4)),
    _changed("vhdx-locator", "parent", _vhdx, _everywhere(_PAGE_83, _LOCATOR)),
    _changed("vhdx-size-exabytes", "declares a disk of", _vhdx, _item(_DISK_SIZE, "<Q", EXABYTES)),
    _changed("vhdx-size-negative", "declares a disk of", _vhdx, _item(_DISK_SIZE, "<q", -512)),
    _changed("vhdx-size-zero", "declares a disk of 0", _vhdx, _item(_DISK_SIZE, "<Q", 0)),
    _changed("vhdx-table-too-small", "too small", _vhdx, _small_table),
    *(_changed(f"vhdx-block-{n}", "sizes of", _vhdx, _item(_PARAMETERS, "<I", n)) for n in (0, 3, 1 << 31)),
    _changed("vhdx-sector", "sizes of", _vhdx, _item(_SECTOR_SIZE, "<I", 0)),
    _changed("vhdx-unclosed", "not closed", _vhdx, _log),
    _changed("vhdx-no-header", "no header", _vhdx, _everywhere(b"head", b"daeh")),
    _changed("vhdx-no-regions", "region table", _vhdx, _everywhere(b"regi", b"iger")),
    _changed("vhdx-no-table", "region table", _vhdx, _everywhere(_BLOCK_TABLE, bytes(16))),
    _changed("vhdx-no-metadata", "no metadata", _vhdx, _everywhere(b"metadata", b"atadatem")),
    _changed("vhdx-no-size", "lack", _vhdx, _everywhere(_DISK_SIZE, bytes(16))),
    _changed("vhdx-block-elsewhere", "truncated", _vhdx, _blocks(6 | 1 << 50)),
    _changed("vhdx-blocks-shared", "same place", _vhdx, _blocks(*[6 | 4 << 20] * 8)),
    Hostile("vhdx-half", lambda: _vhdx()[: 5 << 20], "truncated"),
    Hostile("vhdx-start-only", lambda: _vhdx()[:65536], "no header"),
]

# --- compression ----------------------------------------------------------------------------------------------


def zstd(data: bytes, *options: str) -> bytes:
    return subprocess.run(["zstd", "-qc", *options], input=data, capture_output=True, check=True).stdout


def xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


def gz(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gz, "xz": xz, "zstd": zstd}


def _bomb(pack: Callable[[bytes], bytes], byte: bytes, size: int) -> Callable[[], bytes]:
    return lambda: pack(disk_bytes(4 * MIB)[:-5000] + byte * size)


def _xz_of_much_memory() -> bytes:
    """A dictionary of 4 GiB in the block's header (The .xz File Format, 3.1 and 5.3.1)."""
    file = bytearray(xz(disk_bytes()))
    header = 12
    size = (file[header] + 1) * 4
    at = file.index(b"\x21\x01", header) + 2
    file[at] = 40
    file[header + size - 4 : header + size] = zlib.crc32(file[header : header + size - 4]).to_bytes(
        4, "little"
    )
    return bytes(file)


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("disk.raw")
        entry.size = SIZE
        archive.addfile(entry, io.BytesIO(disk_bytes()))
    return out.getvalue()


def _damaged(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(64) + data[middle + 64 :]


def _packed(name: str, pack: Callable[[bytes], bytes]) -> Sequence[Hostile]:
    """What every kind of compression can be abused for."""
    return [
        Hostile(f"{name}-bomb", _bomb(pack, b"A", 66 * MIB), "compression bomb"),
        Hostile(f"{name}-bomb-of-zeros", _bomb(pack, b"\0", 90 * MIB), "unpacks to more than", 16 * MIB),
        Hostile(f"{name}-truncated", lambda: pack(disk_bytes())[:-40], "damaged or truncated"),
        Hostile(f"{name}-damaged", lambda: _damaged(pack(disk_bytes())), "damaged or truncated"),
        Hostile(
            f"{name}-with-more-behind", lambda: pack(disk_bytes()) + b"more" * 200, "damaged or truncated"
        ),
        Hostile(f"{name}-twice", lambda: pack(pack(disk_bytes())), "compressed twice"),
        Hostile(f"{name}-in-gzip", lambda: gz(pack(disk_bytes())), "compressed twice"),
        Hostile(f"{name}-of-tar", lambda: pack(_tar()), "tar archive"),
        Hostile(f"{name}-of-nothing", lambda: pack(b""), "empty"),
        Hostile(f"{name}-of-text", lambda: pack(b"Not found\n" * 100), "not a disk image"),
        Hostile(f"{name}-of-backed-qcow2", lambda: pack(QCOW2[0].make()), "backing file"),
        Hostile(f"{name}-of-truncated-raw", lambda: pack(disk_bytes()[:MIB]), "truncated"),
        Hostile(f"{name}-of-exabytes", lambda: pack(VDI[3].make()), "declares a disk of"),
    ]


PACKED = [
    *(hostile for name, pack in PACKERS.items() for hostile in _packed(name, pack)),
    Hostile("xz-of-much-memory", _xz_of_much_memory, "more memory"),
    Hostile("zstd-of-much-memory", lambda: zstd(disk_bytes(), "--ultra", "--long=31"), "more memory"),
    Hostile("gzip-header-only", lambda: b"\x1f\x8b\x08", "damaged or truncated"),
]

# --- neither one nor the other ------------------------------------------------------------------------------------


def _with(data: bytes, offset: int, mark: bytes) -> bytes:
    file = bytearray(data)
    start = offset if offset >= 0 else len(file) + offset
    file[start : start + len(mark)] = mark
    return bytes(file)


CONFUSED = [
    Hostile("qcow2-and-vhd", lambda: _qcow2() + _fixed()[-512:], "ambiguous"),
    Hostile("vmdk-and-vhd", lambda: _vmdk() + _fixed()[-512:], "ambiguous"),
    Hostile("qcow2-and-vdi", lambda: _with(_qcow2(), 64, b"\x7f\x10\xda\xbe"), "ambiguous"),
    Hostile("qcow2-and-tar", lambda: _with(_qcow2(), 257, b"ustar"), "ambiguous"),
    Hostile("vmdk-and-iso", lambda: _with(_vmdk(), 0x8001, b"CD001"), "ambiguous"),
    Hostile("raw-and-iso", lambda: _with(disk_bytes(), 0x8001, b"CD001"), "ISO"),
    Hostile("raw-and-dmg", lambda: _with(disk_bytes(), -512, b"koly"), "DMG"),
    Hostile("luks", lambda: b"LUKS\xba\xbe" + bytes(MIB), "LUKS"),
    Hostile(
        "json",
        lambda: b"json:" + json.dumps({"driver": "file", "filename": "/etc/shadow"}).encode(),
        "reference to other files",
    ),
    Hostile("partition-of-exabytes", lambda: _with(disk_bytes(), 454, b"\xff" * 8), "truncated"),
]

ALL = [*QCOW2, *VMDK, *VDI, *VHD, *VHDX, *PACKED, *CONFUSED]
