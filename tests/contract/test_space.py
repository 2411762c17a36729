"""Clones cost no space until somebody writes to them."""

import os

import pytest

from bmi.drivers.storage import Ref, Storage
from tests.contract.stores import Place

CLONES = 100
DATA_MIB = 64


def test_a_hundred_clones_hold_nothing_of_their_own(storage: Storage, place: Place) -> None:
    """By what the file system or the cluster says of each; `bench/clone.py` looks at the whole store."""
    if place.driver == "fake":
        pytest.skip("the fake copies")
    with storage.staging_path("golden").open("wb") as disk:
        for _ in range(DATA_MIB):
            disk.write(os.urandom(1 << 20))
    storage.commit_image("golden")
    volumes = [Ref("volume", str(number)) for number in range(CLONES)]
    for volume in volumes:
        storage.clone(Ref("image", "golden"), volume.id)
    assert sum(storage.usage(volume).unique_bytes for volume in volumes) < 1 << 20
