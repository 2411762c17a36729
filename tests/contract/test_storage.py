"""What every storage driver promises, call by call; on each store that conftest.py knows."""

from collections.abc import Callable, Sequence

import pytest

from bmi.drivers.storage import Extent, Ref, Storage, StoredObject
from bmi.errors import DriverError
from tests.contract.stores import (
    IMAGE,
    OTHER_VOLUME,
    SNAPSHOT,
    STAGED_IMAGE,
    VOLUME,
    Place,
    contents,
    read,
    stage,
    write,
)


def names(storage: Storage) -> set[str]:
    return {found.ref.outside_name for found in storage.list()}


def covers(extents: Sequence[Extent], offset: int, length: int) -> bool:
    return any(e.offset <= offset and offset + length <= e.offset + e.length for e in extents)


def test_an_empty_store_works_and_says_what_it_is(storage: Storage) -> None:
    assert "store" in storage.check()
    assert list(storage.list()) == []
    assert list(storage.list_staged()) == []
    space = storage.space()
    assert 0 < space.free_bytes <= space.total_bytes


# ---- import and list ---------------------------------------------------------------------------------


def test_an_image_is_seen_only_when_committed(storage: Storage, place: Place) -> None:
    content = b"content".ljust(2 * place.unit, b"\0")
    stage(storage, IMAGE.id, content)
    assert names(storage) == set()
    assert storage.list_staged() == [IMAGE.id]
    assert storage.commit_image(IMAGE.id) == len(content)
    assert list(storage.list()) == [StoredObject(IMAGE, len(content))]
    assert read(storage, IMAGE) == content
    assert list(storage.list_staged()) == []
    assert not storage.staging_path(IMAGE.id).exists()


def test_committing_again_changes_nothing(furnished: Storage) -> None:
    before = contents(furnished)
    furnished.staging_path(IMAGE.id).write_bytes(bytes(512))
    assert furnished.commit_image(IMAGE.id) == len(before[IMAGE])
    assert contents(furnished) == before
    assert not furnished.staging_path(IMAGE.id).exists()


def test_staging_can_be_discarded_twice(furnished: Storage) -> None:
    furnished.discard_staging(STAGED_IMAGE.id)
    furnished.discard_staging(STAGED_IMAGE.id)
    assert list(furnished.list_staged()) == []


# ---- clone, snapshot, promote, delete ------------------------------------------------------------------


def test_a_clone_does_not_write_to_what_it_was_made_from(furnished: Storage) -> None:
    before = contents(furnished)
    for source in (IMAGE, SNAPSHOT, VOLUME):
        assert furnished.clone(source, OTHER_VOLUME.id) == len(before[source])
        write(furnished, OTHER_VOLUME.id, 0, b"changed")
        assert furnished.clone(source, OTHER_VOLUME.id) == len(before[source]), "there is one already"
        assert read(furnished, OTHER_VOLUME) == b"changed" + before[source][7:]
        furnished.delete(OTHER_VOLUME)
    assert contents(furnished) == before


def test_a_larger_clone_reads_as_zeros_behind_its_source(furnished: Storage, place: Place) -> None:
    content = read(furnished, IMAGE)
    assert furnished.clone(IMAGE, "v-2", size_bytes=5 * place.unit) == 5 * place.unit
    assert read(furnished, OTHER_VOLUME) == content + bytes(2 * place.unit)
    assert furnished.clone(IMAGE, "v-3", size_bytes=place.unit) == len(content)


def test_a_snapshot_stays_as_the_volume_was(furnished: Storage) -> None:
    frozen = read(furnished, SNAPSHOT)
    write(furnished, VOLUME.id, 0, b"later")
    assert furnished.snapshot(VOLUME.id, SNAPSHOT.id) == len(frozen), "there is one already"
    assert read(furnished, SNAPSHOT) == frozen


