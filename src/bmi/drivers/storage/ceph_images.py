"""RBD images by name: made out of sight, shown when whole, thrown away at once and cleared away when unused.

A child keeps its parent alive. So what is thrown away goes to the pool's trash under its name, and the trash
is emptied from the youngest generation up. A snapshot (in the sense of RBD) bears the name of the one child
that was made from it, and goes with it; `FROZEN` is the one from which any number of children are made.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from bmi.drivers.storage import ceph_names
from bmi.drivers.storage.ceph_cluster import Pool, effect, rbd
from bmi.drivers.storage.ceph_fence import shut_out_others
from bmi.drivers.storage.ceph_names import id_behind, listed_id

FROZEN = "frozen"
# Layering, exclusive lock, object map, fast diff, deep flatten. Without the object map, removing an empty
# image takes seconds, and without fast diff a measurement reads everything.
FEATURES = 1 | 4 | 8 | 16 | 32
_USER_SNAPSHOT = 0  # rbd_snap_namespace_type_t in librbd.h
# Marks of names that are not for others to see: not whole yet; whole, and about to take the place of another.
NEW, NEXT = "new", "next"
HIDDEN = (NEW, NEXT)


@dataclass(frozen=True)
class Parent:
    """Where an image was cloned from; a snapshot in the trash goes by a name that RBD gave it."""

    pool: str
    namespace: str
    image: str
    image_id: str
    snapshot: str


class Images:
    """The images of a pool whose names begin with a prefix of ours."""

    def __init__(self, pool: Pool, prefix: str) -> None:
        self.pool = pool
        self.prefix = prefix
        self._rbd = rbd.RBD()
        self._clearing = Locks()

    # ---- looking -----------------------------------------------------------------------------------

    @contextmanager
    def opened(self, name: str, *, write: bool = False) -> Iterator[Any]:
        """The image `name`; raises rbd.ImageNotFound."""
        with rbd.Image(self.pool.ioctx, name, read_only=not write) as image:
            yield image

    def size(self, name: str) -> int | None:
        """In bytes; None where there is no such image."""
        return ceph_names.size(self.pool.ioctx, name)

    def names(self) -> list[str]:
        """All of ours that can be seen."""
        return [name for name in self._rbd.list(self.pool.ioctx) if name.startswith(f"{self.prefix}-")]

    # ---- making ------------------------------------------------------------------------------------

    def create(self, name: str, size_bytes: int) -> None:
        effect("create")
        self._rbd.create(self.pool.ioctx, name, size_bytes, old_format=False, features=FEATURES)

    def clone(
        self, parent: str, snapshot: str, child: str, *, from_pool: Any = None, to_pool: Any = None
    ) -> None:
        effect("clone")
        ours = self.pool.ioctx
        self._rbd.clone(from_pool or ours, parent, snapshot, to_pool or ours, child, features=FEATURES)

    def freeze(self, name: str, snapshot: str) -> None:
        """Makes the snapshot unless it is there."""
        with self.opened(name, write=True) as image:
            self.freeze_open(image, snapshot)

    def freeze_open(self, image: Any, snapshot: str) -> None:
        if snapshot not in snapshots(image):
            effect("create_snap")
            with suppress(rbd.ImageExists):
                image.create_snap(snapshot)

    def rename(self, name: str, to: str) -> None:
        """Only for images that nobody has open, as are those that cannot be seen."""
        ceph_names.rename(self.pool.ioctx, name, to)

    def mend_rename(self, name: str, to: str) -> None:
        """Ends what a death in the middle of `rename` has left."""
        ceph_names.mend_rename(self.pool.ioctx, name, to)

    # ---- throwing away -----------------------------------------------------------------------------

    def remove_unseen(self, name: str) -> None:
        """Removes what an attempt that ended early has left, finished or not; it has no children."""
        if id_behind(self.pool.ioctx, name) is None and listed_id(self.pool.ioctx, name) is None:
            return
        with suppress(rbd.ImageNotFound):
            # Whoever was at it has died or lost its lease; the dead would be waited for.
            shut_out_others(self.pool, name)
        with suppress(rbd.ImageNotFound), self.opened(name, write=True) as image:
            self._thaw(image)
            self._let_go_of_parent(name, image)
        effect("remove")
        with suppress(rbd.ImageNotFound):
            self._rbd.remove(self.pool.ioctx, name)  # copes with what has no header yet, or no more

    def discard(self, name: str) -> None:
        """Makes the image disappear, whole, and clears away what nothing needs any more."""
        self.clear(self.hide(name), name)

    def hide(self, name: str) -> str | None:
        """Moves the image to the trash, whole; returns its id, or None if there is no such image."""
        image_id = id_behind(self.pool.ioctx, name)
        effect("trash_move")
        with suppress(rbd.ImageNotFound):
            self._rbd.trash_move(self.pool.ioctx, name, 0)
        return image_id

    def clear_all(self) -> None:
        """Empties the trash of what was still in use, or what a death has left there, and is not any more."""
        left, before = self._trash(), None
        while left and left != before:  # the end of a child may be that of its parent
            for image_id, name in left.items():
                if id_behind(self.pool.ioctx, name) == image_id:  # died on the way to the trash
                    with suppress(rbd.ImageNotFound, rbd.ImageBusy):
                        self._rbd.trash_move(self.pool.ioctx, name, 0)
                self.clear(image_id, name)
            left, before = self._trash(), left

    def _trash(self) -> dict[str, str]:
        """The ids and names of what is ours in the trash."""
        entries = self._rbd.trash_list(self.pool.ioctx)
        return {each["id"]: each["name"] for each in entries if each["name"].startswith(f"{self.prefix}-")}

    def flatten(self, name: str) -> None:
        """Makes the image independent of its parent, if it has one."""
        with self.opened(name, write=True) as image:
            parent = parent_of(image)
            if parent is None:
                return
            effect("flatten")
            image.flatten()
            self._remove_snapshot_of(name, parent)
        self._clear_parent(parent)

    def remove_snapshot(self, name: str, snapshot: str) -> None:
        """While it has children, RBD keeps it out of sight and removes it with the last."""
        effect("remove_snap")
        with suppress(rbd.ImageNotFound), self.opened(name, write=True) as image:
            image.remove_snap(snapshot)

    def clear(self, image_id: str | None, name: str) -> None:
        """Removes an image in the trash, and then its parent and so on, as far as nothing needs them."""
        if image_id is None:
            return
        try:
            # One at a time: of eight threads that cleared away at once, one was seen to wait for ever in librbd,
            # and what it was removing had an empty header again.
            with self._clearing(image_id):
                with rbd.Image(self.pool.ioctx, image_id=image_id) as image:
                    self._forget_unfrozen(image)
                    self._thaw(image)
                    parent = self._let_go_of_parent(name, image)
                    if list(image.list_snaps()):
                        return  # children live on what is frozen
                effect("trash_remove")
                self._rbd.trash_remove(self.pool.ioctx, image_id, force=True)
        except (rbd.ImageNotFound, rbd.ImageBusy, rbd.ImageHasSnapshots):
            return  # done by somebody else, or still open in a client that died: a later round gets it
        self._clear_parent(parent)

    def _clear_parent(self, parent: Parent | None) -> None:
        if parent and (parent.pool, parent.namespace) == (self.pool.name, self.pool.namespace):
            with suppress(rbd.ImageNotFound):
                self._rbd.trash_get(self.pool.ioctx, parent.image_id)
                if parent.image.startswith(f"{self.prefix}-"):
                    self.clear(parent.image_id, parent.image)

    def _forget_unfrozen(self, image: Any) -> None:
        """Frees what was written since the newest snapshot, which no child can see."""
        frozen = list(snapshots(image))
        if not frozen:
            return
        written: list[tuple[int, int]] = []
        image.diff_iterate(
            0,
            image.size(),
            frozen[-1],
            lambda offset, length, exists: written.append((offset, length)) if exists else None,
            whole_object=True,
        )
        for offset, length in written:
            effect("discard")
            image.discard(offset, length)

    def _thaw(self, image: Any) -> None:
        for snapshot in snapshots(image):
            effect("remove_snap")
            with suppress(rbd.ImageNotFound):
                image.remove_snap(snapshot)

    def _let_go_of_parent(self, name: str, image: Any) -> Parent | None:
        parent = parent_of(image)
        if parent:
            self._remove_snapshot_of(name, parent)
        return parent

    def _remove_snapshot_of(self, child: str, parent: Parent) -> None:
        """Removes the snapshot that was made for this child alone."""
        if parent.snapshot != visible(child, self.prefix):
            return
        ioctx = self.pool.other(parent.pool, parent.namespace)
        try:
            with (
                self._clearing(parent.image_id),
                suppress(rbd.ImageNotFound),
                rbd.Image(ioctx, image_id=parent.image_id) as image,
            ):
                effect("remove_snap")
                image.remove_snap(parent.snapshot)
        finally:
            ioctx.close()


def parent_of(image: Any) -> Parent | None:
    """What an open image was made from and still depends on."""
    try:
        spec = image.get_parent_image_spec()
        return Parent(
            spec["pool_name"],
            spec["pool_namespace"],
            spec["image_name"],
            image.parent_id(),
            spec["snap_name"],
        )
    except rbd.ImageNotFound:
        return None


def snapshots(image: Any) -> dict[str, int]:
    """The names of an open image's snapshots, oldest first, with their ids; without those in the trash."""
    found = {snap["name"]: snap["id"] for snap in image.list_snaps() if snap["namespace"] == _USER_SNAPSHOT}
    return dict(sorted(found.items(), key=lambda each: each[1]))


def visible(name: str, prefix: str) -> str:
    """The name that an image has, or is to have, when it can be seen."""
    for mark in HIDDEN:
        if name.startswith(f"{prefix}-{mark}-"):
            return f"{prefix}-{name.removeprefix(f'{prefix}-{mark}-')}"
    return name


class Locks:
    """A lock for each name, as long as somebody wants it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._wanted: Counter[str] = Counter()
        self._locks: dict[str, threading.RLock] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        with self._guard:
            self._wanted[name] += 1
            lock = self._locks.setdefault(name, threading.RLock())
        try:
            with lock:
                yield
        finally:
            with self._guard:
                self._wanted[name] -= 1
                if not self._wanted[name]:
                    del self._wanted[name], self._locks[name]
