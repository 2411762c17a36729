"""What two images have in common, and what each of them holds alone, told from their object maps.

A disk is a chain: the image itself, the snapshot it was cloned from, what that image was cloned from, and so
on. Each link holds the objects (4 MiB) that were written to it and lets the rest shine through.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bmi.drivers.storage import Extent
from bmi.drivers.storage.ceph_cluster import Pool, rbd
from bmi.drivers.storage.ceph_images import FROZEN, parent_of, snapshots
from bmi.drivers.storage.extents import merged


@dataclass(frozen=True)
class Link:
    """An image by its id, as it was at one of its snapshots, or (None) as it is now."""

    pool: str
    namespace: str
    image_id: str
    snapshot: int | None = None

    @property
    def image(self) -> tuple[str, str, str]:
        return self.pool, self.namespace, self.image_id


class Diffs:
    """Compares and measures the images of a cluster."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def changed(self, older: str | None, newer: str) -> list[Extent]:
        """Where the image `newer` may differ from `older` (None: from zeros)."""
        ours = self._chain(newer)
        theirs = self._chain(older) if older is not None else []
        meeting = next((link for link in ours if any(link.image == other.image for other in theirs)), None)
        found: list[Extent] = []
        for chain in (ours, theirs):
            for link in chain:
                if meeting and link.image == meeting.image:
                    break
                found += self._own(link)
        if meeting:
            other = next(link for link in theirs if link.image == meeting.image)
            found += self._between(meeting, other)
        with rbd.Image(self._pool.ioctx, newer, read_only=True) as image:
            return list(_within(_merged(found), image.size()))

    def allocated(self, name: str) -> int:
        """The bytes of an image and of all it is made from, whole objects, in bytes."""
        with rbd.Image(self._pool.ioctx, name, read_only=True) as image:
            return _total(_objects(image, parents=True))

    def unique(self, name: str) -> int:
        """What would be free without the image: what it holds, less what its own snapshots (or, for the child
        that a snapshot was made for, its neighbours) hold as well. Whole objects, in bytes.
        """
        with rbd.Image(self._pool.ioctx, name, read_only=True) as image:
            shared = [known for known in snapshots(image) if known != FROZEN or _has_children(image, known)]
            image.set_snap(None)
            own = _total(_objects(image, since=shared[-1] if shared else None))
            parent = parent_of(image)
        if parent is None or parent.snapshot != name:
            return own
        return own + self._alone_in_snapshot(Link(parent.pool, parent.namespace, parent.image_id), name)

    def _alone_in_snapshot(self, link: Link, snapshot: str) -> int:
        """What was written between the snapshot before this one and this one, and again before the next."""
        with self._opened(link) as image:
            known = snapshots(image)
            names = list(known)
            if snapshot not in known:
                return 0
            place = names.index(snapshot)
            later = known[names[place + 1]] if place + 1 < len(names) else None
        with self._opened(Link(*link.image, known[snapshot])) as image:
            before = _objects(image, since=names[place - 1] if place else None)
        with self._opened(Link(*link.image, later)) as image:
            after = _objects(image, since=snapshot)
        return _total(_common(_merged(before), _merged(after)))

    def _chain(self, name: str) -> list[Link]:
        with rbd.Image(self._pool.ioctx, name, read_only=True) as image:
            links = [Link(self._pool.name, self._pool.namespace, image.id())]
            parent = parent_of(image)
        while parent:
            head = Link(parent.pool, parent.namespace, parent.image_id)
            with self._opened(head) as image:
                (snapshot,) = [s["id"] for s in image.list_snaps() if s["name"] == parent.snapshot]
                links.append(Link(*head.image, snapshot))
                image.set_snap_by_id(snapshot)
                parent = parent_of(image)
        return links

    def _own(self, link: Link) -> list[Extent]:
        """The objects that this link holds itself."""
        with self._opened(link) as image:
            return _objects(image)

    def _between(self, one: Link, other: Link) -> list[Extent]:
        """The objects that differ between two states of one image."""
        if one == other:
            return []
        first, last = sorted((one, other), key=lambda link: (link.snapshot is None, link.snapshot or 0))
        with self._opened(last) as image:
            for name, snapshot in snapshots(image).items():
                if snapshot == first.snapshot:
                    return _objects(image, since=name)
        # The earlier one is in the trash, where RBD compares nothing with it. What neither holds itself is
        # the same in both.
        return self._own(first) + self._own(last)

    @contextmanager
    def _opened(self, link: Link) -> Iterator[Any]:
        ioctx = self._pool.other(link.pool, link.namespace)
        try:
            with rbd.Image(ioctx, image_id=link.image_id, read_only=True) as image:
                if link.snapshot is not None:
                    image.set_snap_by_id(link.snapshot)
                yield image
        finally:
            ioctx.close()


def _objects(image: Any, since: str | None = None, *, parents: bool = False) -> list[Extent]:
    """Which objects an open image has, or has changed `since` a snapshot."""
    found: list[Extent] = []

    def add(offset: int, length: int, _exists: bool) -> None:
        found.append(Extent(offset, length))

    image.diff_iterate(0, image.size(), since, add, include_parent=parents, whole_object=True)
    return found


def _has_children(image: Any, snapshot: str) -> bool:
    image.set_snap(snapshot)
    return any(True for _ in image.list_children2())


def _merged(extents: Iterable[Extent]) -> list[Extent]:
    return merged(sorted(extents, key=lambda extent: extent.offset))


def _within(extents: Iterable[Extent], size_bytes: int) -> Iterator[Extent]:
    for extent in extents:
        if extent.offset < size_bytes:
            yield Extent(extent.offset, min(extent.length, size_bytes - extent.offset))


def _common(some: Sequence[Extent], others: Sequence[Extent]) -> Iterator[Extent]:
    """What two ascending lists of extents share."""
    here, there = list(reversed(some)), list(reversed(others))
    while here and there:
        start = max(here[-1].offset, there[-1].offset)
        ends = [side[-1].offset + side[-1].length for side in (here, there)]
        if start < min(ends):
            yield Extent(start, min(ends) - start)
        (here if ends[0] <= ends[1] else there).pop()


def _total(extents: Iterable[Extent]) -> int:
    return sum(extent.length for extent in extents)
