"""Storage for tests and for trying BMI out: small files in a directory, plainly copied, failing when told to."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bmi.drivers.faults import FakeWorld, Table
from bmi.drivers.storage import Backing, Extent, Ref, Space, StoredObject, Usage
from bmi.drivers.storage.extents import merged
from bmi.errors import DriverError, InsufficientSpaceError

_OBJECTS, _OTHERS, _FENCED = "objects", "others", "fenced"
_STAGED, _SUFFIX = "staging-", ".raw"
_BLOCK_BYTES = 4096


def create(*, root: str = "", total_bytes: int = 1 << 40) -> "FakeStorage":
    """A store in the directory `root` (empty: a temporary one) that claims to have room for `total_bytes`.

    Its calls can be made to fail by `<root>/faults.json`; see FakeWorld.
    """
    return FakeStorage(FakeWorld(root), total_bytes)


class FakeStorage:
    """The Storage protocol; which objects exist is one table, so that an object appears whole or not at all.

    Images that are not BMI's own (`adopt`, `publish`) are in a table beside it, `others`; how often each volume
    was fenced is in `fenced`.
    """

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

    def adopt(self, location: str, image_id: str) -> int:
        self.world.call("adopt")
        return self._add(Ref("image", image_id), self._other(location))

    def publish(self, ref: Ref, location: str) -> None:
        self.world.call("publish")

        def add(others: Table) -> None:
            if others.setdefault(location, ref.outside_name) != ref.outside_name:
                raise DriverError(
                    f"There is an image {location!r} already.", retryable=False, remedy="Choose another name."
                )
            self._copy(self._file(ref), self._other(location))

        self.world.change(_OTHERS, add)

    def clone(self, source: Ref, volume_id: str, *, size_bytes: int = 0) -> int:
        self.world.call("clone")
        return self._add(Ref("volume", volume_id), self._file(source), size_bytes)

    def snapshot(self, volume_id: str, snapshot_id: str) -> int:
        self.world.call("snapshot")
        return self._add(Ref("snapshot", snapshot_id), self._file(Ref("volume", volume_id)))

    def promote(self, source: Ref, image_id: str) -> int:
        self.world.call("promote")
        return self._add(Ref("image", image_id), self._file(source))

    def roll_back(self, volume_id: str, snapshot_id: str) -> int:
        self.world.call("roll_back")
        volume, snapshot = self._file(Ref("volume", volume_id)), self._file(Ref("snapshot", snapshot_id))

        def replace(_: Table) -> int:
            _existing(volume)
            self._copy(snapshot, volume)
            return volume.stat().st_size

        return self.world.change(_OBJECTS, replace)

    def resize(self, volume_id: str, size_bytes: int) -> int:
        self.world.call("resize")
        volume = self._file(Ref("volume", volume_id))

        def grow(_: Table) -> int:
            if _existing(volume).stat().st_size < size_bytes:
                os.truncate(volume, size_bytes)
            return volume.stat().st_size

        return self.world.change(_OBJECTS, grow)

    def flatten(self, ref: Ref) -> None:
        self.world.call("flatten")
        _existing(self._file(ref))

    def changed(self, older: Ref | None, newer: Ref) -> Sequence[Extent]:
        self.world.call("changed")
        was = _blocks(_existing(self._file(older))) if older else {}
        now = _blocks(_existing(self._file(newer)))
        size_bytes = self._file(newer).stat().st_size
        offsets = sorted(offset for offset, _ in was.items() ^ now.items() if offset < size_bytes)
        return merged(Extent(offset, min(_BLOCK_BYTES, size_bytes - offset)) for offset in offsets)

    def usage(self, ref: Ref) -> Usage:
        """As a store that shares equal blocks at equal places would have it."""
        self.world.call("usage")
        own = _blocks(_existing(self._file(ref))).items()
        others = [self._file(other.ref) for other in self._objects() if other.ref != ref]
        alone = set(own).difference(*(_blocks(other).items() for other in others))
        return Usage(len(own) * _BLOCK_BYTES, len(alone) * _BLOCK_BYTES)

    def delete(self, ref: Ref) -> None:
        self.world.call("delete")
        self.world.change(_OBJECTS, lambda objects: objects.pop(ref.outside_name, None))
        self._file(ref).unlink(missing_ok=True)
        _fresh(self._file(ref)).unlink(missing_ok=True)

    @contextmanager
    def opened(self, ref: Ref) -> Iterator[Path]:
        self.world.call("opened")
        yield _existing(self._file(ref))

    def backing(self, volume_id: str) -> Backing:
        return Backing("file", str(self._file(Ref("volume", volume_id))))

    def fence(self, volume_id: str) -> None:
        self.world.call("fence")
        self.world.change(_FENCED, lambda fenced: fenced.update({volume_id: fenced.get(volume_id, 0) + 1}))

    def list_staged(self) -> Sequence[str]:
        self.world.call("list_staged")
        return [path.name[len(_STAGED) : -len(_SUFFIX)] for path in self._bytes.glob(f"{_STAGED}*{_SUFFIX}")]

    def list(self) -> Sequence[StoredObject]:
        self.world.call("list")
        return self._objects()

    def space(self) -> Space:
        self.world.call("space")
        return Space(self._total_bytes, self._total_bytes - self._used_bytes())

    def check(self) -> str:
        self.world.call("check")
        return f"fake store at {self.world.root}"

    def _staged(self, image_id: str) -> Path:
        return self._bytes / f"{_STAGED}{image_id}{_SUFFIX}"

    def _other(self, location: str) -> Path:
        return self._bytes / f"other-{location.replace('/', '-')}{_SUFFIX}"

    def _file(self, ref: Ref) -> Path:
        return self._bytes / (ref.outside_name + _SUFFIX)

    def _objects(self) -> Sequence[StoredObject]:
        found = []
        for known in self.world.read(_OBJECTS).values():
            ref = Ref(known["kind"], known["id"])
            with suppress(FileNotFoundError):  # deleted since the table was read
                found.append(StoredObject(ref, self._file(ref).stat().st_size))
        return found

    def _used_bytes(self) -> int:
        return sum(known.size_bytes for known in self._objects())

    def _add(self, ref: Ref, content: Path, size_bytes: int = 0) -> int:
        """Makes the object from a copy of `content` unless it exists; alone, since the table is locked."""

        def add(objects: Table) -> int:
            if ref.outside_name not in objects:
                self._copy(content, self._file(ref), size_bytes)
                objects[ref.outside_name] = {"kind": ref.kind, "id": ref.id}
            return self._file(ref).stat().st_size

        return self.world.change(_OBJECTS, add)

    def _copy(self, source: Path, target: Path, size_bytes: int = 0) -> None:
        size_bytes = max(size_bytes, _existing(source).stat().st_size)
        if self._used_bytes() + size_bytes > self._total_bytes:
            raise InsufficientSpaceError(
                f"The fake store has no room for {target.name}.", remedy="Delete something."
            )
        fresh = _fresh(target)
        with fresh.open("wb") as copy:
            os.ftruncate(copy.fileno(), size_bytes)
            _copy_data(source, copy.fileno())
        fresh.replace(target)


def _fresh(file: Path) -> Path:
    """Where content waits until it is complete."""
    return file.with_suffix(".new")


def _existing(file: Path) -> Path:
    if not file.exists():
        raise DriverError(f"{file.name} is not in the fake store.", retryable=False)
    return file


def _copy_data(source: Path, target: int) -> None:
    """Copies what is not a hole, so that a disk of many empty GiB stays a small file."""
    with source.open("rb") as original:
        for start, end in _data(original.fileno()):
            at = start
            while at < end:
                at += os.copy_file_range(original.fileno(), target, end - at, at, at)


def _blocks(file: Path) -> dict[int, bytes]:
    """The blocks of a file that are not all zeros, by offset."""
    found = {}
    with file.open("rb") as disk:
        for start, end in _data(disk.fileno()):
            for offset in range(start - start % _BLOCK_BYTES, end, _BLOCK_BYTES):
                block = os.pread(disk.fileno(), _BLOCK_BYTES, offset)
                if any(block):
                    found[offset] = block
    return found


def _data(file: int) -> Iterator[tuple[int, int]]:
    """Where an open file is not a hole: from, to."""
    end = 0
    while True:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end
