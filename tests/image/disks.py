"""Makes small disks that look like installed systems, without mounting anything."""

import gzip
import lzma
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
KERNEL = "6.1.0-10-amd64"
FIRST_PARTITION_BYTES = MIB

# name -> (path below the module directory, what it needs); one module of each packing
_MODULES = {
    "iscsi_boot_sysfs": ("kernel/drivers/scsi/iscsi_boot_sysfs.ko", ""),
    "iscsi_ibft": ("kernel/drivers/firmware/iscsi_ibft.ko.xz", "iscsi_boot_sysfs"),
    "scsi_mod": ("kernel/drivers/scsi/scsi_mod.ko", ""),
    "libiscsi": ("kernel/drivers/scsi/libiscsi.ko.gz", "scsi_mod"),
    "iscsi_tcp": ("kernel/drivers/scsi/iscsi_tcp.ko.zst", "libiscsi scsi_mod"),
    "sd_mod": ("kernel/drivers/scsi/sd_mod.ko", "scsi_mod"),
    "ext4": ("kernel/fs/ext4/ext4.ko", "jbd2"),
    "jbd2": ("kernel/fs/jbd2/jbd2.ko", ""),
    "xfs": ("kernel/fs/xfs/xfs.ko", ""),
    "btrfs": ("kernel/fs/btrfs/btrfs.ko", ""),
    "dm_mod": ("kernel/drivers/md/dm-mod.ko", ""),
    "tg3": ("kernel/drivers/net/ethernet/broadcom/tg3.ko", ""),
    "crc32c_generic": ("kernel/crypto/crc32c_generic.ko", ""),
    "snd": ("kernel/sound/core/snd.ko", ""),
}
FIRMWARE = {"tg3": "tigon/tg3.bin"}
KERNEL_BYTES = bytes(0x202) + b"HdrS" + bytes(4096)


def module_content(name: str) -> bytes:
    firmware = f"firmware={FIRMWARE[name]}\0".encode() if name in FIRMWARE else b""
    return b"\x7fELF" + name.encode() + b"\0license=GPL\0" + firmware + bytes(512)


def add_system(tree: Path) -> None:
    """What every root file system has: an init and a name."""
    _put(tree / "etc/os-release", b'NAME="Test"\nPRETTY_NAME="Test Linux 1 (first)"\n')
    _put(tree / "etc/fstab", b"# empty\n")
    _put(tree / "usr/sbin/init", b"#!/bin/sh\n")


def add_modules(tree: Path, version: str = KERNEL, *, without: Sequence[str] = ()) -> None:
    directory = tree / "lib/modules" / version
    chosen = {name: entry for name, entry in _MODULES.items() if name not in without}
    for name, (path, _) in chosen.items():
        _put(directory / path, _packed(module_content(name), path))
    paths = {name: path for name, (path, _) in _MODULES.items()}
    lines = [f"{path}: {' '.join(paths[n] for n in needs.split())}" for path, needs in chosen.values()]
    _put(directory / "modules.dep", "\n".join(lines).encode() + b"\n")
    _put(
        directory / "modules.alias",
        b"alias pci:v000014E4d* tg3\nalias crypto-crc32c crc32c_generic\nalias sound-* snd\n",
    )
    _put(directory / "modules.softdep", b"# comment\nsoftdep ext4 pre: crypto-crc32c\n")
    _put(directory / "modules.builtin", b"kernel/drivers/virtio/virtio.ko\n")
    _put(tree / "lib/firmware" / FIRMWARE["tg3"], b"firmware of tg3")


def add_kernel(boot: Path, version: str = KERNEL, *, config: str = "CONFIG_RD_ZSTD=y\n") -> None:
    _put(boot / f"vmlinuz-{version}", KERNEL_BYTES + version.encode())
    _put(boot / f"config-{version}", config.encode())


def add_file(tree: Path, name: str, content: str) -> None:
    _put(tree / name, content.encode())


@dataclass(frozen=True)
class Partition:
    """One partition to make: a file system of this kind (ext4, xfs, btrfs, vfat) from a directory's content."""

    kind: str
    tree: Path


def make_disk(disk: Path, label: str, partitions: Sequence[Partition]) -> Path:
    """Writes a disk with a partition table (`gpt` or `dos`), one file system on each partition."""
    size = {"ext4": 24 * MIB, "xfs": 320 * MIB, "btrfs": 128 * MIB}
    start, lines, parts = FIRST_PARTITION_BYTES, [f"label: {label}"], []
    for number, partition in enumerate(partitions):
        volume = disk.with_name(f"{disk.name}.{number}")
        make_file_system(volume, partition.kind, partition.tree, size[partition.kind])
        lines.append(f"start={start // 512}, size={size[partition.kind] // 512}, type=linux")
        parts.append((start, volume))
        start += size[partition.kind]
    with disk.open("wb") as file:
        file.truncate(start + MIB)
    _run(["sfdisk", "--quiet", str(disk)], stdin="\n".join(lines) + "\n")
    for offset, volume in parts:
        place(volume, disk, offset)
        volume.unlink()
    return disk


