"""What the contract suite of storage needs: a place to make a store, a model of it, and hands to use both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bmi.drivers import load
from bmi.drivers.storage import Backing, Ref, Storage, StoredObject
from tests import ceph
from tests.killed import EFFECTS

IMAGE, VOLUME, SNAPSHOT = Ref("image", "i-1"), Ref("volume", "v-1"), Ref("snapshot", "s-1")
STAGED_IMAGE, OTHER_VOLUME = Ref("image", "i-2"), Ref("volume", "v-2")


@dataclass(frozen=True)
class Place:
    """A store to try a driver on.

    Its disks are made of units: what a diff or a measurement may be rounded to, in bytes. `others` begins
    the location of an image that is not BMI's own, where the store has such. `effects` are what
    a death comes before (see `at_each_effect`); `sequences` is how many random ones keep the tests fast.
    """

    driver: str
    options: dict[str, Any]
    unit: int
    others: str = ""
    effects: frozenset[str] = EFFECTS
    sequences: int = 100

    def open(self) -> Storage:
        """The driver as a new process would make it."""
        storage: Storage = load("storage", self.driver)(**self.options)
        return storage


@dataclass
class Model:
    """A store in memory: what makes, changes and removes objects, exactly as the contract says."""

    disks: dict[Ref, bytes] = field(default_factory=dict)
    staged: dict[str, bytes] = field(default_factory=dict)

    def commit_image(self, image_id: str) -> int:
        self.disks.setdefault(Ref("image", image_id), self.staged.get(image_id, b""))
        self.staged.pop(image_id, None)
        return len(self.disks[Ref("image", image_id)])

    def clone(self, source: Ref, volume_id: str, *, size_bytes: int = 0) -> int:
        return self._add(Ref("volume", volume_id), self.disks[source].ljust(size_bytes, b"\0"))

    def snapshot(self, volume_id: str, snapshot_id: str) -> int:
        return self._add(Ref("snapshot", snapshot_id), self.disks[Ref("volume", volume_id)])

    def promote(self, source: Ref, image_id: str) -> int:
        return self._add(Ref("image", image_id), self.disks[source])

    def roll_back(self, volume_id: str, snapshot_id: str) -> int:
        return self._put(Ref("volume", volume_id), self.disks[Ref("snapshot", snapshot_id)])

    def resize(self, volume_id: str, size_bytes: int) -> int:
        ref = Ref("volume", volume_id)
        return self._put(ref, self.disks[ref].ljust(size_bytes, b"\0"))

    def flatten(self, ref: Ref) -> None:
        assert ref in self.disks

    def delete(self, ref: Ref) -> None:
        self.disks.pop(ref, None)

    def list(self) -> Sequence[StoredObject]:
        return [StoredObject(ref, len(content)) for ref, content in self.disks.items()]

    def _add(self, ref: Ref, content: bytes) -> int:
        return self._put(ref, self.disks.get(ref, content))

    def _put(self, ref: Ref, content: bytes) -> int:
        self.disks[ref] = content
        return len(content)


Store = Storage | Model


def stage(store: Store, image_id: str, content: bytes, hole_bytes: int = 4096) -> None:
    """Puts a disk where an import would; what is all zeros stays a hole."""
    if isinstance(store, Model):
        store.staged[image_id] = content
        return
    with store.staging_path(image_id).open("wb") as disk:
        disk.truncate(len(content))
        for start in range(0, len(content), hole_bytes):
            if any(part := content[start : start + hole_bytes]):
                disk.seek(start)
                disk.write(part)


def write(store: Store, volume_id: str, offset: int, data: bytes) -> None:
    """Writes as an export does: to what backs the volume."""
    if isinstance(store, Model):
        ref = Ref("volume", volume_id)
        content = store.disks[ref]
        store.disks[ref] = content[:offset] + data + content[offset + len(data) :]
    else:
        backing = store.backing(volume_id)
        WRITERS[backing.kind](backing, offset, data)


def read(storage: Storage, ref: Ref) -> bytes:
    with storage.opened(ref) as path:
        return path.read_bytes()


def contents(store: Store) -> dict[Ref, bytes]:
    """All objects with their bytes; their sizes are what the list says."""
    if isinstance(store, Model):
        return dict(store.disks)
    found = {stored.ref: read(store, stored.ref) for stored in store.list()}
    assert {stored.ref: stored.size_bytes for stored in store.list()} == {
        ref: len(content) for ref, content in found.items()
    }
    return found


def furnish(store: Store, unit: int) -> None:
    """The store that most tests begin with.

    IMAGE has data in the first and the last of three units; VOLUME, its clone, was written to in the second
    unit, frozen as SNAPSHOT, and written to in the first; STAGED_IMAGE waits for its import.
    """
    golden = b"golden".ljust(unit // 2, b"g").ljust(unit, b"\0")
    stage(store, IMAGE.id, golden + bytes(unit) + golden)
    store.commit_image(IMAGE.id)
    store.clone(IMAGE, VOLUME.id)
    write(store, VOLUME.id, unit, b"second")
    store.snapshot(VOLUME.id, SNAPSHOT.id)
    write(store, VOLUME.id, 100, b"first")
    stage(store, STAGED_IMAGE.id, bytes(unit) + golden)


def empty(storage: Storage) -> None:
    """Deletes everything."""
    for image_id in storage.list_staged():
        storage.discard_staging(image_id)
    for stored in storage.list():
        storage.delete(stored.ref)
    assert list(storage.list()) == []


def _write_file(backing: Backing, offset: int, data: bytes) -> None:
    with Path(backing.location).open("r+b") as disk:
        disk.seek(offset)
        disk.write(data)


WRITERS: dict[str, Callable[[Backing, int, bytes], None]] = {"file": _write_file, "rbd": ceph.write}
