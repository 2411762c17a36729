"""Storage for tests and for trying BMI out: small files in a directory, plainly copied, failing when told to."""

import os
from collections.abc import Sequence
from pathlib import Path

from bmi.drivers.faults import FakeWorld, Table
from bmi.drivers.storage import Backing, Ref, Space, StoredObject
from bmi.errors import DriverError, InsufficientSpaceError

_OBJECTS = "objects"
_STAGED, _SUFFIX = "staging-", ".raw"


def create(*, root: str = "", total_bytes: int = 1 << 40) -> "FakeStorage":
    """A store in the directory `root` (empty: a temporary one) that claims to have room for `total_bytes`.

    Its calls can be made to fail by `<root>/faults.json`; see FakeWorld.
    """
    return FakeStorage(FakeWorld(root), total_bytes)


class FakeStorage:
    """The Storage protocol; which objects exist is one table, so that an object appears whole or not at all."""

    def __init__(self, world: FakeWorld, total_bytes: int) -> None:
        self.world = world
        self._total_bytes = total_bytes
        self._bytes = world.root / "bytes"
        self._bytes.mkdir(mode=0o700, exist_ok=True)

    def staging_path(self, image_id: str) -> Path:
        self.world.call("staging_path")
        return self._staged(image_id)

    def commit_image(self, image_id: str) -> int:
        self.world.call("commit_image")
        size_bytes = self._add(Ref("image", image_id), self._staged(image_id))
        self._staged(image_id).unlink(missing_ok=True)
        return size_bytes

    def discard_staging(self, image_id: str) -> None:
        self.world.call("discard_staging")
        self._staged(image_id).unlink(missing_ok=True)

    def clone(self, source: Ref, volume_id: str) -> int:
        self.world.call("clone")
        return self._add(Ref("volume", volume_id), self._file(source))

    def snapshot(self, volume_id: str, snapshot_id: str) -> int:
        self.world.call("snapshot")
        return self._add(Ref("snapshot", snapshot_id), self._file(Ref("volume", volume_id)))

    def delete(self, ref: Ref) -> None:
        self.world.call("delete")
        self.world.change(_OBJECTS, lambda objects: objects.pop(ref.outside_name, None))
        self._file(ref).unlink(missing_ok=True)

    def local_path(self, ref: Ref) -> Path:
        return self._file(ref)

    def backing(self, volume_id: str) -> Backing:
        return Backing("file", str(self._file(Ref("volume", volume_id))))

    def list_staged(self) -> Sequence[str]:
        self.world.call("list_staged")
        return [path.name[len(_STAGED) : -len(_SUFFIX)] for path in self._bytes.glob(f"{_STAGED}*{_SUFFIX}")]

    def list(self) -> Sequence[StoredObject]:
        self.world.call("list")
        objects = self.world.read(_OBJECTS).values()
        return [StoredObject(Ref(known["kind"], known["id"]), known["size_bytes"]) for known in objects]

    def space(self) -> Space:
        self.world.call("space")
        return Space(self._total_bytes, self._total_bytes - _used_bytes(self.world.read(_OBJECTS)))

    def check(self) -> str:
        self.world.call("check")
        return f"fake store at {self.world.root}"

    def _staged(self, image_id: str) -> Path:
        return self._bytes / f"{_STAGED}{image_id}{_SUFFIX}"

    def _file(self, ref: Ref) -> Path:
        return self._bytes / (ref.outside_name + _SUFFIX)

    def _add(self, ref: Ref, content: Path) -> int:
        """Makes the object from a copy of `content` unless it exists; alone, since the table is locked."""

        def add(objects: Table) -> int:
            if ref.outside_name not in objects:
                size_bytes = self._copy(content, self._file(ref), _used_bytes(objects))
                objects[ref.outside_name] = {"kind": ref.kind, "id": ref.id, "size_bytes": size_bytes}
            size: int = objects[ref.outside_name]["size_bytes"]
            return size

        return self.world.change(_OBJECTS, add)

    def _copy(self, source: Path, target: Path, used_bytes: int) -> int:
        if not source.exists():
            raise DriverError(f"{source.name} is not in the fake store.", retryable=False)
        size_bytes = source.stat().st_size
        if used_bytes + size_bytes > self._total_bytes:
            raise InsufficientSpaceError(
                f"The fake store has no room for {target.name}.", remedy="Delete something."
            )
        with target.open("wb") as copy:
            _copy_data(source, copy.fileno())
        return size_bytes


def _used_bytes(objects: Table) -> int:
    return sum(known["size_bytes"] for known in objects.values())


def _copy_data(source: Path, target: int) -> None:
    """Copies what is not a hole, so that a disk of many empty GiB stays a small file."""
    with source.open("rb") as original:
        size_bytes = os.fstat(original.fileno()).st_size
        os.ftruncate(target, size_bytes)
        start = 0
        while start < size_bytes:
            try:
                start = os.lseek(original.fileno(), start, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                return
            end = os.lseek(original.fileno(), start, os.SEEK_HOLE)
            while start < end:
                start += os.copy_file_range(original.fileno(), target, end - start, start, start)