def make_file_system(volume: Path, kind: str, tree: Path, size_bytes: int) -> None:
    with volume.open("wb") as file:
        file.truncate(size_bytes)
    if kind == "ext4":
        _run(["mkfs.ext4", "-q", "-F", "-d", str(tree), str(volume)])
    elif kind == "btrfs":
        _run(["mkfs.btrfs", "-q", "--rootdir", str(tree), str(volume)])
    elif kind == "xfs":
        prototype = volume.with_name(f"{volume.name}.proto")
        prototype.write_text(_xfs_prototype(tree), encoding="utf-8")
        _run(["mkfs.xfs", "-q", "-p", str(prototype), str(volume)])
    else:
        raise AssertionError(kind)


def place(volume: Path, disk: Path, offset_bytes: int) -> None:
    """Copies a file system to its place on a disk; holes stay holes."""
    options = ["conv=notrunc,sparse", "bs=64k", "oflag=seek_bytes", "status=none"]
    _run(["dd", f"if={volume}", f"of={disk}", f"seek={offset_bytes}", *options])


def make_lvm_disk(disk: Path, tree: Path, *, group: str, volume: str) -> Path:
    """A disk whose only partition is an LVM physical volume with one logical volume, an ext4 of `tree`.

    lvcreate wants the kernel's device mapper; writing the volume into the metadata does not.
    """
    size_bytes, extents = 64 * MIB, 8  # of 4 MiB each, behind 1 MiB of metadata
    with disk.open("wb") as file:
        file.truncate(size_bytes + 2 * MIB)
    _run(
        ["sfdisk", "--quiet", str(disk)],
        stdin=f"label: gpt\nstart=2048, size={size_bytes // 512}, type=lvm\n",
    )
    limits = ["--offset", str(FIRST_PARTITION_BYTES), "--sizelimit", str(size_bytes)]
    loop = _run(["losetup", "--find", "--show", *limits, str(disk)]).strip()
    try:
        config = (
            f'devices {{ filter=["a|^{loop}$|","r|.*|"] use_devicesfile=0 hints="none" }} '
            "backup { backup=0 archive=0 }"
        )
        metadata = disk.with_name("metadata")
        _run(["pvcreate", "-qq", "--config", config, loop])
        _run(["vgcreate", "-qq", "--config", config, group, loop])
        _run(["vgcfgbackup", "-qq", "--config", config, "-f", str(metadata), group])
        text = metadata.read_text(encoding="utf-8")
        end = text.index("\n}\n")
        metadata.write_text(
            text[:end] + _LOGICAL_VOLUME % (volume, extents) + text[end + 2 :], encoding="utf-8"
        )
        _run(["vgcfgrestore", "-qq", "--config", config, "-f", str(metadata), group])
    finally:
        _run(["losetup", "--detach", loop])
    filesystem = disk.with_name("volume")
    make_file_system(filesystem, "ext4", tree, extents * 4 * MIB)
    place(filesystem, disk, FIRST_PARTITION_BYTES + MIB)
    return disk


_LOGICAL_VOLUME = """
 logical_volumes { %s { id = "aaaaaa-bbbb-cccc-dddd-eeee-ffff-gggggg"
  status = ["READ", "WRITE", "VISIBLE"] flags = [] segment_count = 1
  segment1 { start_extent = 0 extent_count = %d type = "striped" stripe_count = 1 stripes = ["pv0", 0] } } }
}
"""


def read_initramfs(initrd: Path) -> Mapping[str, bytes]:
    """Name -> content of every member of an initramfs, unpacked by the programs that others use."""
    tree = initrd.with_name(f"{initrd.name}.unpacked")
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir()
    packed = initrd.read_bytes()
    with suppress(OSError):
        packed = gzip.decompress(packed)
    if packed.startswith(b"\x28\xb5\x2f\xfd"):
        packed = subprocess.run(
            ["zstd", "-d", "-c", initrd], check=True, capture_output=True, timeout=60
        ).stdout
    command = ["cpio", "--extract", "--make-directories", "--no-absolute-filenames", "--quiet"]
    subprocess.run(command, input=packed, cwd=tree, check=True, capture_output=True, timeout=60)
    return {
        path.relative_to(tree).as_posix(): str(path.readlink()).encode()
        if path.is_symlink()
        else path.read_bytes()
        for path in tree.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def _packed(content: bytes, path: str) -> bytes:
    if path.endswith(".xz"):
        return lzma.compress(content)
    if path.endswith(".gz"):
        return gzip.compress(content)
    if path.endswith(".zst"):
        return subprocess.run(
            ["zstd", "-c"], input=content, check=True, capture_output=True, timeout=60
        ).stdout
    return content


def _xfs_prototype(tree: Path) -> str:
    """mkfs.xfs's description of a directory tree (mkfs.xfs(8), -p)."""

    def describe(directory: Path, indent: str) -> list[str]:
        lines = []
        for path in sorted(directory.iterdir()):
            if path.is_symlink():
                lines.append(f"{indent}{path.name} l--777 0 0 {path.readlink()}")
            elif path.is_dir():
                lines += [f"{indent}{path.name} d--755 0 0", *describe(path, indent + " "), f"{indent}$"]
            else:
                lines.append(f"{indent}{path.name} ---644 0 0 {path}")
        return lines

    return "\n".join(["/none", "0 0", "d--755 0 0", *describe(tree, " "), "$"]) + "\n"


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _run(command: Sequence[str], *, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
