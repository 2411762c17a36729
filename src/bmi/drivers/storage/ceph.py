"""Storage in a Ceph pool, through librbd: every object is an RBD image, made from others by cloning.

    <prefix>-image-<id>, <prefix>-volume-<id>, <prefix>-snapshot-<id>    objects, as they are seen
    <prefix>-new-<kind>-<id>          one that is being made
    <prefix>-next-volume-<id>         what a volume is rolled back to, whole, about to take its place
    <staging_dir>/                    imports that are not committed yet, and configuration for programs

An object gets its name when it is whole and loses it before anything of it is removed. A pool may hold other
images, and those of other instances of BMI, which have prefixes of their own; nothing else is ever touched.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast, get_args

from bmi.drivers.storage import Backing, Extent, ObjectKind, Ref, Space, StoredObject, Usage
from bmi.drivers.storage.ceph_cluster import Pool, effect, rbd
from bmi.drivers.storage.ceph_diff import Diffs
from bmi.drivers.storage.ceph_fence import shut_out_others
from bmi.drivers.storage.ceph_images import FROZEN, NEW, NEXT, Images, Locks, parent_of, visible
from bmi.drivers.storage.ceph_upload import upload
from bmi.drivers.storage.ceph_view import as_file, remove_left_over
from bmi.errors import DriverError

_SUFFIX = ".raw"
_SECTOR_BYTES = 512
_LOOKERS = 8
_PUBLISHED_AS = "bmi.published"  # metadata of an image that we wrote for others: of what it is a copy
_LOCATION = re.compile(
    r"(?P<pool>[^/@]+)/(?:(?P<namespace>[^/@]+)/)?(?P<image>[^/@]+)(?:@(?P<snapshot>[^/@]+))?"
)


def create(
    *,
    conf: str = "/etc/ceph/ceph.conf",
    user: str = "bmi",
    keyring: str = "",
    pool: str = "bmi",
    namespace: str = "",
    prefix: str = "bmi",
    staging_dir: str,
    timeout_s: float = 10,
) -> "CephStorage":
    """The store in `pool`. Nothing is touched before the first call.

    `keyring` is needed where `conf` does not name it. No two instances of BMI may have the same `prefix` in
    one pool (and namespace). `timeout_s` is how long one request to the cluster may take.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.]{0,31}", prefix):
        raise ValueError(f"prefix {prefix!r} must be letters, digits, dots and underscores, without a hyphen")
    chosen = Pool(Path(conf), user, Path(keyring) if keyring else None, pool, namespace, timeout_s)
    return CephStorage(chosen, prefix, Path(staging_dir).absolute(), timeout_s)


