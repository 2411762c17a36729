"""Whatever a storage driver is asked to do: twice, by eight threads at once, and killed in the middle."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from bmi.drivers.storage import Ref, Storage
from tests.contract.stores import (
    IMAGE,
    OTHER_VOLUME,
    SNAPSHOT,
    STAGED_IMAGE,
    VOLUME,
    Model,
    Place,
    Store,
    contents,
    empty,
    furnish,
    write,
)
from tests.killed import at_each_effect

THREADS = 8

Call = Callable[[Store, int], object]
# What is asked of a furnished store, with the unit of its disks.
CALLS: dict[str, Call] = {
    "import": lambda store, _: store.commit_image(STAGED_IMAGE.id),
    "clone an image": lambda store, _: store.clone(IMAGE, OTHER_VOLUME.id),
    "clone a snapshot, larger": lambda store, unit: store.clone(SNAPSHOT, "v-2", size_bytes=5 * unit),
    "clone a volume": lambda store, _: store.clone(VOLUME, OTHER_VOLUME.id),
    "snapshot": lambda store, _: store.snapshot(VOLUME.id, "s-2"),
    "promote": lambda store, _: store.promote(SNAPSHOT, "i-3"),
    "roll back": lambda store, _: store.roll_back(VOLUME.id, SNAPSHOT.id),
    "resize": lambda store, unit: store.resize(VOLUME.id, 5 * unit),
    "flatten": lambda store, _: store.flatten(VOLUME),
    "delete an image": lambda store, _: store.delete(IMAGE),
    "delete a volume": lambda store, _: store.delete(VOLUME),
    "delete a snapshot": lambda store, _: store.delete(SNAPSHOT),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture
def model(place: Place) -> Model:
    """What a furnished store holds."""
    model = Model()
    furnish(model, place.unit)
    return model


@every_call
def test_twice_is_once(furnished: Storage, place: Place, model: Model, call: Call) -> None:
    expected = call(model, place.unit)
    assert [call(furnished, place.unit) for _ in range(2)] == [expected, expected]
    assert contents(furnished) == contents(model)


@every_call
def test_eight_at_once_are_one(furnished: Storage, place: Place, model: Model, call: Call) -> None:
    expected = call(model, place.unit)
    start = Barrier(THREADS)

    def ask(_: int) -> object:
        start.wait()
        return call(furnished, place.unit)

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(ask, range(THREADS))) == [expected] * THREADS
    assert contents(furnished) == contents(model)


@pytest.mark.slow
@every_call
def test_killed_anywhere_it_has_happened_or_not(
    furnished: Storage, place: Place, model: Model, call: Call
) -> None:
    before = contents(model)
    expected = call(model, place.unit)
    deaths = 0
    for _ in at_each_effect(lambda: call(place.open(), place.unit), effects=place.effects):
        deaths += 1
        assert contents(furnished) in (before, contents(model))
        assert call(furnished, place.unit) == expected
        assert contents(furnished) == contents(model)
        empty(furnished)
        furnish(furnished, place.unit)
    assert contents(furnished) == contents(model)
    assert deaths or call is CALLS["flatten"], "it has no effects that anybody could count"


def test_eight_at_once_on_objects_of_their_own(furnished: Storage, place: Place, model: Model) -> None:
    def live(store: Store, number: int) -> None:
        volume, second, image = (f"{kind}-of-{number}" for kind in ("volume", "second", "image"))
        for turn in range(3):
            store.clone(IMAGE, volume, size_bytes=4 * place.unit)
            write(store, volume, turn * place.unit, f"{number} in turn {turn}".encode())
            store.snapshot(volume, f"snapshot-of-{number}")
            store.clone(Ref("snapshot", f"snapshot-of-{number}"), second)
            store.promote(Ref("snapshot", f"snapshot-of-{number}"), image)
            store.resize(second, 5 * place.unit)
            write(store, second, 4 * place.unit, b"more")
            store.roll_back(volume, f"snapshot-of-{number}")
            store.flatten(Ref("image", image))
            if turn < 2:
                for kind, object_id in (("volume", volume), ("volume", second), ("image", image)):
                    store.delete(Ref(kind, object_id))  # type: ignore[arg-type]  # mypy widens the literals
                store.delete(Ref("snapshot", f"snapshot-of-{number}"))
            store.list()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda number: live(furnished, number), range(THREADS)))
    for number in range(THREADS):
        live(model, number)
    assert contents(furnished) == contents(model)


def test_a_new_process_finds_what_was_there(furnished: Storage, place: Place, model: Model) -> None:
    assert contents(place.open()) == contents(model)