def test_what_was_made_from_an_object_outlives_it(furnished: Storage) -> None:
    content = read(furnished, SNAPSHOT)
    furnished.clone(SNAPSHOT, OTHER_VOLUME.id)
    furnished.promote(SNAPSHOT, "i-3")
    for ref in (IMAGE, VOLUME, SNAPSHOT):
        furnished.delete(ref)
    assert contents(furnished) == {OTHER_VOLUME: content, Ref("image", "i-3"): content}


# ---- roll back, resize, flatten ------------------------------------------------------------------------


def test_rolling_back_leaves_everything_else(furnished: Storage, place: Place) -> None:
    before = contents(furnished)
    furnished.resize(VOLUME.id, 5 * place.unit)
    assert furnished.roll_back(VOLUME.id, SNAPSHOT.id) == len(before[SNAPSHOT])
    assert contents(furnished) == before | {VOLUME: before[SNAPSHOT]}
    write(furnished, VOLUME.id, 0, b"and on")
    assert read(furnished, SNAPSHOT) == before[SNAPSHOT]


def test_a_volume_may_be_rolled_back_to_a_snapshot_of_another(furnished: Storage) -> None:
    furnished.clone(IMAGE, OTHER_VOLUME.id)
    furnished.roll_back(OTHER_VOLUME.id, SNAPSHOT.id)
    furnished.delete(SNAPSHOT)
    furnished.delete(VOLUME)
    assert b"second" in read(furnished, OTHER_VOLUME)


def test_a_volume_never_gets_smaller(furnished: Storage, place: Place) -> None:
    content = read(furnished, VOLUME)
    assert furnished.resize(VOLUME.id, place.unit) == len(content)
    assert furnished.resize(VOLUME.id, 4 * place.unit) == 4 * place.unit
    write(furnished, VOLUME.id, 4 * place.unit - 4, b"last")
    assert read(furnished, VOLUME) == content + bytes(place.unit - 4) + b"last"


# ---- diff and usage ------------------------------------------------------------------------------------


def test_what_has_not_changed_is_not_in_a_diff(furnished: Storage) -> None:
    furnished.clone(SNAPSHOT, OTHER_VOLUME.id)
    assert list(furnished.changed(SNAPSHOT, OTHER_VOLUME)) == []
    assert list(furnished.changed(SNAPSHOT, SNAPSHOT)) == []


