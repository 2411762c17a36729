"""What the Ceph driver does to names without librbd: librbd has to find the same."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rbd

from bmi.drivers.storage import ceph_names
from bmi.drivers.storage.ceph_cluster import Pool
from bmi.lab.ceph import CephCluster
from tests import ceph, killed

pytestmark = pytest.mark.real

SIZE_BYTES = 12 << 20


@pytest.fixture
def pool(ceph_cluster: CephCluster, tmp_path: Path) -> Iterator[Pool]:
    options, _ = ceph.store(ceph_cluster, tmp_path)
    pool = Pool(Path(options["conf"]), options["user"], Path(options["keyring"]), options["pool"], "", 10)
    yield pool
    for name in mine(pool.ioctx):
        rbd.RBD().remove(pool.ioctx, name)
    pool.close()


@pytest.fixture
def image(pool: Pool) -> str:
    rbd.RBD().create(pool.ioctx, "rename-me", SIZE_BYTES, old_format=False)
    return "rename-me"


def mine(ioctx: Any) -> set[str]:
    return {name for name in rbd.RBD().list(ioctx) if name.startswith("rename-")}


def test_a_renamed_image_is_the_same_image(pool: Pool, image: str) -> None:
    with rbd.Image(pool.ioctx, image) as opened:
        opened.write(b"content", 0)
        image_id = opened.id()
    ceph_names.rename(pool.ioctx, image, "rename-done")
    assert mine(pool.ioctx) == {"rename-done"}
    assert ceph_names.size(pool.ioctx, "rename-done") == SIZE_BYTES
    assert ceph_names.size(pool.ioctx, image) is None
    with rbd.Image(pool.ioctx, "rename-done") as opened:
        assert (opened.id(), opened.get_name(), opened.read(0, 7)) == (image_id, "rename-done", b"content")


def test_nothing_is_renamed_to_what_exists(pool: Pool, image: str) -> None:
    rbd.RBD().create(pool.ioctx, "rename-other", SIZE_BYTES // 2, old_format=False)
    with pytest.raises(rbd.ImageExists):
        ceph_names.rename(pool.ioctx, image, "rename-other")
    with pytest.raises(rbd.ImageNotFound):
        ceph_names.rename(pool.ioctx, "rename-nothing", "rename-new")
    assert mine(pool.ioctx) == {image, "rename-other"}
    assert ceph_names.size(pool.ioctx, "rename-other") == SIZE_BYTES // 2


def test_a_rename_that_is_killed_has_happened_or_not(pool: Pool, image: str) -> None:
    names = [image, "rename-done"]
    deaths = 0
    for _ in killed.at_each_effect(
        lambda: ceph_names.rename(pool.ioctx, *names), effects=killed.CEPH_EFFECTS
    ):
        deaths += 1
        for _ in range(2):
            ceph_names.mend_rename(pool.ioctx, *names)
        (name,) = mine(pool.ioctx)
        (other,) = {*names} - {name}
        assert ceph_names.id_behind(pool.ioctx, other) is None
        assert ceph_names.listed_id(pool.ioctx, other) is None
        with rbd.Image(pool.ioctx, name) as opened:
            assert opened.get_name() == name
        if name != names[0]:
            ceph_names.rename(pool.ioctx, name, names[0])
    assert deaths == 3
    assert mine(pool.ioctx) == {names[1]}
