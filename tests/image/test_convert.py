"""Disk images that are taken in, and files that are not."""

import bz2
import gzip
import lzma
import os
import random
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from bmi.errors import InsufficientSpaceError, InvalidImageError, TimedOutError
from bmi.image.convert import convert, export_disk, probe
from tests.image import hostile
from tests.image.hostile import MIB, PACKERS, SIZE, disk_bytes


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


# Each format as its own writers make it: what -O and -o of qemu-img say, and what BMI calls it.
FORMATS = {
    "raw": ("raw", "raw"),
    "qcow2": ("qcow2", "qcow2"),
    "vmdk-sparse": ("vmdk", "vmdk"),
    "vmdk-stream": ("vmdk:subformat=streamOptimized", "vmdk"),
    "vdi": ("vdi", "vdi"),
    "vdi-static": ("vdi:static=on", "vdi"),
    "vhd": ("vpc:force_size=on", "vhd"),
    "vhd-fixed": ("vpc:subformat=fixed,force_size=on", "vhd"),
    "vhdx": ("vhdx", "vhdx"),
    "vhdx-fixed": ("vhdx:subformat=fixed,block_size=1048576", "vhdx"),
}


def _image(name: str) -> bytes:
    image_format, _, options = FORMATS[name][0].partition(":")
    return (
        disk_bytes() if name == "raw" else hostile.image(image_format, *options.split(",") if options else ())
    )


@pytest.mark.parametrize("compression", [None, "gzip", "xz", "zstd"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_and_compression_is_taken_in(tmp_path: Path, name: str, compression: str | None) -> None:
    source, target, work = tmp_path / "no.hint", tmp_path / "store" / "target", tmp_path / "work"
    target.parent.mkdir()
    work.mkdir()
    content = _image(name)
    source.write_bytes(PACKERS[compression](content) if compression else content)
    done = convert(source, target, timeout_s=60, work_dir=work)
    assert (done.size_bytes, done.format, done.compression) == (SIZE, FORMATS[name][1], compression)
    assert target.read_bytes() == disk_bytes()
    assert target.stat().st_blocks * 512 < MIB
    assert (target.stat().st_mode & 0o777, target.stat().st_uid) == (0o600, os.geteuid())
    assert [*target.parent.iterdir(), *work.iterdir()] == [target]


@pytest.mark.parametrize("name", FORMATS)
def test_a_probe_says_how_much_room_the_data_takes(tmp_path: Path, name: str) -> None:
    source, target = tmp_path / "disk", tmp_path / "target"
    source.write_bytes(_image(name))
    found = probe(source)
    convert(source, target, timeout_s=60)
    assert target.stat().st_blocks * 512 <= found.allocated_bytes <= found.virtual_size_bytes == SIZE


def _in_parts(pack: Callable[[bytes], bytes], between: bytes = b"") -> bytes:
    content = disk_bytes()
    return between.join([pack(content[:100]), pack(content[100:MIB]), pack(content[MIB:])])


_AS_LEVEL_9 = {"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 64 * MIB}
_SKIPPABLE = b"\x50\x2a\x4d\x18" + struct.pack("<I", 5) + b"hello"  # RFC 8878, 3.1.2


@pytest.mark.parametrize(
    "packed",
    [
        lambda: _in_parts(PACKERS["gzip"]),
        lambda: _in_parts(PACKERS["gzip"]) + bytes(512),  # as tapes and disks pad it
        lambda: _in_parts(PACKERS["xz"]),
        lambda: _in_parts(PACKERS["xz"], between=bytes(8)),
        lambda: _in_parts(PACKERS["zstd"]),
        lambda: _in_parts(PACKERS["zstd"], between=_SKIPPABLE),
        lambda: hostile.zstd(disk_bytes(), "--long=27"),
        lambda: lzma.compress(disk_bytes(), filters=[_AS_LEVEL_9]),
    ],
    ids=[
        "gzip",
        "gzip-padded",
        "xz",
        "xz-padded",
        "zstd",
        "zstd-skippable",
        "zstd-window-of-22",
        "xz-memory-of-9",
    ],
)
def test_a_compressed_file_may_have_several_parts(tmp_path: Path, packed: Callable[[], bytes]) -> None:
    source, target = tmp_path / "disk.packed", tmp_path / "target"
    source.write_bytes(packed())
    assert convert(source, target, timeout_s=60).size_bytes == SIZE
    assert target.read_bytes() == disk_bytes()


def test_unpacking_keeps_room_free(tmp_path: Path) -> None:
    source = tmp_path / "disk.gz"
    source.write_bytes(gzip.compress(disk_bytes()))
    with pytest.raises(InsufficientSpaceError, match="leave less than"):
        convert(source, tmp_path / "target", timeout_s=60, keep_free_bytes=1 << 60)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("name", ["raw", "qcow2"])
@pytest.mark.parametrize("source_format", ["vmdk-stream", "raw"])
def test_what_is_written_out_comes_in_again_as_the_same_bytes(
    tmp_path: Path, source_format: str, name: Literal["raw", "qcow2"]
) -> None:
    first, out, again = tmp_path / "first", tmp_path / "out", tmp_path / "again"
    (tmp_path / "disk").write_bytes(_image(source_format))
    convert(tmp_path / "disk", first, timeout_s=60)
    size_bytes = export_disk(first, out, image_format=name, timeout_s=60)
    assert size_bytes == out.stat().st_size
    assert out.stat().st_blocks * 512 < MIB
    assert convert(out, again, timeout_s=60).format == name
    assert again.read_bytes() == first.read_bytes() == disk_bytes()
    written = out.read_bytes()
    export_disk(first, out, image_format=name, timeout_s=60)
    assert out.read_bytes() == written  # a download can be resumed after it was made anew


def test_a_disk_that_looks_like_an_image_is_written_out_as_it_is(tmp_path: Path) -> None:
    """What a node wrote over its own volume is never interpreted."""
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.write_bytes(hostile.QCOW2[0].make())
    export_disk(disk, out, image_format="raw", timeout_s=60)
    assert out.read_bytes() == disk.read_bytes()


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
        (lambda path: path.write_bytes(bz2.compress(disk_bytes())), "bzip2"),
        (_tar, "tar archive"),
        (_iso, "ISO"),
        (lambda path: path.mkdir(), "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (lambda path: None, "cannot be read"),
    ],
    ids=["empty", "text", "random", "zeros", "bzip2", "tar", "iso", "directory", "fifo", "missing"],
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
        convert(raw, target, timeout_s=0)
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
    full_of_data.write_bytes(disk_bytes()[:MIB] + random.Random(4).randbytes(SIZE - MIB))
    with pytest.raises(InsufficientSpaceError) as caught:
        convert(full_of_data, small_disk / "target", timeout_s=60)
    assert caught.value.remedy
    assert list(small_disk.iterdir()) == []
