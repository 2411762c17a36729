"""The local store beyond the contract: loop files, loss of power, full disks, permissions."""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.drivers.storage import Ref, Usage, local, reflink
from bmi.errors import DriverError, InsufficientSpaceError
from tests.file_systems import mounted
from tests.killed import at_each_effect

pytestmark = pytest.mark.real

MIB, GIB = 1 << 20, 1 << 30
IMAGE, VOLUME = Ref("image", "i"), Ref("volume", "v")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory on ext4, so that a store in it needs a loop file."""
    with mounted(tmp_path, "ext4") as mount_point:
        path = mount_point / "bmi"
        yield path
        local.unmount(path)


def put_image(store: local.LocalStorage, size_bytes: int = MIB) -> None:
    store.staging_path(IMAGE.id).write_bytes(os.urandom(size_bytes))
    store.commit_image(IMAGE.id)


def disk_of(store: local.LocalStorage, ref: Ref) -> Path:
    with store.opened(ref) as path:
        return path


def write(store: local.LocalStorage, volume: Ref, data: bytes, offset: int = 0) -> None:
    with Path(store.backing(volume.id).location).open("r+b") as disk:
        disk.seek(offset)
        disk.write(data)


def loop_devices(path: Path) -> list[str]:
    listed = subprocess.run(
        ["losetup", "--noheadings", "-O", "NAME,DIO", "-j", path / "store.img"],
        capture_output=True,
        check=True,
    )
    return listed.stdout.decode().split("\n")[:-1]


def fill(path: Path) -> None:
    """Writes to `path` until there is no room left."""
    with path.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(MIB))


def clone_without_end(store: local.LocalStorage, made: list[str]) -> None:
    for number in itertools.count():
        store.clone(IMAGE, f"v-{number}")
        made.append(f"v-{number}")


def test_where_blocks_cannot_be_shared_a_loop_file_is_made_and_said(place: Path) -> None:
    said = local.create(path=str(place), size_gib=2).check()
    assert said == f"local store on btrfs in a loop file of 2 GiB on {place} (ext4 cannot share blocks)"
    assert (place / "store").is_mount()
    assert (place / "store.img").stat().st_blocks * 512 < 50 * MIB
    assert loop_devices(place)[0].split()[1] == "0", "the loop device must be buffered"


def test_by_default_the_loop_file_takes_most_of_the_free_space(place: Path) -> None:
    local.create(path=str(place)).check()
    assert (place / "store.img").stat().st_size == 2 * GIB  # 80 % of 4 GiB less what ext4 needs, in whole GiB


def test_where_blocks_can_be_shared_no_loop_file_is_made(tmp_path: Path) -> None:
    with mounted(tmp_path, "xfs") as mount_point:
        store = local.create(path=str(mount_point / "bmi"))
        assert store.check() == f"local store on XFS at {mount_point / 'bmi'}"
        assert not (mount_point / "bmi/store.img").exists()
        local.unmount(mount_point / "bmi")  # nothing to do, no harm
        assert store.list() == []


def test_the_store_is_found_again_after_a_reboot_by_whatever_call_comes_first(place: Path) -> None:
    store = local.create(path=str(place), size_gib=1)
    put_image(store)
    local.unmount(place)
    assert loop_devices(place) == []
    assert store.clone(IMAGE, VOLUME.id) == MIB
    local.unmount(place)
    assert {found.ref for found in local.create(path=str(place)).list()} == {IMAGE, VOLUME}
    assert len(loop_devices(place)) == 1


def test_processes_that_race_make_one_store(place: Path) -> None:
    script = f"from bmi.drivers.storage.local import create; print(create(path={str(place)!r}, size_gib=1).check())"
    racers = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) for _ in range(6)]
    said = {racer.communicate(timeout=60)[0] for racer in racers}
    assert [racer.returncode for racer in racers] == [0] * 6
    assert len(said) == 1
    assert len(loop_devices(place)) == 1
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    assert mounts.count(f" {place}/store ") == 1


def test_killed_while_the_store_is_made_the_next_call_completes_it(place: Path) -> None:
    store = local.create(path=str(place), size_gib=1)
    deaths = 0
    for _ in at_each_effect(store.check):
        deaths += 1
        assert "loop file of 1 GiB" in store.check()
        assert len(loop_devices(place)) == 1
        local.unmount(place)
        shutil.rmtree(place)
    assert deaths > 5
    assert sorted(found.name for found in place.iterdir()) == ["store", "store.img", "store.lock"]


def test_what_a_call_did_survives_the_loss_of_power(place: Path) -> None:
    """What has reached the loop file when the call returns is all that is kept."""
    store = local.create(path=str(place), size_gib=1)
    image, kept = place / "store.img", place / "kept.img"

    def lose_power() -> None:
        subprocess.run(["cp", "--sparse=always", image, kept], check=True)
        local.unmount(place)
        kept.rename(image)

    put_image(store)
    content = disk_of(store, IMAGE).read_bytes()
    lose_power()
    assert disk_of(store, IMAGE).read_bytes() == content
    store.clone(IMAGE, VOLUME.id)
    lose_power()
    assert disk_of(store, VOLUME).read_bytes() == content
    store.snapshot(VOLUME.id, "s")
    lose_power()
    assert disk_of(store, Ref("snapshot", "s")).read_bytes() == content
    write(store, VOLUME, b"to be undone")
    store.roll_back(VOLUME.id, "s")
    lose_power()
    assert disk_of(store, VOLUME).read_bytes() == content
    store.resize(VOLUME.id, 2 * MIB)
    lose_power()
    assert disk_of(store, VOLUME).read_bytes() == content + bytes(MIB)
    store.delete(VOLUME)
    lose_power()
    assert {found.ref for found in store.list()} == {IMAGE, Ref("snapshot", "s")}


def test_a_killed_roll_back_leaves_nothing_when_its_volume_is_deleted(place: Path) -> None:
    store = local.create(path=str(place), size_gib=1)
    put_image(store)
    store.clone(IMAGE, VOLUME.id)
    store.snapshot(VOLUME.id, "s")
    left = set()
    for _ in at_each_effect(lambda: store.roll_back(VOLUME.id, "s")):
        left |= {found.name for found in (place / "store").iterdir()}
        store.delete(VOLUME)
        assert {found.name for found in (place / "store").iterdir()} == {
            "bmi-image-i.raw",
            "bmi-snapshot-s.raw",
            "staging",
        }
        store.clone(IMAGE, VOLUME.id)
    assert "bmi-volume-v.new" in left, "this test has missed the moment it is about"


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_unique_bytes_are_what_a_delete_frees(tmp_path: Path, kind: str) -> None:
    with mounted(tmp_path, kind) as mount_point:
        store = local.create(path=str(mount_point))
        put_image(store, 8 * MIB)
        assert store.usage(IMAGE) == Usage(8 * MIB, 8 * MIB)
        store.clone(IMAGE, VOLUME.id, size_bytes=64 * MIB)
        write(store, VOLUME, bytes(MIB))
        write(store, VOLUME, b"x" * 4096, 40 * MIB)
        assert store.usage(VOLUME) == Usage(8 * MIB + 4096, MIB + 4096)
        # btrfs frees an extent when nobody uses any part of it, XFS frees block by block.
        assert store.usage(IMAGE) == Usage(8 * MIB, MIB if kind == "xfs" else 0)
        store.delete(IMAGE)
        deadline = time.monotonic() + 60
        while store.usage(VOLUME).unique_bytes < 8 * MIB + 4096 and time.monotonic() < deadline:
            time.sleep(0.01)  # the file system frees in the background
        assert store.usage(VOLUME) == Usage(8 * MIB + 4096, 8 * MIB + 4096)


def test_everything_is_private_and_images_are_read_only(place: Path) -> None:
    store = local.create(path=str(place), size_gib=1)
    put_image(store)
    store.clone(IMAGE, VOLUME.id)
    store.snapshot(VOLUME.id, "s")
    modes = {found.name: found.stat().st_mode & 0o777 for found in place.rglob("*")}
    assert modes == {
        "store": 0o700,
        "store.img": 0o600,
        "store.lock": 0o600,
        "staging": 0o700,
        "bmi-image-i.raw": 0o400,
        "bmi-volume-v.raw": 0o600,
        "bmi-snapshot-s.raw": 0o400,
    }
    assert place.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_clones_take_no_room_and_writes_little(tmp_path: Path, kind: str) -> None:
    with mounted(tmp_path, kind) as mount_point:
        store = local.create(path=str(mount_point))
        put_image(store, 64 * MIB)
        free_bytes = store.space().free_bytes
        for number in range(10):
            store.clone(IMAGE, f"v-{number}")
        with disk_of(store, Ref("volume", "v-1")).open("r+b", buffering=0) as disk:
            for block in range(200):
                os.pwrite(disk.fileno(), b"x" * 4096, block * 300_000 // 4096 * 4096)
            os.fsync(disk.fileno())
        assert free_bytes - store.space().free_bytes < 4 * MIB


def test_a_full_store_is_said_and_nothing_is_half_done(place: Path) -> None:
    store = local.create(path=str(place), size_gib=1)
    put_image(store, 8 * MIB)
    store.clone(IMAGE, VOLUME.id)
    fill(place / "store/staging/filler")
    made: list[str] = []
    with pytest.raises(InsufficientSpaceError) as caught:
        clone_without_end(store, made)
    assert caught.value.remedy
    whole = {found.ref.id for found in store.list() if found.size_bytes == 8 * MIB}
    assert whole == {IMAGE.id, VOLUME.id, *made}


def test_space_is_never_more_than_the_disk_below_can_give(place: Path) -> None:
    store = local.create(path=str(place), size_gib=100)
    space = store.space()
    assert space.total_bytes == 100 * GIB
    assert space.free_bytes <= 4 * GIB


def test_no_room_for_a_loop_file_is_said(tmp_path: Path) -> None:
    with mounted(tmp_path, "ext4", size_mib=512) as mount_point:
        with pytest.raises(InsufficientSpaceError, match="less than 1 GiB"):
            local.create(path=str(mount_point / "bmi")).check()
        assert not (mount_point / "bmi/store.img").exists()


def test_room_of_deleted_volumes_goes_back_to_the_disk_below(place: Path) -> None:
    store = local.create(path=str(place), size_gib=2)
    put_image(store, MIB)
    taken_blocks = (place / "store.img").stat().st_blocks
    store.clone(IMAGE, VOLUME.id)
    with disk_of(store, VOLUME).open("wb") as disk:
        disk.write(os.urandom(200 * MIB))
        os.fsync(disk.fileno())
    store.delete(VOLUME)
    subprocess.run(["sync", "-f", place / "store"], check=True)  # as happens by itself every 30 s
    deadline = time.monotonic() + 120
    while (
        place / "store.img"
    ).stat().st_blocks > taken_blocks + 100 * MIB // 512 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert (place / "store.img").stat().st_blocks <= taken_blocks + 100 * MIB // 512


def test_unmounting_a_store_in_use_fails_and_may_be_tried_again(place: Path) -> None:
    store = local.create(path=str(place), size_gib=1)
    put_image(store)
    with disk_of(store, IMAGE).open("rb"), pytest.raises(DriverError) as caught:
        local.unmount(place)
    assert caught.value.retryable
    local.unmount(place)
    local.unmount(place)
    assert loop_devices(place) == []


def test_a_staged_disk_of_half_a_sector_is_refused(place: Path) -> None:
    store = local.create(path=str(place), size_gib=1)
    store.staging_path(IMAGE.id).write_bytes(bytes(700))
    with pytest.raises(DriverError, match="sectors"):
        store.commit_image(IMAGE.id)
    assert store.list() == []


def test_strange_files_in_the_store_are_not_objects(place: Path) -> None:
    store = local.create(path=str(place), size_gib=1)
    store.check()
    for name in ("bmi-image-.raw", "bmi-kernel-x.raw", "notes.txt", "bmi-volume-x", "other-image-x.raw"):
        (place / "store" / name).write_bytes(bytes(512))
    assert store.list() == []


def test_block_sharing_is_found_out_by_trying(tmp_path: Path) -> None:
    for kind, can in (("xfs", True), ("btrfs", True), ("ext4", False)):
        with mounted(tmp_path, kind) as mount_point:
            assert reflink.can_share(mount_point) is can
            assert [found for found in mount_point.iterdir() if found.name != "lost+found"] == []
