"""Reading files out of a disk image that nobody mounts."""

from pathlib import Path

import pytest

from bmi.errors import InvalidImageError
from bmi.image.disk import Entry, FileSystem, file_systems
from tests.image import disks
from tests.image.disks import Partition


@pytest.fixture
def root(tmp_path: Path) -> FileSystem:
    tree = tmp_path / "tree"
    disks.add_file(tree, "etc/a file", "two words\n")
    disks.add_file(tree, "etc/conf.d/x", "x")
    (tree / "etc/link").symlink_to("conf.d/x")
    (tree / "etc/dangling").symlink_to("/nowhere")
    disk = disks.make_disk(tmp_path / "disk", "gpt", [Partition("ext4", tree)])
    (found,) = file_systems(disk)
    return found


def test_a_directory_lists_what_can_be_opened(root: FileSystem) -> None:
    assert root.list("/etc") == [
        Entry("a file", is_directory=False, size_bytes=10),
        Entry("conf.d", is_directory=True, size_bytes=0),
        Entry("link", is_directory=False, size_bytes=1),
    ]
    assert root.list("/nowhere") == []


def test_a_link_reads_as_the_file_it_leads_to(root: FileSystem) -> None:
    assert root.read_text("/etc/link") == "x"
    assert root.read_text("/etc/a file") == "two words\n"
    assert root.read_text("/etc/dangling") == ""
    assert root.read_text("/etc/conf.d") == ""


def test_no_link_leaves_the_image(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of this machine", encoding="utf-8")
    tree = tmp_path / "tree"
    tree.mkdir()
    targets = [str(secret), f"(host){secret}", f"../../..{secret}", f"/(host){secret}"]
    for name, target in zip("abcd", targets, strict=True):
        (tree / name).symlink_to(target)
    (found,) = file_systems(disks.make_disk(tmp_path / "disk", "gpt", [Partition("ext4", tree)]))
    assert [found.read_text(f"/{name}") for name in "abcd"] == ["", "", "", ""]


def test_a_file_larger_than_the_limit_is_refused(root: FileSystem, tmp_path: Path) -> None:
    root.copy("/etc/a file", tmp_path / "copy", limit_bytes=10)
    assert (tmp_path / "copy").read_text(encoding="utf-8") == "two words\n"
    with pytest.raises(InvalidImageError, match="larger than"):
        root.copy("/etc/a file", tmp_path / "copy", limit_bytes=9)
    with pytest.raises(InvalidImageError, match="missing"):
        root.copy("/etc/dangling", tmp_path / "copy", limit_bytes=10)


@pytest.mark.parametrize(
    ("device", "partition", "logical_volume"),
    [
        ("loop0", None, None),
        ("loop0,gpt12", 12, None),
        ("loop0,msdos5", 5, None),
        ("loop0,msdos2,bsd1", None, None),
        ("lvm/vg0-root", None, ("vg0", "root")),
        ("lvm/my--vg-lv--a--b", None, ("my-vg", "lv-a-b")),
    ],
)
def test_names_of_devices_are_understood(
    device: str, partition: int | None, logical_volume: tuple[str, str] | None
) -> None:
    found = FileSystem(Path("disk"), device, "ext*")
    assert (found.partition, found.logical_volume) == (partition, logical_volume)


def test_partitions_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    disks.add_file(tmp_path / "tree", "x", "x")
    disk = disks.make_disk(tmp_path / "disk", "gpt", [Partition("ext4", tmp_path / "tree")] * 11)
    assert [found.partition for found in file_systems(disk)] == list(range(1, 12))
