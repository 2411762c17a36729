"""Differences between rows, store and exports are told; only what is BMI's own is mended."""

from typing import Any

import pytest

from bmi.domain.nouns import ObjectState
from bmi.domain.plans import PROVISION
from bmi.drivers.export import Portal
from bmi.drivers.storage import Ref
from bmi.errors import DriverError
from bmi.store import records
from bmi.workflow import drift
from bmi.workflow.sweep import Sweep
from bmi.workflow.targets import portal_of, target_of
from bmi.workflow.usage import measure
from tests import rows
from tests.workflow.test_sweep import record, stored
from tests.workflow.world import World


@pytest.fixture
def active(world: World) -> World:
    """An active node with a snapshot of its volume."""
    with world.database.write() as tx:
        world.give(tx, state=ObjectState.READY, exported=True)
        records.snapshots.insert(tx, rows.snapshot(volume_id="volume-1"))
    world.bring_up()
    world.storage.snapshot("volume-1", "snapshot-1")
    return world


def told(world: World, *, repair: bool = False) -> list[tuple[str, str, bool]]:
    found = drift.check(world.tools, repair=repair)
    assert found["different"] == len(found["differences"])
    return [(one["name"], one["what"], one["mended"]) for one in found["differences"]]


def portal(world: World) -> Portal:
    with world.database.read() as tx:
        return portal_of(world.tools, records.networks.get(tx, "network-1"))


def states(world: World) -> dict[str, Any]:
    with world.database.read() as tx:
        return {
            "image": records.images.get(tx, "image-1").state,
            "volume": records.volumes.get(tx, "volume-1").state,
            "snapshot": records.snapshots.get(tx, "snapshot-1").state,
        }


def test_a_store_that_is_as_written_down_is_well(active: World) -> None:
    assert drift.check(active.tools, repair=True) == {
        "objects": 3,
        "strangers": 0,
        "different": 0,
        "differences": [],
    }


@pytest.mark.parametrize("kind", ["image", "volume", "snapshot"])
def test_what_is_lost_is_shown_and_shown_again_when_it_is_back(active: World, kind: Any) -> None:
    before = active.root / "storage"
    kept = {path: path.read_bytes() for path in before.rglob("*") if path.is_file()}
    names = {
        "image": "image debian-12 (image-1)",
        "volume": "volume n1 (volume-1)",
        "snapshot": "snapshot tuned (snapshot-1)",
    }
    active.storage.delete(Ref(kind, f"{kind}-1"))
    assert told(active) == [(names[kind], "is not in the store", False)]
    assert states(active)[kind] is ObjectState.READY
    assert told(active, repair=True) == [(names[kind], "is not in the store", True)]
    assert states(active) == dict.fromkeys(names, ObjectState.READY) | {kind: ObjectState.ERROR}
    assert told(active) == []

    for path, content in kept.items():
        path.write_bytes(content)
    assert told(active, repair=True) == [(names[kind], "is in the store again", True)]
    assert states(active)[kind] is ObjectState.READY


def test_left_overs_are_removed_and_strangers_counted(active: World) -> None:
    for volume_id in ("volume-8", "volume-9"):
        active.storage.clone(Ref("image", "image-1"), volume_id)
    record(active, PROVISION, "node-9", volume_id="volume-9")
    left = "volume volume-9 in the store"
    found = drift.check(active.tools, repair=False)
    assert found["strangers"] == 1
    assert told(active) == [(left, "belongs to nothing", False)]
    assert told(active, repair=True) == [(left, "belongs to nothing", True)]
    assert Ref("volume", "volume-8") in stored(active)
    assert Ref("volume", "volume-9") not in stored(active)


def test_exports_are_compared_as_well(active: World) -> None:
    where = portal(active)
    [iqn] = active.export.list(where)
    active.export.remove(where, iqn)
    name = "volume n1 (volume-1)"
    assert told(active) == [(name, "is not served", False)]
    assert told(active, repair=True) == [(name, "is not served", True)]
    assert active.export.list(where) == [iqn]
    with active.database.write() as tx:
        records.volumes.update(tx, id="volume-1", values={"exported": False})
    assert told(active, repair=True) == [(name, "is served and should not be", True)]
    assert active.export.list(where) == []


def test_an_export_that_begins_while_it_is_withdrawn_stays(active: World) -> None:
    with active.database.write() as tx:
        records.volumes.update(tx, id="volume-1", values={"exported": False})
    withdraw = active.export.remove

    def remove(portal: Portal, iqn: str) -> None:
        withdraw(portal, iqn)
        with active.database.write() as tx:
            records.volumes.update(tx, id="volume-1", values={"exported": True})

    active.export.remove = remove  # type: ignore[method-assign]  # something happens meanwhile
    drift.check(active.tools, repair=True)
    with active.database.read() as tx:
        target = target_of(active.tools, records.volumes.get(tx, "volume-1"))
    assert active.export.list(portal(active)) == [target.iqn]


def test_a_store_that_is_away_is_not_taken_for_an_empty_one(active: World) -> None:
    active.storage.world.set_fault("list", error="The store is away.")
    with pytest.raises(DriverError, match="away"):
        drift.check(active.tools, repair=True)
    assert set(states(active).values()) == {ObjectState.READY}


def test_the_sweep_removes_nothing_from_a_store_that_is_away(
    active: World, caplog: pytest.LogCaptureFixture
) -> None:
    record(active, PROVISION, "node-9", volume_id="volume-9")
    active.storage.clone(Ref("image", "image-1"), "volume-9")
    before = stored(active)
    for call in ("list", "list_staged", "usage", "delete"):
        active.storage.world.set_fault(call, error="The store is away.")
    Sweep(active.tools).look()
    assert "The store is away." in caplog.text
    for call in ("list", "list_staged", "usage", "delete"):
        active.storage.world.set_fault(call)
    assert stored(active) == before
    assert set(states(active).values()) == {ObjectState.READY}


# ---- measured ---------------------------------------------------------------------------------------


def measured(world: World) -> dict[str, int | None]:
    with world.database.read() as tx:
        return {
            "image": records.images.get(tx, "image-1").unique_bytes,
            "volume": records.volumes.get(tx, "volume-1").unique_bytes,
            "snapshot": records.snapshots.get(tx, "snapshot-1").unique_bytes,
        }


def test_the_sweep_measures_what_each_disk_holds_alone(active: World) -> None:
    world = active
    with world.database.write() as tx:
        records.images.update(tx, values={"boot": {}})
    path = world.root / "storage" / "bytes" / "bmi-volume-volume-1.raw"
    path.write_bytes(b"x" * 10_000)
    Sweep(world.tools).look()
    found = measured(world)
    assert found["volume"] == 3 * 4096
    assert found["image"] == found["snapshot"] == 0
    path.write_bytes(b"x" * 100_000)
    Sweep(world.tools).look()
    assert measured(world) == found, "it was measured a moment ago"
    assert measure(world.tools) == 3
    assert (measured(world)["volume"] or 0) > 3 * 4096


def test_what_cannot_be_measured_is_left_out(active: World) -> None:
    active.storage.delete(Ref("volume", "volume-1"))
    assert measure(active.tools) == 2
    assert measured(active)["volume"] is None
