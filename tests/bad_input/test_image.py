"""Files that are no images end in a problem, and their names are free for better ones."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bmi.errors import InvalidImageError, InvalidInputError
from tests.bad_input.conftest import Place


def qcow2(path: Path, *more: str) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "16M", *more], check=True)


def no_image(disk: Path) -> None:
    disk.write_text("this is no image\n" * 100)


def iso(disk: Path) -> None:
    disk.write_bytes(bytes(0x8001) + b"CD001" + bytes(1 << 20))


def truncated(disk: Path) -> None:
    qcow2(disk)
    subprocess.run(["qemu-io", "-c", "write 0 8M", disk], check=True, capture_output=True)
    os.truncate(disk, 4 << 20)


def with_backing_file(disk: Path) -> None:
    qcow2(disk.with_name("base"))
    qcow2(disk, "-b", str(disk.with_name("base")), "-F", "qcow2")


def with_data_file(disk: Path) -> None:
    qcow2(disk, "-o", f"data_file={disk.with_name('data')}")


def too_large(disk: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "2G"], check=True)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_image, "is not a disk image"),
        (iso, "ISO image"),
        (truncated, "truncated"),
        (with_backing_file, "backing file"),
        (with_data_file, "another file"),
        (too_large, "2 GiB"),
    ],
)
def test_a_file_that_is_no_image(
    place: Place, tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good"
    make(bad)
    qcow2(good)
    before = place.everything()

    problem = place.fails(place.client.import_image("rocky-9", bad))

    assert isinstance(problem, InvalidImageError)
    assert problem.detail.startswith("The file of image 'rocky-9' ")
    assert said in problem.detail
    assert place.everything() == before
    place.succeeds(place.client.import_image("rocky-9", good))
    assert place.client.get_image("rocky-9")["state"] == "ready"
    place.succeeds(place.client.delete_image("rocky-9"))
    assert place.everything() == before


def test_a_file_that_is_not_there_is_not_sent(place: Place, tmp_path: Path) -> None:
    before = place.everything()
    with pytest.raises(InvalidInputError, match="missing"):
        place.client.import_image("rocky-9", tmp_path / "missing")
    assert place.everything() == before
