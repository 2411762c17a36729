"""What every storage driver promises, on the fake and on each file system that the local one can stand on."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from bmi.drivers import load
from bmi.drivers.storage import Ref, Storage
from bmi.drivers.storage.local import unmount
from bmi.errors import DriverError
from tests.file_systems import mounted
from tests.killed import at_each_effect

SIZE = 3 << 20
GOLDEN = b"golden" * 1000
IMAGE, VOLUME, SNAPSHOT = Ref("image", "i-1"), Ref("volume", "v-1"), Ref("snapshot", "s-1")

real = pytest.mark.real
_names = count()


@pytest.fixture(
    scope="module",
    params=["fake", *(pytest.param(kind, marks=real) for kind in ("xfs", "btrfs", "ext4"))],
)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """The driver's name and a directory on the file system to try it on."""
    directory = tmp_path_factory.mktemp("storage")
    if request.param == "fake":
        yield "fake", directory
    else:
        with mounted(directory, request.param) as mount_point:
            yield "local", mount_point


@pytest.fixture
def storage(place: tuple[str, Path]) -> Iterator[Storage]:
    """An empty store."""
    driver, directory = place
    path = directory / f"store-{next(_names)}"
    options = {"root": str(path)} if driver == "fake" else {"path": str(path), "size_gib": 1}
    yield load("storage", driver)(**options)
    if driver == "local":
        unmount(path)


@pytest.fixture
def with_image(storage: Storage) -> Storage:
    """A store that holds IMAGE."""
    stage(storage)
    storage.commit_image(IMAGE.id)
    return storage


def stage(storage: Storage) -> None:
    """Writes a sparse disk of SIZE with GOLDEN at both ends where an import would."""
    with storage.staging_path(IMAGE.id).open("wb") as file:
        file.write(GOLDEN)
        file.seek(SIZE - len(GOLDEN))
        file.write(GOLDEN)


def file_of(storage: Storage, ref: Ref) -> Path:
    path = storage.local_path(ref)
    assert path is not None
    return path


def is_golden(storage: Storage, ref: Ref) -> bool:
    content = file_of(storage, ref).read_bytes()
    return content == GOLDEN + bytes(SIZE - 2 * len(GOLDEN)) + GOLDEN


def write(storage: Storage, volume_id: str, data: bytes, offset: int = 0) -> None:
    """Writes as an export does: to the backing of the volume."""
    backing = storage.backing(volume_id)
    assert backing.kind == "file"
    with Path(backing.location).open("r+b") as file:
        file.seek(offset)
        file.write(data)


def names(storage: Storage) -> set[str]:
    return {found.ref.outside_name for found in storage.list()}


def test_an_empty_store_works_and_says_what_it_is(storage: Storage) -> None:
    assert "store" in storage.check()
    assert list(storage.list()) == []
    space = storage.space()
    assert 0 < space.free_bytes <= space.total_bytes


def test_an_image_is_seen_only_when_committed(storage: Storage) -> None:
    stage(storage)
    assert names(storage) == set()
    assert storage.list_staged() == [IMAGE.id]
    assert storage.commit_image(IMAGE.id) == SIZE
    assert storage.list_staged() == []
    assert [(found.ref, found.size_bytes) for found in storage.list()] == [(IMAGE, SIZE)]
    assert is_golden(storage, IMAGE)
    assert not storage.staging_path(IMAGE.id).exists()


def test_committing_again_changes_nothing(with_image: Storage) -> None:
    assert with_image.commit_image(IMAGE.id) == SIZE
    with_image.staging_path(IMAGE.id).write_bytes(bytes(512))
    assert with_image.commit_image(IMAGE.id) == SIZE
    assert is_golden(with_image, IMAGE)
    assert not with_image.staging_path(IMAGE.id).exists()


def test_committing_nothing_fails(storage: Storage) -> None:
    with pytest.raises(DriverError) as caught:
        storage.commit_image("never-staged")
    assert not caught.value.retryable
    assert names(storage) == set()


def test_staging_can_be_discarded_twice(storage: Storage) -> None:
    stage(storage)
    storage.discard_staging(IMAGE.id)
    storage.discard_staging(IMAGE.id)
    assert not storage.staging_path(IMAGE.id).exists()


def test_a_clone_is_the_image_and_does_not_write_to_it(with_image: Storage) -> None:
    assert with_image.clone(IMAGE, VOLUME.id) == SIZE
    assert is_golden(with_image, VOLUME)
    write(with_image, VOLUME.id, b"changed")
    assert file_of(with_image, VOLUME).read_bytes().startswith(b"changed")
    assert is_golden(with_image, IMAGE)


def test_cloning_again_keeps_what_was_written(with_image: Storage) -> None:
    with_image.clone(IMAGE, VOLUME.id)
    write(with_image, VOLUME.id, b"changed")
    assert with_image.clone(IMAGE, VOLUME.id) == SIZE
    assert file_of(with_image, VOLUME).read_bytes().startswith(b"changed")


