"""Disk images that are taken in, and files that are not."""

import gzip
import os
import random
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bmi.errors import InsufficientSpaceError, InvalidImageError, TimedOutError
from bmi.image.convert import convert, probe

MIB = 1 << 20
SIZE = 8 * MIB


def disk_bytes(size: int = SIZE, partition_end: int = SIZE) -> bytes:
    """A disk with an MBR, one partition, and data in two places."""
    disk = bytearray(size)
    disk[446:462] = struct.pack("<B3xB3xII", 0x80, 0x83, 2048, partition_end // 512 - 2048)
    disk[510:512] = b"\x55\xaa"
    disk[MIB : MIB + 100_000] = random.Random(1).randbytes(100_000)
    disk[-5000:] = random.Random(2).randbytes(5000)
    return bytes(disk)


def qemu_img(*arguments: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(disk_bytes())
    return path


@pytest.fixture(params=["plain", "compressed", "extended-l2", "compat-0.10", "small-clusters"])
def qcow2(request: pytest.FixtureRequest, raw: Path, tmp_path: Path) -> Path:
    options = {
        "plain": [],
        "compressed": ["-c"],
        "extended-l2": ["-o", "extended_l2=on,cluster_size=64k"],
        "compat-0.10": ["-o", "compat=0.10"],
        "small-clusters": ["-o", "cluster_size=512"],
    }[request.param]
    path = tmp_path / "disk.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, raw, path)
    return path


def refused(path: Path, tmp_path: Path, word: str) -> None:
    """Asserts that `path` is refused with `word` in the sentence, and that nothing is left behind."""
    target = tmp_path / "target"
    with pytest.raises(InvalidImageError, match=word):
        convert(path, target, timeout_s=60)
    assert not target.exists()


def test_raw_is_taken_in_sparse_and_private(raw: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    assert probe(raw).format == "raw"
    assert convert(raw, target, timeout_s=60).size_bytes == SIZE
    assert target.read_bytes() == raw.read_bytes()
    assert target.stat().st_blocks * 512 < MIB
    assert target.stat().st_mode & 0o777 == 0o600


def test_qcow2_is_taken_in_sparse_and_private(qcow2: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    found = probe(qcow2)
    assert (found.format, found.virtual_size_bytes) == ("qcow2", SIZE)
    assert convert(qcow2, target, timeout_s=60).size_bytes == SIZE
    assert target.read_bytes() == disk_bytes()
    assert target.stat().st_blocks * 512 < MIB
    assert target.stat().st_mode & 0o777 == 0o600


def test_an_old_target_is_replaced(raw: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(os.urandom(2 * SIZE))
    with target.open("r+b") as orphan:
        convert(raw, target, timeout_s=60)
        orphan.write(b"late write of a program that was left over")
        orphan.flush()
        assert target.read_bytes() == disk_bytes()


@pytest.mark.parametrize("cut_bytes", [1, 512, 3000, 65536, 100_000])
def test_truncated_qcow2_is_refused(qcow2: Path, tmp_path: Path, cut_bytes: int) -> None:
    os.truncate(qcow2, qcow2.stat().st_size - cut_bytes)
    refused(qcow2, tmp_path, "truncated")


def test_qcow2_that_lacks_compressed_data_is_refused(tmp_path: Path) -> None:
    content = bytearray(disk_bytes())
    content[-5000:] = b"compressible" * 416 + bytes(8)
    raw, path = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    raw.write_bytes(content)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", "-c", raw, path)
    os.truncate(path, path.stat().st_size - 512)
    refused(path, tmp_path, "truncated")


@pytest.mark.parametrize("kept_bytes", [4, 71, 104, 512])
def test_qcow2_without_its_tables_is_refused(qcow2: Path, tmp_path: Path, kept_bytes: int) -> None:
    os.truncate(qcow2, kept_bytes)
    refused(qcow2, tmp_path, "truncated|damaged")


def test_damaged_qcow2_is_refused(raw: Path, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, path)
    with path.open("r+b") as file:  # the reference counts, which start at the second cluster
        file.seek(65536)
        file.write(os.urandom(4096))
    refused(path, tmp_path, "damaged")


def test_backing_file_is_refused(raw: Path, tmp_path: Path) -> None:
    path = tmp_path / "difference.qcow2"
    qemu_img("create", "-f", "qcow2", "-b", raw, "-F", "raw", path)
    refused(path, tmp_path, "backing file")


def test_external_data_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "metadata.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'},data_file_raw=on", path, "8M")
    refused(path, tmp_path, "in another file")


def test_encrypted_qcow2_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.qcow2"
    qemu_img("create", "-f", "qcow2", path, "8M")
    with path.open("r+b") as file:
        file.seek(
            32
        )  # crypt_method; by hand, because qemu-img measures the processor and fails on a busy one
        file.write((2).to_bytes(4, "big"))
    refused(path, tmp_path, "encrypted")


@pytest.mark.parametrize("image_format", ["vmdk", "vdi", "vpc", "vhdx", "qed", "parallels"])
def test_other_formats_are_named(raw: Path, tmp_path: Path, image_format: str) -> None:
    path = tmp_path / "disk.other"
    qemu_img("convert", "-f", "raw", "-O", image_format, raw, path)
    refused(path, tmp_path, "VMDK|VDI|VHD|VHDX|QED|Parallels")


def _tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__)


def _iso(path: Path) -> None:
    content = bytearray(disk_bytes())  # as hybrid images are: with an MBR
    content[0x8001:0x8006] = b"CD001"
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_text("Not found\n" * 500), "not a disk image"),
        (lambda path: path.write_bytes(random.Random(3).randbytes(MIB)), "not a disk image"),
        (lambda path: path.write_bytes(bytes(MIB)), "not a disk image"),
        (lambda path: path.write_bytes(gzip.compress(disk_bytes())), "gzip"),
        (_tar, "tar archive"),
        (_iso, "ISO"),
        (lambda path: path.mkdir(), "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (lambda path: None, "cannot be read"),
    ],
    ids=["empty", "text", "random", "zeros", "gzip", "tar", "iso", "directory", "fifo", "missing"],
)
def test_what_is_no_disk_is_refused(tmp_path: Path, make: Callable[[Path], object], word: str) -> None:
    path = tmp_path / "file.qcow2"  # names do not matter
    make(path)
    refused(path, tmp_path, word)


def test_truncated_raw_disk_is_refused(raw: Path, tmp_path: Path) -> None:
    os.truncate(raw, SIZE // 2)
    refused(raw, tmp_path, "truncated")


def test_truncated_gpt_disk_is_refused(raw: Path, tmp_path: Path) -> None:
    subprocess.run(["sfdisk", "-q", raw], input=b"label: gpt\nsize=4M\n", check=True)
    assert probe(raw).format == "raw"
    os.truncate(raw, SIZE - 512)
    refused(raw, tmp_path, "truncated")


def test_bare_file_system_is_a_disk(tmp_path: Path) -> None:
    path = tmp_path / "root.img"
    path.write_bytes(bytes(SIZE))
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
    assert convert(path, tmp_path / "target", timeout_s=60).size_bytes == SIZE


def test_odd_size_is_padded_to_a_sector(tmp_path: Path) -> None:
    path, target = tmp_path / "odd.raw", tmp_path / "target"
    content = disk_bytes() + b"tail"
    path.write_bytes(content)
    assert convert(path, target, timeout_s=60).size_bytes == SIZE + 512
    assert target.read_bytes() == content + bytes(508)


def test_absurd_sizes_are_refused(raw: Path, tmp_path: Path) -> None:
    huge = tmp_path / "huge.qcow2"
    qemu_img("create", "-f", "qcow2", huge, "20T")
    refused(huge, tmp_path, "declares a disk of")
    with pytest.raises(InvalidImageError, match="declares"):
        probe(raw, max_size_bytes=SIZE - 1)
    assert probe(raw, max_size_bytes=SIZE).virtual_size_bytes == SIZE


def test_qcow2_file_name_is_never_taken_for_a_protocol(raw: Path, tmp_path: Path) -> None:
    path = tmp_path / 'nbd:localhost,"x",file.filename=y.raw'
    raw.rename(path)
    assert convert(path, tmp_path / "target", timeout_s=60).size_bytes == SIZE


def test_time_limit_leaves_nothing_behind(raw: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    with pytest.raises(TimedOutError):
        convert(raw, target, timeout_s=0.0001)
    assert not target.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 4 MiB."""
    mount_point = tmp_path / "small"
    mount_point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "bmi-test", mount_point], check=True)
    yield mount_point
    subprocess.run(["umount", mount_point], check=True)


@pytest.mark.real
def test_full_disk_is_said_and_leaves_nothing_behind(tmp_path: Path, small_disk: Path) -> None:
    full_of_data = tmp_path / "full.raw"
    full_of_data.write_bytes(disk_bytes(MIB, SIZE)[:MIB] + random.Random(4).randbytes(SIZE - MIB))
    with pytest.raises(InsufficientSpaceError) as caught:
        convert(full_of_data, small_disk / "target", timeout_s=60)
    assert caught.value.remedy
    assert list(small_disk.iterdir()) == []
