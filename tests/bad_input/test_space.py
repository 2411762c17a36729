"""Disks that are full, or nearly so."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bmi.api.app import create_app
from bmi.client import Client
from bmi.drivers.storage import Ref, fake, local
from bmi.errors import InsufficientSpaceError
from tests.bad_input.conftest import Place
from tests.file_systems import mounted
from tests.live import serving

MIB, GIB = 1 << 20, 1 << 30
real = pytest.mark.real


# ---- the reserve ------------------------------------------------------------------------------------


def shrink(place: Place, total_bytes: int) -> None:
    """The store has this much room altogether."""
    place.equip(storage=fake.create(root=str(place.site.directory / "storage"), total_bytes=total_bytes))


@pytest.mark.parametrize(
    ("total_gib", "reserve_gib", "reserve_percent", "refused"),
    [
        (1, 1, 2, True),  # 4 KiB are used
        (2, 1, 2, False),
        (100, 1, 99.9999999, True),
        (100, 1, 50, False),
        (1, 0, 0, False),
    ],
)
def test_a_clone_leaves_the_reserve_alone(
    place: Place, total_gib: int, reserve_gib: float, reserve_percent: float, refused: bool
) -> None:
    shrink(place, total_gib * GIB)
    place.equip(reserve_gib=reserve_gib, reserve_percent=reserve_percent)
    before, outside = place.everything(), place.outside()
    asked = place.client.provision_node("n1", image="debian-12", project="red")
    if not refused:
        place.succeeds(asked, "n1")
        return
    problem = place.fails(asked)
    assert isinstance(problem, InsufficientSpaceError)
    assert "GiB free, of which" in problem.detail
    assert place.outside() == outside

    shrink(place, 1000 * GIB)
    place.equip(reserve_percent=2)
    place.succeeds(place.client.retry_operation(asked["id"]), "n1")
    place.succeeds(place.client.release_node("n1"))
    place.succeeds(place.client.free_node("n1"))
    assert place.everything() == before


def test_a_snapshot_leaves_the_reserve_alone(place: Place) -> None:
    place.succeeds(place.client.provision_node("n1", image="debian-12", project="red"), "n1")
    before = place.everything()
    shrink(place, GIB)

    assert isinstance(place.fails(place.client.create_snapshot("n1", "s1")), InsufficientSpaceError)

    assert place.everything() == before
    assert place.client.get_node("n1")["state"] == "active", "the node itself is well"
    shrink(place, 1000 * GIB)
    place.succeeds(place.client.create_snapshot("n1", "s1"))


def test_an_import_leaves_the_reserve_alone(place: Place, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
    subprocess.run(["qemu-io", "-c", "write 0 1M", disk], check=True, capture_output=True)
    before = place.everything()
    shrink(place, GIB)

    problem = place.fails(place.client.import_image("rocky-9", disk))

    assert isinstance(problem, InsufficientSpaceError)
    assert "this needs about" in problem.detail
    assert place.everything() == before
    shrink(place, 1000 * GIB)
    place.succeeds(place.client.import_image("rocky-9", disk))


# ---- real disks -------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk."""
    with mounted(tmp_path, "btrfs", size_mib=512) as mount_point:
        yield mount_point


def fill(disk: Path, leave_mib: int) -> Path:
    """Takes the room of a disk but for about this much."""
    filler, left = disk / "filler", leave_mib * MIB
    with filler.open("wb", buffering=0) as file:
        while os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > left:
            file.write(os.urandom(8 * MIB))
            os.fsync(file)
    return filler


@real
def test_a_disk_that_becomes_full_during_a_conversion(place: Place, disk: Path, tmp_path: Path) -> None:
    place.equip(storage=local.create(path=str(disk / "store")), reserve_gib=0, reserve_percent=0)
    raw, packed = tmp_path / "raw", tmp_path / "packed"
    raw.write_bytes((b"x" * 511 + b"\n") * (300 * MIB // 512))
    # A partition table, so that it is a disk.
    subprocess.run(["sfdisk", "-q", raw], input=b"label: dos\n,,L\n", check=True)
    with packed.open("wb") as file:
        # How much it needs shows only while it is unpacked.
        subprocess.run(["gzip", "-1", "-c", raw], stdout=file, check=True)
    place.tools.storage.check()
    before, filler = place.everything(), fill(disk, 120)

    problem = place.fails(place.client.import_image("rocky-9", packed))

    assert isinstance(problem, InsufficientSpaceError)
    assert "filled up" in problem.detail
    assert place.everything() == before
    filler.unlink()
    subprocess.run(["sync", "-f", disk], check=True)
    place.succeeds(place.client.import_image("rocky-9", packed))


@real
def test_a_store_that_is_full_takes_no_node(place: Place, disk: Path) -> None:
    storage = local.create(path=str(disk / "store"))
    place.equip(storage=storage, reserve_gib=0.1)
    [image] = [image for image in place.site.everything()["images"] if image["name"] == "debian-12"]
    storage.staging_path(image["id"]).write_bytes(bytes(MIB))
    storage.commit_image(image["id"])
    before, outside, filler = place.everything(), place.outside(), fill(disk, 60)

    failed = place.client.provision_node("n1", image="debian-12", project="red")
    assert isinstance(place.fails(failed), InsufficientSpaceError)

    assert place.outside() == outside
    filler.unlink()
    subprocess.run(["sync", "-f", disk], check=True)
    place.succeeds(place.client.retry_operation(failed["id"]), "n1")
    assert len(storage.list()) == 2
    place.succeeds(place.client.release_node("n1"))
    place.succeeds(place.client.free_node("n1"))
    assert [found.ref for found in storage.list()] == [Ref("image", image["id"])]
    assert place.everything() == before


@real
def test_a_full_disk_takes_no_upload(place: Place, disk: Path) -> None:
    """Neither one that announces its size nor one that does not."""
    uploads = disk / "uploads"
    uploads.mkdir()
    filler = fill(disk, 60)
    before = place.everything()
    token = place.site.token("uploader")
    size = 200 * MIB
    with serving(create_app(place.site.core, uploads_dir=uploads)) as url:
        image = disk.with_name("disk.raw")
        with image.open("wb") as file:
            file.truncate(size)
        with Client(url, token) as client, pytest.raises(InsufficientSpaceError):
            client.import_image("rocky-9", image)
        with httpx.Client(headers={"Authorization": f"Bearer {token}"}, trust_env=False) as http:
            chunks = (os.urandom(MIB) for _ in range(size // MIB))
            answer = http.post(f"{url}/v1/images?name=rocky-9", content=chunks, timeout=60)
        assert answer.status_code == 507
        assert answer.json()["type"] == "urn:bmi:problem:insufficient-space"
        assert list(uploads.iterdir()) == []
        assert place.everything() == before
        filler.unlink()