def test_a_snapshot_freezes_a_volume_in_use(with_image: Storage) -> None:
    with_image.clone(IMAGE, VOLUME.id)
    with file_of(with_image, VOLUME).open("r+b", buffering=0) as in_use:
        in_use.write(b"before")
        assert with_image.snapshot(VOLUME.id, SNAPSHOT.id) == SIZE
        in_use.write(b"after")
        assert with_image.snapshot(VOLUME.id, SNAPSHOT.id) == SIZE
    assert file_of(with_image, SNAPSHOT).read_bytes().startswith(b"before" + GOLDEN[6:20])
    assert with_image.clone(SNAPSHOT, "v-2") == SIZE
    write(with_image, "v-2", b"second")
    assert file_of(with_image, SNAPSHOT).read_bytes().startswith(b"before")
    assert names(with_image) == {"bmi-image-i-1", "bmi-volume-v-1", "bmi-volume-v-2", "bmi-snapshot-s-1"}


def test_what_was_made_from_an_object_outlives_it(with_image: Storage) -> None:
    with_image.clone(IMAGE, VOLUME.id)
    with_image.snapshot(VOLUME.id, SNAPSHOT.id)
    with_image.clone(SNAPSHOT, "v-2")
    for ref in (IMAGE, VOLUME, SNAPSHOT):
        with_image.delete(ref)
        with_image.delete(ref)
    assert names(with_image) == {"bmi-volume-v-2"}
    assert is_golden(with_image, Ref("volume", "v-2"))


@pytest.mark.parametrize("missing", [IMAGE, SNAPSHOT], ids=lambda ref: ref.kind)
def test_cloning_what_is_not_there_fails_for_good(storage: Storage, missing: Ref) -> None:
    with pytest.raises(DriverError) as caught:
        storage.clone(missing, VOLUME.id)
    assert not caught.value.retryable
    assert names(storage) == set()


def test_a_snapshot_of_no_volume_fails_for_good(storage: Storage) -> None:
    with pytest.raises(DriverError) as caught:
        storage.snapshot(VOLUME.id, SNAPSHOT.id)
    assert not caught.value.retryable


def test_eight_threads_on_different_objects(with_image: Storage) -> None:
    def live(number: int) -> bytes:
        volume_id, data = f"v-{number}", f"thread {number}".encode()
        for _ in range(5):
            with_image.clone(IMAGE, volume_id)
            write(with_image, volume_id, data)
            with_image.snapshot(volume_id, f"s-{number}")
            seen = file_of(with_image, Ref("snapshot", f"s-{number}")).read_bytes()[: len(data)]
            assert seen == data
            with_image.delete(Ref("volume", volume_id))
            with_image.delete(Ref("snapshot", f"s-{number}"))
            list(with_image.list())
        return data

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(live, range(8)))) == 8
    assert names(with_image) == {"bmi-image-i-1"}
    assert is_golden(with_image, IMAGE)


def test_eight_threads_on_the_same_objects(storage: Storage) -> None:
    stage(storage)

    def live(_: int) -> tuple[int, int, int]:
        committed = storage.commit_image(IMAGE.id)
        return committed, storage.clone(IMAGE, VOLUME.id), storage.snapshot(VOLUME.id, SNAPSHOT.id)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(live, range(8))) == {(SIZE, SIZE, SIZE)}
    assert names(storage) == {"bmi-image-i-1", "bmi-volume-v-1", "bmi-snapshot-s-1"}
    assert is_golden(storage, SNAPSHOT)


Action = Callable[[Storage], object]


@pytest.mark.parametrize(
    ("action", "made"),
    [
        (lambda storage: storage.commit_image(IMAGE.id), IMAGE),
        (lambda storage: storage.clone(IMAGE, VOLUME.id), VOLUME),
        (lambda storage: storage.snapshot(VOLUME.id, SNAPSHOT.id), SNAPSHOT),
    ],
    ids=["commit_image", "clone", "snapshot"],
)
def test_killed_anywhere_an_object_is_whole_or_absent(storage: Storage, action: Action, made: Ref) -> None:
    stage(storage)
    if made != IMAGE:
        storage.commit_image(IMAGE.id)
    if made == SNAPSHOT:
        storage.clone(IMAGE, VOLUME.id)
    others = names(storage)
    deaths = 0
    for _ in at_each_effect(lambda: action(storage)):
        deaths += 1
        storage.check()
        assert names(storage) - {made.outside_name} == others
        if names(storage) != others:
            assert is_golden(storage, made)
            assert action(storage) == SIZE
            storage.delete(made)
            if made == IMAGE:
                stage(storage)
    assert deaths > 2
    assert action(storage) == SIZE
    assert is_golden(storage, made)
    assert names(storage) == others | {made.outside_name}


def test_killed_while_deleting_an_object_is_whole_or_absent(with_image: Storage) -> None:
    with_image.clone(IMAGE, VOLUME.id)
    for _ in at_each_effect(lambda: with_image.delete(VOLUME)):
        if VOLUME.outside_name in names(with_image):
            assert is_golden(with_image, VOLUME)
    assert names(with_image) == {"bmi-image-i-1"}


def test_a_new_process_finds_what_was_there(with_image: Storage) -> None:
    with_image.clone(IMAGE, VOLUME.id)
    child = os.fork()
    if child == 0:
        os._exit(0 if names(with_image) == {"bmi-image-i-1", "bmi-volume-v-1"} else 1)
    assert os.waitpid(child, 0)[1] == 0
