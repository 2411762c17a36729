"""Where images live: golden images, copy-on-write volumes, snapshots."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

ObjectKind = Literal["image", "volume", "snapshot"]


@dataclass(frozen=True)
class Ref:
    """One object of the store by what it is and its id; outside BMI it is called `bmi-<kind>-<id>`."""

    kind: ObjectKind
    id: str

    @property
    def outside_name(self) -> str:
        return f"bmi-{self.kind}-{self.id}"


@dataclass(frozen=True)
class StoredObject:
    """One object as the store sees it."""

    ref: Ref
    size_bytes: int


@dataclass(frozen=True)
class Space:
    """Room in the store, in bytes."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Usage:
    """What one object takes, in bytes: `allocated` is what it holds at all, `unique` what nothing else
    shares, which deleting it would free.
    """

    allocated_bytes: int
    unique_bytes: int


@dataclass(frozen=True)
class Extent:
    """A part of a disk, in bytes."""

    offset: int
    length: int


@dataclass(frozen=True)
class Backing:
    """How an export reaches a volume's bytes: a `file` path, or an `rbd` pool/image.

    `options` is what else the exporter's client of the store must be told (for rbd: `conf`, `id`); never
    a secret.
    """

    kind: Literal["file", "rbd"]
    location: str
    options: tuple[tuple[str, str], ...] = ()


class Storage(Protocol):
    """A store of copy-on-write disks. All calls are idempotent; all raise DriverError.

    Import happens in two moves so that a half-written image is never visible: a caller asks for a
    `staging_path`, writes a raw sparse disk there, then calls `commit_image`.
    """

    def staging_path(self, image_id: str) -> Path:
        """A path on a local file system where an import may write; it may exist already."""
        ...

    def commit_image(self, image_id: str) -> int:
        """Makes the staged raw disk the image `image_id`, durably and read-only; returns its size in
        bytes. Succeeds without effect when the image already exists. Removes the staging file.
        """
        ...

    def discard_staging(self, image_id: str) -> None:
        """Removes what an abandoned import left."""
        ...

    def adopt(self, location: str, image_id: str) -> int:
        """Makes image `image_id` from an image of the store that is not BMI's own, without copying it and
        without changing it; returns its size in bytes. `location` is the store's own notation
        (`pool/image[@snap]`). A store that holds no others raises a DriverError that says so.
        """
        ...

    def publish(self, ref: Ref, location: str) -> None:
        """Writes an independent copy of the object outside BMI's own names, where nothing may exist yet."""
        ...

    def clone(self, source: Ref, volume_id: str, *, size_bytes: int = 0) -> int:
        """Makes volume `volume_id` from an image, a snapshot or a volume; returns its size in bytes. It is as
        large as the source, or `size_bytes` if that is more (the rest reads as zeros).
        """
        ...

    def snapshot(self, volume_id: str, snapshot_id: str) -> int:
        """Freezes the volume as it is now (crash-consistent while in use); returns its size in bytes."""
        ...

    def promote(self, source: Ref, image_id: str) -> int:
        """Makes image `image_id` from a snapshot or another image without a full copy; both live on. Returns
        its size in bytes. The image may depend on the source until it is flattened.
        """
        ...

    def roll_back(self, volume_id: str, snapshot_id: str) -> int:
        """Gives the volume the bytes of a snapshot (of this or of any volume); returns its size in bytes.
        Nobody may use the volume meanwhile. Killed anywhere, the volume is as before or rolled back.
        """
        ...

    def resize(self, volume_id: str, size_bytes: int) -> int:
        """Makes the volume at least `size_bytes` large; never smaller. Returns its size in bytes."""
        ...

    def flatten(self, ref: Ref) -> None:
        """Makes the object independent of what it was made from, where it depends on it."""
        ...

    def changed(self, older: Ref | None, newer: Ref) -> Sequence[Extent]:
        """Where `newer` may differ from `older` (None: from zeros): ascending, not touching each other. What
        is outside is the same for certain; what is inside may be the same in part (whole blocks or objects).
        """
        ...

    def usage(self, ref: Ref) -> Usage:
        """What the object takes."""
        ...

    def delete(self, ref: Ref) -> None:
        """Removes the object; one that is gone already is a success. What was made from it lives on."""
        ...

    def opened(self, ref: Ref) -> AbstractContextManager[Path]:
        """A file of the object's raw bytes for tools to read as long as the context lasts; never written to."""
        ...

    def backing(self, volume_id: str) -> Backing:
        """What an export serves."""
        ...

    def fence(self, volume_id: str) -> None:
        """Cuts off whoever still has the volume open for writing (a crashed or lost exporter), for good. To be
        called only when BMI's own export of it has ended or died.
        """
        ...

    def list_staged(self) -> Sequence[str]:
        """The ids of the images of which something is staged."""
        ...

    def list(self) -> Sequence[StoredObject]:
        """All objects of this BMI in the store."""
        ...

    def space(self) -> Space:
        """Room in the store."""
        ...

    def check(self) -> str:
        """Proves that the store works (and mounts it if that is its business) and says in one
        sentence what it is; raises DriverError with a remedy otherwise.
        """
        ...