def test_a_diff_has_the_units_that_were_written(furnished: Storage, place: Place) -> None:
    furnished.resize(VOLUME.id, 6 * place.unit)
    furnished.snapshot(VOLUME.id, "s-2")
    for offset in (place.unit, 3 * place.unit + 5, 4 * place.unit):
        write(furnished, VOLUME.id, offset, b"new")
    found = list(furnished.changed(Ref("snapshot", "s-2"), VOLUME))
    assert covers(found, place.unit, 3)
    assert covers(found, 3 * place.unit + 5, place.unit - 2)
    units = {place.unit, 3 * place.unit, 4 * place.unit}
    assert {extent.offset // place.unit * place.unit for extent in found} <= units
    assert sum(extent.length for extent in found) <= 3 * place.unit


def test_a_diff_with_nothing_is_where_data_is(furnished: Storage, place: Place) -> None:
    found = list(furnished.changed(None, IMAGE))
    assert covers(found, 0, place.unit // 2)
    assert covers(found, 2 * place.unit, place.unit // 2)
    assert not covers(found, place.unit, place.unit)


def test_what_was_zeroed_is_in_a_diff(furnished: Storage, place: Place) -> None:
    write(furnished, VOLUME.id, 0, bytes(place.unit))
    assert covers(list(furnished.changed(SNAPSHOT, VOLUME)), 0, place.unit // 2)


def test_a_diff_of_strangers_has_whatever_differs(furnished: Storage, place: Place) -> None:
    """The newer one is smaller: what lies behind its end is no part of it."""
    furnished.commit_image(STAGED_IMAGE.id)
    found = list(furnished.changed(SNAPSHOT, STAGED_IMAGE))
    assert covers(found, 0, place.unit // 2)
    assert covers(found, place.unit, place.unit // 2)
    assert found[-1].offset + found[-1].length <= 2 * place.unit


def test_the_extents_of_a_diff_do_not_touch(furnished: Storage, place: Place) -> None:
    write(furnished, VOLUME.id, place.unit - 10, b"across two units ...")
    found = list(furnished.changed(IMAGE, VOLUME))
    assert len(found) == 1
    assert covers(found, 0, place.unit + 10)


def test_a_clone_has_nothing_of_its_own_until_it_is_written_to(furnished: Storage, place: Place) -> None:
    assert furnished.usage(IMAGE).allocated_bytes >= place.unit
    furnished.clone(IMAGE, OTHER_VOLUME.id)
    assert furnished.usage(OTHER_VOLUME).unique_bytes == 0
    write(furnished, OTHER_VOLUME.id, 0, b"own")
    usage = furnished.usage(OTHER_VOLUME)
    assert 3 <= usage.unique_bytes <= place.unit
    assert usage.unique_bytes <= usage.allocated_bytes


# ---- outside ---------------------------------------------------------------------------------------------


def test_an_image_goes_out_and_comes_in(furnished: Storage, place: Place) -> None:
    content = read(furnished, IMAGE)
    if not place.others:
        for refused in (
            lambda: furnished.publish(IMAGE, "pool/golden"),
            lambda: furnished.adopt("pool/golden", "i-3"),
        ):
            with pytest.raises(DriverError, match="no images but BMI's own") as caught:
                refused()
            assert not caught.value.retryable
            assert caught.value.remedy
        return
    location = f"{place.others}golden"
    furnished.publish(IMAGE, location)
    furnished.publish(IMAGE, location)
    with pytest.raises(DriverError):
        furnished.publish(SNAPSHOT, location)
    furnished.delete(IMAGE)
    for image_id in ("i-3", "i-3", "i-4"):
        assert furnished.adopt(location, image_id) == len(content)
        assert read(furnished, Ref("image", image_id)) == content
        furnished.delete(Ref("image", image_id))


def test_fencing_changes_nothing_but_who_may_write(furnished: Storage) -> None:
    before = contents(furnished)
    furnished.fence(VOLUME.id)
    furnished.fence(VOLUME.id)
    assert contents(furnished) == before
    write(furnished, VOLUME.id, 0, b"by the next")


# ---- what is not there -----------------------------------------------------------------------------------

NOBODY = Ref("volume", "nobody")
CALLS: dict[str, Callable[[Storage], object]] = {
    "commit": lambda s: s.commit_image("nobody"),
    "clone an image": lambda s: s.clone(Ref("image", "nobody"), "v-2"),
    "clone a snapshot": lambda s: s.clone(Ref("snapshot", "nobody"), "v-2"),
    "clone a volume": lambda s: s.clone(NOBODY, "v-2", size_bytes=1 << 20),
    "snapshot": lambda s: s.snapshot("nobody", "s-2"),
    "promote": lambda s: s.promote(Ref("snapshot", "nobody"), "i-3"),
    "roll back no volume": lambda s: s.roll_back("nobody", SNAPSHOT.id),
    "roll back to no snapshot": lambda s: s.roll_back(VOLUME.id, "nobody"),
    "resize": lambda s: s.resize("nobody", 1 << 20),
    "flatten": lambda s: s.flatten(NOBODY),
    "diff from": lambda s: s.changed(NOBODY, VOLUME),
    "diff to": lambda s: s.changed(VOLUME, NOBODY),
    "usage": lambda s: s.usage(NOBODY),
    "open": lambda s: read(s, NOBODY),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_is_not_there_is_an_error_for_good_and_changes_nothing(furnished: Storage, call: str) -> None:
    before = contents(furnished)
    with pytest.raises(DriverError) as caught:
        CALLS[call](furnished)
    assert not caught.value.retryable
    assert contents(furnished) == before
