"""A store directory whose files can share blocks, made inside one large sparse file where the disk under it cannot.

btrfs, not XFS, goes into the file: under a volume with 20,000 random 4 KiB writes it took a snapshot in
0.6 s where XFS took 2.2 s, and a 4 KiB write with fdatasync in 1.3 ms where XFS took 4.4 ms. The loop device
stays buffered (not direct-io): blocks that all clones share are then read from the disk once, not once a clone.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bmi.drivers.storage import reflink
from bmi.errors import DriverError, InsufficientSpaceError
from bmi.process import run

_GIB = 1 << 30
_DEFAULT_SHARE_PERCENT = 80
_MOUNT_OPTIONS = "loop,nodev,nosuid,noexec,noatime,discard=async"
_DETACH_TIMEOUT_S = 10.0


def store_directory(path: Path) -> Path:
    """Where the objects are: under `path`, itself the mount point if there is a loop file."""
    return path / "store"


def loop_file(path: Path) -> Path:
    """The file that holds the store's file system; it exists only where it is needed."""
    return path / "store.img"


def ensure_store(path: Path, size_gib: int) -> None:
    """Makes the store directory able to share blocks, whatever that takes: nothing, a mount, or a new
    loop file of `size_gib` (0: 80 % of the free space). Safe when several processes race.
    """
    store = store_directory(path)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    store.mkdir(mode=0o700, exist_ok=True)
    with _locked(path):
        image = loop_file(path)
        if not image.exists() and not reflink.can_share(store):
            _make(image, size_gib)
        if image.exists() and not store.is_mount():
            _mount(image, store)
    store.chmod(0o700)


def unmount(path: str | Path) -> None:
    """Ends the mount and the loop device of the store at `path`, and proves it; nothing else is removed.

    Raises DriverError (retryable) while something still uses the store.
    """
    path = Path(path)
    if not loop_file(path).exists():
        return
    with _locked(path):
        if store_directory(path).is_mount():
            run(["umount", store_directory(path)], timeout_s=60)
        # The kernel detaches the device by itself once the last user is gone (autoclear).
        give_up_at = time.monotonic() + _DETACH_TIMEOUT_S
        while devices := run(["losetup", "--noheadings", "-O", "NAME", "-j", loop_file(path)]).stdout.split():
            if time.monotonic() > give_up_at:
                raise DriverError(
                    f"{', '.join(devices)} still holds {loop_file(path)} after it was unmounted.",
                    remedy="Find the process whose mount namespace keeps it (lsns -t mnt) and end it.",
                )
            time.sleep(0.05)


def _make(image: Path, size_gib: int) -> None:
    # A name of its own until it is complete: a crash in here must not leave a file we would mount.
    fresh = image.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    size_bytes = size_gib * _GIB or _default_size_bytes(image.parent)
    handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(handle, size_bytes)
        # The disk below is where redundancy belongs, so metadata is kept once.
        run(["mkfs.btrfs", "-q", "-L", "bmi-store", "-m", "single", fresh], timeout_s=120)
        os.fsync(handle)
    finally:
        os.close(handle)
    fresh.rename(image)
    sync_directory(image.parent)


def _default_size_bytes(directory: Path) -> int:
    room = os.statvfs(directory)
    gib = room.f_bavail * room.f_frsize * _DEFAULT_SHARE_PERCENT // 100 // _GIB
    if gib < 1:
        raise InsufficientSpaceError(
            f"The file system of {directory} has less than 1 GiB to spare for a store.",
            remedy="Free some space, or name a directory on a larger disk as the storage path.",
        )
    return gib * _GIB


def _mount(image: Path, store: Path) -> None:
    if os.geteuid() != 0:
        raise DriverError(
            f"The store {image} has to be mounted, and only root may mount.",
            retryable=False,
            remedy="Run the worker as root, or name a storage path on XFS or btrfs.",
        )
    run(["mount", "-t", "btrfs", "-o", _MOUNT_OPTIONS, image, store], timeout_s=300)


def sync_directory(directory: Path) -> None:
    """Makes the names in `directory` survive a loss of power."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path / "store.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