class CephStorage:
    """The Storage protocol. Keeps no state but its connection."""

    def __init__(self, pool: Pool, prefix: str, staging: Path, timeout_s: float) -> None:
        self._pool = pool
        self._prefix = prefix
        self._staging = staging
        self._timeout_s = timeout_s
        self._images = Images(pool, prefix)
        self._diffs = Diffs(pool)
        self._locks = Locks()

    # ---- import ------------------------------------------------------------------------------------

    def staging_path(self, image_id: str) -> Path:
        self._staging.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._staging / (self._name(Ref("image", image_id)) + _SUFFIX)

    def commit_image(self, image_id: str) -> int:
        ref, staged = Ref("image", image_id), self.staging_path(image_id)

        def write(hidden: str) -> None:
            size_bytes = _size_of(staged)
            self._images.create(hidden, size_bytes)
            with self._images.opened(hidden, write=True) as image:
                upload(staged, image)
                self._images.freeze_open(image, FROZEN)

        with self._pool.reported(f"Storing image {image_id}"):
            size_bytes = self._make(ref, write)
        staged.unlink(missing_ok=True)
        return size_bytes

    def discard_staging(self, image_id: str) -> None:
        ref = Ref("image", image_id)
        self.staging_path(image_id).unlink(missing_ok=True)
        with self._pool.reported(f"Removing what was staged of image {image_id}"), self._lock(ref):
            self._mend(ref)
            self._images.remove_unseen(self._name(ref, NEW))

    def list_staged(self) -> Sequence[str]:
        beginning = self._name(Ref("image", ""))
        files = {
            path.name[len(beginning) : -len(_SUFFIX)] for path in self._staging.glob(f"{beginning}*{_SUFFIX}")
        }
        with self._pool.reported("Listing what is staged"):
            hidden = [name for name in self._images.names() if name != visible(name, self._prefix)]
        refs = [self._parse(visible(name, self._prefix)) for name in hidden]
        return sorted(files | {ref.id for ref in refs if ref and ref.kind == "image"})

    # ---- made from others ----------------------------------------------------------------------------

    def clone(self, source: Ref, volume_id: str, *, size_bytes: int = 0) -> int:
        return self._derive(source, Ref("volume", volume_id), size_bytes)

    def snapshot(self, volume_id: str, snapshot_id: str) -> int:
        return self._derive(Ref("volume", volume_id), Ref("snapshot", snapshot_id))

    def promote(self, source: Ref, image_id: str) -> int:
        return self._derive(source, Ref("image", image_id))

    def roll_back(self, volume_id: str, snapshot_id: str) -> int:
        """The clone of the snapshot is made out of sight and takes the volume's name: between losing the old
        disk and getting the new one the volume is known by the name `next`, which every look-up honours.
        """
        ref, source = Ref("volume", volume_id), Ref("snapshot", snapshot_id)
        name, new, following = self._name(ref), self._name(ref, NEW), self._name(ref, NEXT)
        with self._pool.reported(f"Rolling {_words(ref)} back to {_words(source)}"), self._lock(ref):
            self._mend(ref)
            self._size(ref)
            self._images.remove_unseen(following)
            self._images.remove_unseen(new)
            self._clone(source, ref, new)
            self._images.rename(new, following)
            old = self._images.hide(name)
            self._images.rename(following, name)
            self._images.clear(old, name)
            return self._size(ref)

    def adopt(self, location: str, image_id: str) -> int:
        pool, namespace, stranger, snapshot = _parse_location(location)
        ref = Ref("image", image_id)
        if (pool, namespace) == (self._pool.name, self._pool.namespace) and stranger.startswith(
            f"{self._prefix}-"
        ):
            raise DriverError(
                f"{location} is BMI's own.",
                retryable=False,
                remedy="Copy or promote it with BMI's own commands.",
            )

        def adopt(hidden: str) -> None:
            ioctx = self._pool.other(pool, namespace)
            try:
                if not snapshot:
                    with rbd.Image(ioctx, stranger) as image:
                        self._images.freeze_open(image, self._name(ref))
                self._images.clone(stranger, snapshot or self._name(ref), hidden, from_pool=ioctx)
            finally:
                ioctx.close()

        with self._pool.reported(f"Adopting {location} as image {image_id}"):
            return self._make(ref, adopt)

    # ---- changed in place ----------------------------------------------------------------------------

    def resize(self, volume_id: str, size_bytes: int) -> int:
        ref = Ref("volume", volume_id)
        with self._pool.reported(f"Resizing volume {volume_id}"), self._lock(ref):
            now_bytes = self._size(ref)
            if now_bytes < size_bytes:
                self._grow(self._name(ref), size_bytes)
            return max(now_bytes, size_bytes)

    def flatten(self, ref: Ref) -> None:
        with self._pool.reported(f"Flattening {_words(ref)}"), self._lock(ref):
            self._size(ref)
            self._images.flatten(self._name(ref))

    def delete(self, ref: Ref) -> None:
        with self._pool.reported(f"Deleting {_words(ref)}"), self._lock(ref):
            self._mend(ref)
            for mark in (NEW, NEXT):
                self._images.remove_unseen(self._name(ref, mark))
            self._images.discard(self._name(ref))

    # ---- looking ---------------------------------------------------------------------------------------

    def changed(self, older: Ref | None, newer: Ref) -> Sequence[Extent]:
        with self._pool.reported(f"Comparing {_words(newer)} with {_words(older) if older else 'nothing'}"):
            for ref in filter(None, (older, newer)):
                self._size(ref)
            return self._diffs.changed(self._name(older) if older else None, self._name(newer))

    def usage(self, ref: Ref) -> Usage:
        with self._pool.reported(f"Measuring {_words(ref)}"):
            self._size(ref)
            unique = self._diffs.unique(self._name(ref))
            return Usage(max(unique, self._diffs.allocated(self._name(ref))), unique)

    @contextmanager
    def opened(self, ref: Ref) -> Iterator[Path]:
        with self._pool.reported(f"Opening {_words(ref)}"):
            self._size(ref)
        self._staging.mkdir(mode=0o700, parents=True, exist_ok=True)
        conf = self._pool.write_conf(self._staging / "ceph-tools.conf", impatient=True)
        image = {"pool": self._pool.name, "image": self._name(ref)}
        image |= {"conf": str(conf), "user": self._pool.user}
        if self._pool.namespace:
            image["namespace"] = self._pool.namespace
        with as_file(self._staging, image, timeout_s=3 * self._timeout_s) as path:
            yield path

    def list(self) -> Sequence[StoredObject]:
        """Ends also what a death has left in the middle: this is what the sweep calls."""
        with self._pool.reported("Listing the store"):
            names = set(self._images.names())
            for name in sorted(names):
                if self._is_next(name) and visible(name, self._prefix) not in names:
                    self._settle(visible(name, self._prefix))
                    names.add(visible(name, self._prefix))
            refs = [ref for ref in map(self._parse, sorted(names)) if ref]
            with ThreadPoolExecutor(_LOOKERS) as pool:
                sizes = list(pool.map(self._images.size, map(self._name, refs)))
            self._images.clear_all()
        return [StoredObject(ref, size) for ref, size in zip(refs, sizes, strict=True) if size is not None]

    def space(self) -> Space:
        with self._pool.reported("Measuring the store"):
            return self._pool.space()

    def check(self) -> str:
        remove_left_over(self._staging)
        with self._pool.reported("Trying the store"):
            probe = f"{self._prefix}-check"
            self._pool.ioctx.write_full(probe, b"works")
            self._pool.ioctx.remove_object(probe)
            count = len(self._images.names())
        place = "/".join(filter(None, (self._pool.name, self._pool.namespace)))
        return f"Ceph store in the pool {place} as client.{self._pool.user}; {count} images begin with {self._prefix}-"

    # ---- outside ---------------------------------------------------------------------------------------

    def publish(self, ref: Ref, location: str) -> None:
        pool, namespace, name, snapshot = _parse_location(location)
        own = (pool, namespace) == (self._pool.name, self._pool.namespace)
        if snapshot or (own and name.startswith(f"{self._prefix}-")):
            raise DriverError(
                f"{location} cannot be written to.",
                retryable=False,
                remedy="Name pool/image, an image that does not exist yet and is not BMI's own.",
            )
        hidden = f"{self._prefix}-out-{ref.kind}-{ref.id}"
        with self._pool.reported(f"Copying {_words(ref)} to {location}"), self._lock(ref):
            self._size(ref)
            ioctx = self._pool.other(pool, namespace)
            try:
                if _published(ioctx, name) == self._name(ref):
                    return
                with suppress(rbd.ImageNotFound):
                    rbd.RBD().remove(ioctx, hidden)
                self._copy(ref, ioctx, hidden)
                rbd.RBD().rename(ioctx, hidden, name)
            except rbd.ImageExists as error:
                raise DriverError(
                    f"{location} exists already.",
                    retryable=False,
                    remedy="Name an image that does not exist.",
                ) from error
            finally:
                with suppress(rbd.ImageNotFound):
                    rbd.RBD().remove(ioctx, hidden)
                ioctx.close()

    def backing(self, volume_id: str) -> Backing:
        if self._pool.namespace:
            raise DriverError(
                "The exporter cannot reach RBD namespaces.",
                retryable=False,
                remedy="Use a pool without a namespace; the prefix keeps instances apart.",
            )
        self._staging.mkdir(mode=0o700, parents=True, exist_ok=True)
        conf = self._pool.write_conf(self._staging / "ceph.conf")
        location = f"{self._pool.name}/{self._name(Ref('volume', volume_id))}"
        return Backing("rbd", location, (("conf", str(conf)), ("id", self._pool.user)))

    def fence(self, volume_id: str) -> None:
        ref = Ref("volume", volume_id)
        with self._pool.reported(f"Fencing volume {volume_id}"), self._lock(ref):
            self._size(ref)
            shut_out_others(self._pool, self._name(ref))

    # ---- how it is done --------------------------------------------------------------------------------

    def _derive(self, source: Ref, target: Ref, size_bytes: int = 0) -> int:
        def clone(hidden: str) -> None:
            self._clone(source, target, hidden)
            if (self._images.size(hidden) or 0) < size_bytes:
                self._grow(hidden, size_bytes)

        with self._pool.reported(f"Making {_words(target)} from {_words(source)}"):
            return self._make(target, clone)

    def _make(self, ref: Ref, build: Callable[[str], None]) -> int:
        """Shows what `build` makes under the hidden name, unless it exists already; returns its size."""
        name, hidden = self._name(ref), self._name(ref, NEW)
        with self._lock(ref):
            self._mend(ref)
            size_bytes = self._images.size(name)
            if size_bytes is None:
                self._images.remove_unseen(hidden)
                build(hidden)
                self._images.rename(hidden, name)
                size_bytes = self._size(ref)
            return size_bytes

    def _clone(self, source: Ref, target: Ref, hidden: str) -> None:
        """Clones what `source` is now. A snapshot shows nothing but a state of its volume: as long as it
        can, its child depends on the volume and not on it, which spares a link and the time to freeze it.
        """
        self._size(source)
        name = self._name(source)
        if source.kind == "snapshot":
            with self._images.opened(name) as image:
                parent = parent_of(image)
            ours = parent and (parent.pool, parent.namespace) == (self._pool.name, self._pool.namespace)
            if parent and ours and parent.snapshot == name:
                with suppress(rbd.ImageNotFound):
                    self._images.clone(parent.image, name, hidden)
                    return
        if source.kind != "volume":
            with suppress(rbd.ImageNotFound):  # not frozen yet; that opens it for writing, which takes longer
                self._images.clone(name, FROZEN, hidden)
                return
        snapshot = self._name(target) if source.kind == "volume" else FROZEN
        self._images.freeze(name, snapshot)
        self._images.clone(name, snapshot, hidden)

    def _copy(self, ref: Ref, ioctx: Any, name: str) -> None:
        """Makes a clone and flattens it. (librbd's own copy loses what shines through from a parent.)"""
        mark = f"{self._name(ref)}.out"
        self._images.freeze(self._name(ref), mark)
        try:
            self._images.clone(self._name(ref), mark, name, to_pool=ioctx)
            with rbd.Image(ioctx, name) as copy:
                effect("flatten")
                copy.flatten()
                copy.metadata_set(_PUBLISHED_AS, self._name(ref))
        finally:
            self._images.remove_snapshot(self._name(ref), mark)

    def _grow(self, name: str, size_bytes: int) -> None:
        with self._images.opened(name, write=True) as image:
            if image.size() < size_bytes:
                effect("resize")
                image.resize(size_bytes)

    def _size(self, ref: Ref) -> int:
        """The size of an object that must be there, in bytes; ends a roll-back that was broken off."""
        name = self._name(ref)
        size_bytes = self._images.size(name)
        if size_bytes is None and ref.kind == "volume" and self._settle(name):
            size_bytes = self._images.size(name)
        if size_bytes is None:
            raise DriverError(
                f"There is no {_words(ref)} in the pool {self._pool.name}.",
                retryable=False,
                remedy="The store and the database disagree; `bmi server check` shows where.",
            )
        return size_bytes

    def _settle(self, name: str) -> bool:
        """Lets the volume's next disk take its place, where a roll-back has got so far; whether it had."""
        ref = self._parse(name)
        if ref is None:
            return False
        with self._lock(ref):
            self._mend(ref)
            with suppress(rbd.ImageNotFound, rbd.ImageExists):
                self._images.rename(self._name(ref, NEXT), name)
                return True
        return False

    def _mend(self, ref: Ref) -> None:
        """Ends renames that a death has broken off: made or not, the object has one name."""
        name, new, following = self._name(ref), self._name(ref, NEW), self._name(ref, NEXT)
        for old, to in ((new, name), (new, following), (following, name)):
            self._images.mend_rename(old, to)

    def _lock(self, ref: Ref) -> Any:
        return self._locks(self._name(ref))

    def _name(self, ref: Ref, mark: str = "") -> str:
        return "-".join(filter(None, (self._prefix, mark, ref.kind))) + f"-{ref.id}"

    def _is_next(self, name: str) -> bool:
        return name.startswith(f"{self._prefix}-{NEXT}-")

    def _parse(self, name: str) -> Ref | None:
        prefix, _, rest = name.partition("-")
        kind, _, object_id = rest.partition("-")
        if prefix != self._prefix or kind not in get_args(ObjectKind) or not object_id:
            return None
        return Ref(cast("ObjectKind", kind), object_id)


