"""Storage on this machine's own disk: every object is a raw file, every clone and snapshot shares its blocks.

    <path>/store/bmi-image-<id>.raw, bmi-volume-<id>.raw, bmi-snapshot-<id>.raw
    <path>/store/staging/           imports that are not committed yet
    <path>/store.img                holds `store` where <path> itself cannot share blocks (see loopfile)

A new object is made without a name (O_TMPFILE) and linked in when it is complete, so a crash leaves
nothing to clean up and a half-made object cannot be seen. When a call returns, its effect is on the disk.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast, get_args

from bmi.drivers.storage import Backing, ObjectKind, Ref, Space, StoredObject, loopfile, reflink
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
                _seal(staged)
                # Another call may have renamed it just now; then the image exists.
                with suppress(FileNotFoundError):
                    staged.rename(image)
            self.discard_staging(image_id)
            return self._persist(image)

    def discard_staging(self, image_id: str) -> None:
        staged = self.staging_path(image_id)
        with self._reported(f"Removing the staging file of image {image_id}"):
            staged.unlink(missing_ok=True)

    def clone(self, source: Ref, volume_id: str) -> int:
        return self._share(source, Ref("volume", volume_id), _WRITABLE)

    def snapshot(self, volume_id: str, snapshot_id: str) -> int:
        return self._share(Ref("volume", volume_id), Ref("snapshot", snapshot_id), _FROZEN)

    def delete(self, ref: Ref) -> None:
        self._ensure_ready()
        with self._reported(f"Deleting {ref.kind} {ref.id}"):
            self._file(ref).unlink(missing_ok=True)
            loopfile.sync_directory(self._store)

    def local_path(self, ref: Ref) -> Path:
        self._ensure_ready()
        return self._file(ref)

    def backing(self, volume_id: str) -> Backing:
        return Backing("file", str(self._file(Ref("volume", volume_id))))

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

    def _share(self, source: Ref, target: Ref, mode: int) -> int:
        self._ensure_ready()
        with self._reported(f"Making {target.kind} {target.id} from {source.kind} {source.id}"):
            if not self._file(target).exists():
                self._link_shared_copy(self._file(source), self._file(target), mode)
            return self._persist(self._file(target))

    def _link_shared_copy(self, source: Path, target: Path, mode: int) -> None:
        with _opened(source, os.O_RDONLY) as original, _opened(self._store, os.O_TMPFILE | os.O_RDWR) as copy:
            reflink.set_cow_extent_size(copy, _COW_EXTENT_BYTES)
            reflink.share_all(original, copy)
            os.fchmod(copy, mode)
            with suppress(FileExistsError), _opened(self._store, os.O_RDONLY | os.O_DIRECTORY) as here:
                # Naming a directory is what makes Python call linkat(2), which alone can follow the link.
                os.link(f"/proc/self/fd/{copy}", target.name, src_dir_fd=here, dst_dir_fd=here)

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
                remedy="The store and the database disagree; `bmi server check` shows where.",
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
