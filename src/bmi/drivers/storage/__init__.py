"""Where images live: golden images, copy-on-write volumes, snapshots."""

from collections.abc import Sequence
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
class Backing:
    """How an export reaches a volume's bytes: a `file` path, or an `rbd` pool/image."""

    kind: Literal["file", "rbd"]
    location: str


class Storage(Protocol):
    """A store of copy-on-write disks. All calls are idempotent; all raise DriverError.

    Import happens in two moves so that a half-written image is never visible: a caller asks for a
    `staging_path`, writes a raw sparse disk there, then calls `commit_image`.
    """

    def staging_path(self, image_id: str) -> Path:
        """A path on the store's own file system where an import may write; it may exist already."""
        ...

    def commit_image(self, image_id: str) -> int:
        """Makes the staged raw disk the image `image_id`, durably and read-only; returns its size in
        bytes. Succeeds without effect when the image already exists. Removes the staging file.
        """
        ...

    def discard_staging(self, image_id: str) -> None:
        """Removes what an abandoned import left."""
        ...

    def clone(self, source: Ref, volume_id: str) -> int:
        """Makes volume `volume_id` from an image or a snapshot; returns its size in bytes."""
        ...

    def snapshot(self, volume_id: str, snapshot_id: str) -> int:
        """Freezes the volume as it is now (crash-consistent while in use); returns its size in bytes."""
        ...

    def delete(self, ref: Ref) -> None:
        """Removes the object; one that is gone already is a success."""
        ...

    def local_path(self, ref: Ref) -> Path | None:
        """A file that tools may read the object's raw bytes from, or None where there is none."""
        ...

    def backing(self, volume_id: str) -> Backing:
        """What an export serves."""
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
