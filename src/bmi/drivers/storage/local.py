"""Storage on this machine's own disk: every object is a raw file, every clone and snapshot shares its blocks.

    <path>/store/bmi-image-<id>.raw, bmi-volume-<id>.raw, bmi-snapshot-<id>.raw
    <path>/store/staging/           imports that are not committed yet
    <path>/store.img                holds `store` where <path> itself cannot share blocks (see loopfile)

A new object is made without a name (O_TMPFILE) and linked in when it is complete, so a crash leaves
nothing to clean up and a half-made object cannot be seen. When a call returns, its effect is on the disk.

No object depends on another: the file system counts who shares a block. What two objects
have in common is read from where their blocks lie; with compression (btrfs) that cannot be told, and all of
a file counts as changed.
"""

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, cast, get_args

from bmi.drivers.storage import (
    Backing,
    Extent,
    ObjectKind,
    Ref,
    Space,
    StoredObject,
    Usage,
    extents,
    loopfile,
    reflink,
)
from bmi.drivers.storage.loopfile import unmount
from bmi.errors import DriverError, InsufficientSpaceError
from bmi.process import run

__all__ = ["LocalStorage", "create", "unmount"]

_SUFFIX = ".raw"
_SECTOR_BYTES = 512
_COW_EXTENT_BYTES = 4096
_FROZEN, _WRITABLE = 0o400, 0o600
_FULL = {errno.ENOSPC, errno.EDQUOT}
_PASSING = {errno.EBUSY, errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EINTR}


def create(*, path: str, size_gib: int = 0) -> "LocalStorage":
    """The store in the directory `path`. Nothing is touched before the first call.

    `size_gib` is the size of the loop file, if one has to be made; 0 stands for 80 % of the free space.
    """
    return LocalStorage(Path(path).absolute(), size_gib)


