"""The stores that the contract suite of storage runs on."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.drivers.storage import Storage
from bmi.drivers.storage.local import unmount
from tests import ceph
from tests.contract.stores import Place, empty, furnish
from tests.file_systems import mounted
from tests.killed import CEPH_EFFECTS

KINDS = ["fake", *(pytest.param(kind, marks=pytest.mark.real) for kind in ("xfs", "btrfs", "ext4", "ceph"))]


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A place of each kind, in memory since these tests flush a lot; ext4 stands for the loop file that it
    makes necessary.
    """
    with tempfile.TemporaryDirectory(prefix="bmi-storage-", dir="/dev/shm") as directory:
        if request.param == "fake":
            yield Place("fake", {"root": directory}, unit=4096, others="others/")
            return
        if request.param == "ceph":
            options, others = ceph.store(request.getfixturevalue("ceph_cluster"), Path(directory))
            yield Place("ceph", options, 4 << 20, others, CEPH_EFFECTS, sequences=5)
            return
        with mounted(Path(directory), request.param) as mount_point:
            yield Place("local", {"path": str(mount_point / "bmi"), "size_gib": 2}, unit=4096)
            unmount(mount_point / "bmi")


@pytest.fixture
def storage(place: Place) -> Iterator[Storage]:
    """An empty store."""
    storage = place.open()
    empty(storage)
    yield storage
    empty(storage)


@pytest.fixture
def furnished(storage: Storage, place: Place) -> Storage:
    """A store as `furnish` leaves it."""
    furnish(storage, place.unit)
    return storage
