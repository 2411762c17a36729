"""Where two files differ, from where their bytes lie: by hand, and on every kind of extent there is."""

import os
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bmi.drivers.storage import Extent, reflink
from bmi.drivers.storage.extents import Run, differing, merged, runs_of
from tests.file_systems import mounted

KIB = 1024
FALLOCATED_BYTES = 256 * KIB


def run(start: int, end: int, home: object = 0) -> Run:
    return Run(start, end, home, shared=False)


@pytest.mark.parametrize(
    ("older", "newer", "differ"),
    [
        ([], [], []),
        ([run(0, 10)], [run(0, 10)], []),
        ([run(0, 10)], [run(0, 4), run(4, 10)], []),
        ([run(0, 10)], [run(0, 4), run(4, 6, home=7), run(6, 10)], [Extent(4, 2)]),
        ([run(0, 4)], [run(0, 10)], [Extent(4, 6)]),
        ([run(0, 10)], [run(6, 10)], [Extent(0, 6)]),
        ([run(0, 10, home=None)], [], []),
        ([run(0, 10, home=object())], [run(0, 10, home=object())], [Extent(0, 10)]),
        ([run(2, 4, home=1)], [run(3, 5, home=2)], [Extent(2, 3)]),
        ([], [run(0, 2), run(8, 99)], [Extent(0, 2), Extent(8, 2)]),
        ([run(20, 30)], [], []),
    ],
)
def test_files_differ_where_their_homes_do(older: list[Run], newer: list[Run], differ: list[Extent]) -> None:
    assert differing(older, newer, size_bytes=10) == differ
    assert differing(newer, older, size_bytes=10) == differ


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9))))
def test_merged_extents_are_the_same_bytes_in_fewer_parts(parts: list[tuple[int, int]]) -> None:
    extents = [Extent(offset, length) for offset, length in sorted(parts)]
    found = merged(extents)

    def inside(some: list[Extent]) -> set[int]:
        return {at for extent in some for at in range(extent.offset, extent.offset + extent.length)}

    assert inside(found) == inside(extents)
    assert all(one.offset + one.length < other.offset for one, other in pairwise(found))


@pytest.fixture(scope="module", params=["xfs", "btrfs", "btrfs, compressed"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    kind, _, compressed = request.param.partition(", ")
    with mounted(tmp_path_factory.mktemp("extents"), kind, size_mib=1024) as mount_point:
        if compressed:
            subprocess.run(["mount", "-o", "remount,compress-force=zstd", mount_point], check=True)
        yield mount_point


def shared_copy(path: Path) -> Path:
    copy = path.with_suffix(".copy")
    with path.open("rb") as source, copy.open("wb") as target:
        reflink.share_all(source.fileno(), target.fileno())
    return copy


def found_in(older: Path, newer: Path) -> list[Extent]:
    with older.open("rb") as one, newer.open("rb") as other:
        return differing(runs_of(one.fileno()), runs_of(other.fileno()), newer.stat().st_size)


def assert_covered(older: Path, newer: Path) -> None:
    """Every byte that differs lies in an extent that is said to differ."""
    before, content = bytearray(older.read_bytes()), newer.read_bytes()
    for extent in found_in(older, newer):
        part = slice(extent.offset, extent.offset + extent.length)
        before[part] = content[part]
    assert bytes(before) == content


@pytest.mark.real
@pytest.mark.parametrize("size_bytes", [512, 4096, 256 * KIB, 256 * KIB + 512])
def test_a_change_is_found_in_whatever_way_the_file_system_keeps_it(directory: Path, size_bytes: int) -> None:
    """512 bytes lie inline on btrfs, and compressed extents have no place of their own."""
    original = directory / f"{size_bytes}.raw"
    original.write_bytes(b"text" * (size_bytes // 4))
    copy = shared_copy(original)
    with copy.open("r+b") as disk:
        for offset in range(100, size_bytes, 64 * KIB):
            disk.seek(offset)
            disk.write(b"new")
        disk.flush()
        assert_covered(original, copy)
    assert_covered(copy, original)


@pytest.mark.real
def test_what_was_reserved_and_never_written_reads_as_zeros(directory: Path) -> None:
    reserved, empty = directory / "reserved.raw", directory / "empty.raw"
    with reserved.open("wb") as disk:
        os.posix_fallocate(disk.fileno(), 0, FALLOCATED_BYTES)
    with empty.open("wb") as disk:
        disk.truncate(FALLOCATED_BYTES)
    assert found_in(empty, reserved) == []
    with reserved.open("r+b") as disk:
        disk.seek(128 * KIB)
        disk.write(b"x")
        disk.flush()
        assert_covered(empty, reserved)
    assert sum(extent.length for extent in found_in(empty, reserved)) <= 128 * KIB


@pytest.mark.real
def test_a_punched_hole_is_a_change(directory: Path) -> None:
    """As the exporter does when the node discards."""
    original = directory / "punched.raw"
    original.write_bytes(os.urandom(256 * KIB))
    copy = shared_copy(original)
    subprocess.run(["fallocate", "--punch-hole", "-o", "65536", "-l", "4096", copy], check=True)
    assert_covered(original, copy)
    assert_covered(copy, original)


@pytest.mark.real
def test_more_extents_than_one_call_brings(directory: Path) -> None:
    original = directory / "scattered.raw"
    with original.open("wb") as disk:
        disk.truncate(3000 * 8 * KIB)
        for number in range(3000):
            os.pwrite(disk.fileno(), b"data", number * 8 * KIB)
    with original.open("rb") as disk:
        runs = runs_of(disk.fileno())
    assert len(runs) == 3000
    assert [found.start for found in runs] == [number * 8 * KIB for number in range(3000)]
    copy = shared_copy(original)
    with copy.open("r+b") as disk:
        disk.seek(2999 * 8 * KIB)
        disk.write(b"DATA")
    assert_covered(original, copy)