class LocalStorage:
    """The Storage protocol on XFS or btrfs; on anything else inside a loop file. Keeps no state of its own."""

    def __init__(self, path: Path, size_gib: int) -> None:
        self._path = path
        self._size_gib = size_gib
        self._store = loopfile.store_directory(path)
        self._staging = self._store / "staging"

    def staging_path(self, image_id: str) -> Path:
        self._ensure_ready()
        return self._staging / (Ref("image", image_id).outside_name + _SUFFIX)

    def commit_image(self, image_id: str) -> int:
        self._ensure_ready()
        image, staged = self._file(Ref("image", image_id)), self.staging_path(image_id)
        with self._reported(f"Storing image {image_id}"):
            if not image.exists():
                # Another call may have renamed it just now; then the image exists.
                with suppress(FileNotFoundError):
                    _seal(staged)
                    staged.rename(image)
            self.discard_staging(image_id)
            return self._persist(image)

    def discard_staging(self, image_id: str) -> None:
        staged = self.staging_path(image_id)
        with self._reported(f"Removing the staging file of image {image_id}"):
            staged.unlink(missing_ok=True)

    def adopt(self, location: str, image_id: str) -> int:
        _refuse(f"Image {image_id} cannot be made from", location, "Import the disk as a file or from a URL.")

    def publish(self, ref: Ref, location: str) -> None:
        _refuse(f"{ref.kind.title()} {ref.id} cannot be written to", location, "Download it as a file.")

    def clone(self, source: Ref, volume_id: str, *, size_bytes: int = 0) -> int:
        return self._share(source, Ref("volume", volume_id), _WRITABLE, size_bytes)

    def snapshot(self, volume_id: str, snapshot_id: str) -> int:
        return self._share(Ref("volume", volume_id), Ref("snapshot", snapshot_id), _FROZEN)

    def promote(self, source: Ref, image_id: str) -> int:
        return self._share(source, Ref("image", image_id), _FROZEN)

    def roll_back(self, volume_id: str, snapshot_id: str) -> int:
        self._ensure_ready()
        volume, snapshot = self._file(Ref("volume", volume_id)), self._file(Ref("snapshot", snapshot_id))
        with self._reported(f"Rolling volume {volume_id} back to snapshot {snapshot_id}"):
            volume.stat()  # only what exists can be rolled back
            with self._shared_copy(snapshot, _WRITABLE) as copy:
                os.fsync(copy)  # before it takes the place of what is there
                with self._alone():
                    _fresh(volume).unlink(missing_ok=True)
                    self._name(copy, _fresh(volume))
                    _fresh(volume).rename(volume)
            return self._persist(volume)

    def resize(self, volume_id: str, size_bytes: int) -> int:
        self._ensure_ready()
        volume = self._file(Ref("volume", volume_id))
        with self._reported(f"Resizing volume {volume_id}"):
            with self._alone(), _opened(volume, os.O_RDWR) as handle:
                _grow(handle, size_bytes)
            return self._persist(volume)

    def flatten(self, ref: Ref) -> None:
        """Nothing to do: blocks have no owner."""
        self._require(ref, f"Flattening {ref.kind} {ref.id}")

    def changed(self, older: Ref | None, newer: Ref) -> Sequence[Extent]:
        self._ensure_ready()
        with self._reported(f"Comparing {newer.kind} {newer.id}"):
            was, now = self._runs(older) if older else (), self._runs(newer)
            return extents.differing(was, now, self._file(newer).stat().st_size)

    def usage(self, ref: Ref) -> Usage:
        """Of what is on the disk; what others have written since their last flush still counts as shared."""
        self._ensure_ready()
        with self._reported(f"Measuring {ref.kind} {ref.id}"):
            runs = self._runs(ref)
        unique_bytes = sum(run.end - run.start for run in runs if not run.shared)
        return Usage(sum(run.end - run.start for run in runs), unique_bytes)

    def delete(self, ref: Ref) -> None:
        self._ensure_ready()
        with self._reported(f"Deleting {ref.kind} {ref.id}"):
            self._file(ref).unlink(missing_ok=True)
            _fresh(self._file(ref)).unlink(missing_ok=True)
            loopfile.sync_directory(self._store)

    @contextmanager
    def opened(self, ref: Ref) -> Iterator[Path]:
        self._require(ref, f"Opening {ref.kind} {ref.id}")
        yield self._file(ref)

    def backing(self, volume_id: str) -> Backing:
        return Backing("file", str(self._file(Ref("volume", volume_id))))

    def fence(self, volume_id: str) -> None:
        """Nothing to do: only this machine's exports open the file, and theirs ends with them."""

    def list_staged(self) -> Sequence[str]:
        self._ensure_ready()
        with self._reported("Listing the staging directory"):
            return [ref.id for path in self._staging.iterdir() if (ref := _parse(path.name))]

    def list(self) -> Sequence[StoredObject]:
        self._ensure_ready()
        found = []
        with self._reported("Listing the store"), os.scandir(self._store) as entries:
            for entry in entries:
                ref = _parse(entry.name)
                if ref is None:
                    continue
                with suppress(FileNotFoundError):  # deleted since the directory was read
                    found.append(StoredObject(ref, entry.stat().st_size))
        return found

    def space(self) -> Space:
        """What is left in the store; in a loop file never more than the disk below can still give."""
        self._ensure_ready()
        with self._reported("Measuring the store"):
            here, below = os.statvfs(self._store), os.statvfs(self._path)
        free_bytes = here.f_bavail * here.f_frsize
        if loopfile.loop_file(self._path).exists():
            free_bytes = min(free_bytes, below.f_bavail * below.f_frsize)
        return Space(here.f_blocks * here.f_frsize, free_bytes)

    def check(self) -> str:
        self._ensure_ready()
        with self._reported("Trying the store"):
            can_share = reflink.can_share(self._store)
        if not can_share:
            raise DriverError(
                f"Files in {self._store} cannot share blocks.",
                retryable=False,
                remedy="Mount XFS (with reflink=1) or btrfs there, or name another storage path.",
            )
        kind = _file_system(self._store)
        image = loopfile.loop_file(self._path)
        if not image.exists():
            return f"local store on {kind} at {self._path}"
        size_gib = image.stat().st_size >> 30
        below = _file_system(self._path)
        return f"local store on {kind} in a loop file of {size_gib} GiB on {self._path} ({below} cannot share blocks)"

    def _ensure_ready(self) -> None:
        # The staging directory is made last and lies inside the mount: it proves everything else.
        if self._staging.is_dir():
            return
        with self._reported("Preparing the store"):
            loopfile.ensure_store(self._path, self._size_gib)
            self._staging.mkdir(mode=0o700, exist_ok=True)

    def _file(self, ref: Ref) -> Path:
        return self._store / (ref.outside_name + _SUFFIX)

    def _require(self, ref: Ref, action: str) -> None:
        self._ensure_ready()
        with self._reported(action):
            self._file(ref).stat()

    def _runs(self, ref: Ref) -> Sequence[extents.Run]:
        with _opened(self._file(ref), os.O_RDONLY) as handle:
            return extents.runs_of(handle)

    def _share(self, source: Ref, target: Ref, mode: int, size_bytes: int = 0) -> int:
        self._ensure_ready()
        file = self._file(target)
        with self._reported(f"Making {target.kind} {target.id} from {source.kind} {source.id}"):
            if not file.exists():
                with self._shared_copy(self._file(source), mode) as copy, suppress(FileExistsError):
                    _grow(copy, size_bytes)
                    self._name(copy, file)
            return self._persist(file)

    @contextmanager
    def _shared_copy(self, source: Path, mode: int) -> Iterator[int]:
        """A nameless file in the store that shares every block of `source`."""
        with _opened(source, os.O_RDONLY) as original, _opened(self._store, os.O_TMPFILE | os.O_RDWR) as copy:
            reflink.set_cow_extent_size(copy, _COW_EXTENT_BYTES)
            reflink.share_all(original, copy)
            os.fchmod(copy, mode)
            yield copy

    def _name(self, nameless: int, file: Path) -> None:
        with _opened(self._store, os.O_RDONLY | os.O_DIRECTORY) as here:
            # Naming a directory is what makes Python call linkat(2), which alone can follow the link.
            os.link(f"/proc/self/fd/{nameless}", file.name, src_dir_fd=here, dst_dir_fd=here)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Excludes other calls that look at a volume before they replace or grow it."""
        with _opened(self._store, os.O_RDONLY | os.O_DIRECTORY) as here:
            fcntl.flock(here, fcntl.LOCK_EX)
            yield

    def _persist(self, file: Path) -> int:
        """Forces the object and its name to the disk (also when an earlier, killed call made it)."""
        with _opened(file, os.O_RDONLY) as handle:
            os.fsync(handle)
            size_bytes = os.fstat(handle).st_size
        loopfile.sync_directory(self._store)
        return size_bytes

    @contextmanager
    def _reported(self, action: str) -> Iterator[None]:
        """Turns what the kernel refuses into an error of ours."""
        try:
            yield
        except FileNotFoundError as error:
            raise DriverError(
                f"{action} failed: {error.filename} does not exist.",
                retryable=False,
                remedy="The store and the database disagree; `bmi storage check` shows where.",
            ) from error
        except OSError as error:
            if error.errno in _FULL:
                raise InsufficientSpaceError(
                    f"{action} failed: the store at {self._path} is full.",
                    remedy="Delete volumes, snapshots or images that nobody needs, or enlarge the disk.",
                ) from error
            raise DriverError(
                f"{action} failed: {error.strerror or error}.",
                retryable=error.errno in _PASSING,
                remedy="The kernel log (dmesg) may say more.",
            ) from error


def _seal(staged: Path) -> None:
    """Makes the staged disk read-only, its bytes durable; refuses what cannot be a disk."""
    with _opened(staged, os.O_RDONLY) as handle:
        size_bytes = os.fstat(handle).st_size
        if size_bytes == 0 or size_bytes % _SECTOR_BYTES:
            raise DriverError(
                f"The staged disk {staged.name} has {size_bytes} bytes, which is no whole number of sectors.",
                retryable=False,
            )
        os.fchmod(handle, _FROZEN)
        os.fsync(handle)


def _grow(file: int, size_bytes: int) -> None:
    if os.fstat(file).st_size < size_bytes:
        os.ftruncate(file, size_bytes)


def _fresh(file: Path) -> Path:
    """Where the next content of an object waits for a moment; no object by its name."""
    return file.with_suffix(".new")


def _refuse(action: str, location: str, remedy: str) -> NoReturn:
    raise DriverError(
        f"{action} {location!r}: the local store holds no images but BMI's own.",
        retryable=False,
        remedy=f"{remedy} Images of a Ceph pool need the storage driver `ceph`.",
    )


def _parse(name: str) -> Ref | None:
    prefix, _, rest = name.removesuffix(_SUFFIX).partition("-")
    kind, _, object_id = rest.partition("-")
    if prefix != "bmi" or kind not in get_args(ObjectKind) or not object_id or not name.endswith(_SUFFIX):
        return None
    return Ref(cast("ObjectKind", kind), object_id)


def _file_system(path: Path) -> str:
    names = {"xfs": "XFS"}
    name = run(["findmnt", "--noheadings", "--first-only", "-o", "FSTYPE", "--target", path]).stdout.strip()
    return names.get(name, name)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    handle = os.open(path, flags | os.O_CLOEXEC, _WRITABLE)
    try:
        yield handle
    finally:
        os.close(handle)