def _words(ref: Ref) -> str:
    return f"{ref.kind} {ref.id}"


def _size_of(staged: Path) -> int:
    try:
        size_bytes = staged.stat().st_size
    except FileNotFoundError as error:
        raise DriverError(f"Nothing is staged as {staged.name}.", retryable=False) from error
    if size_bytes == 0 or size_bytes % _SECTOR_BYTES:
        raise DriverError(
            f"The staged disk {staged.name} has {size_bytes} bytes, which is no whole number of sectors.",
            retryable=False,
        )
    return size_bytes


def _parse_location(location: str) -> tuple[str, str, str, str]:
    found = _LOCATION.fullmatch(location)
    if found is None:
        raise DriverError(
            f"{location!r} is no place in Ceph.",
            retryable=False,
            remedy="Write pool/image or pool/image@snap.",
        )
    return found["pool"], found["namespace"] or "", found["image"], found["snapshot"] or ""


def _published(ioctx: Any, name: str) -> str | None:
    """Of what the image is a copy, if BMI has made it; raises rbd.ImageExists if it is somebody else's."""
    try:
        with rbd.Image(ioctx, name, read_only=True) as image:
            return str(image.metadata_get(_PUBLISHED_AS))
    except rbd.ImageNotFound:
        return None
    except KeyError as error:
        raise rbd.ImageExists(f"image {name} exists", errno=17) from error
