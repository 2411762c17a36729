"""Taking in a disk image: what it is, whether it may be trusted, and its bytes as a sparse raw disk."""

import errno
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bmi.errors import DriverError, InsufficientSpaceError, InvalidImageError, TimedOutError
from bmi.image import formats, qcow2, vdi, vhd, vhdx, vmdk
from bmi.image.confined import INPUT, OUTPUT, run_confined
from bmi.image.layout import SECTOR_BYTES, Layout, require_plausible
from bmi.image.unpack import Limits, unpacked, write_sparse
from bmi.process import Result, run

DEFAULT_MAX_SIZE_BYTES = 16 << 40
DEFAULT_KEEP_FREE_BYTES = 1 << 30

# Zeros shorter than this are written out: a clone costs time by the extent, and a file system full of
# small files would otherwise become five times as many (403 against 72 for a Debian tree of 1.5 GiB).
_MIN_HOLE = "64k"
_CHECK_CLEAN, _CHECK_CORRUPT, _CHECK_LEAKS = 0, 2, 3
_TOO_LARGE_FILE = 128 + 25  # killed by SIGXFSZ
_HEAD_BYTES = 64 << 10

_INSPECT: dict[formats.Format, Callable[[Path, int], Layout]] = {
    "qcow2": qcow2.inspect,
    "vmdk": vmdk.inspect,
    "vdi": vdi.inspect,
    "vhd": vhd.inspect,
    "vhdx": vhdx.inspect,
}
# What QEMU must be told so that it guesses nothing and opens no second file.
_DRIVERS: dict[formats.Format, dict[str, object]] = {
    "raw": {"driver": "raw"},
    "qcow2": {"driver": "qcow2", "backing": None},
    "vmdk": {"driver": "vmdk", "backing": None},
    "vdi": {"driver": "vdi"},
    "vhd": {"driver": "vpc", "force_size_calc": "current_size"},
    "vhdx": {"driver": "vhdx"},
}


@dataclass(frozen=True)
class Probe:
    """What an image file says it is; the size is the disk's, as the node will see it, and `allocated_bytes`
    the most that its data will take in the store.
    """

    format: formats.Format
    virtual_size_bytes: int
    allocated_bytes: int


@dataclass(frozen=True)
class Converted:
    """A raw disk that was written, and what it came as."""

    size_bytes: int
    format: formats.Format
    compression: formats.Compression | None = None


def probe(path: Path, *, max_size_bytes: int = DEFAULT_MAX_SIZE_BYTES) -> Probe:
    """Reads what `path` is without running anything; cheap.

    Raises InvalidImageError for a file that is no disk in one of the formats BMI takes (a compressed one
    is not either), that needs another file (a backing file, a parent, extents) or a key, that is truncated,
    or that declares more than `max_size_bytes`. A raw disk that ends within a sector counts as padded with
    zeros to a whole one.
    """
    with _readable(path):
        image_format = formats.detect(path)
        if image_format == "raw":
            held = path.stat()
            layout = Layout(held.st_size, min(held.st_size, held.st_blocks * SECTOR_BYTES))
            require_plausible(path, layout.size_bytes, max_size_bytes)
        else:
            layout = _INSPECT[image_format](path, max_size_bytes)
    size_bytes = -(-layout.size_bytes // SECTOR_BYTES) * SECTOR_BYTES
    return Probe(image_format, size_bytes, min(size_bytes, layout.allocated_bytes))


def convert(
    source: Path,
    target: Path,
    *,
    timeout_s: float,
    max_size_bytes: int = DEFAULT_MAX_SIZE_BYTES,
    work_dir: Path | None = None,
    keep_free_bytes: int = DEFAULT_KEEP_FREE_BYTES,
) -> Converted:
    """Writes the disk in `source`, which may be compressed, to `target` as a sparse raw file; `target` is replaced.

    The caller has made sure that there is room for what `probe` says; how much a compressed file needs shows
    while it is unpacked, and less than `keep_free_bytes` is never left. An image that is not raw is unpacked
    to a directory `unpack-*` in `work_dir` (beside `target` if None) first. The caller makes `target` durable.
    Raises InvalidImageError as `probe` does and for a damaged image or a compression bomb,
    InsufficientSpaceError when the disk fills up, DriverError and TimedOutError when a program fails; then
    `target` does not exist.
    """
    deadline = time.monotonic() + timeout_s
    with _readable(source):
        packing = formats.compression(source)
    _create_anew(target)
    try:
        if packing is None:
            return _convert_plain(source, target, deadline, max_size_bytes)
        limits = Limits(max_size_bytes + max_size_bytes // 64 + (64 << 20), keep_free_bytes)  # with metadata
        # Under the name that errors call the image by.
        with tempfile.TemporaryDirectory(prefix="unpack-", dir=work_dir or target.parent) as work:
            aside = Path(work) / source.name
            if _unpack(source, packing, aside, target, deadline, limits):
                done = _convert_plain(aside, target, deadline, max_size_bytes)
            else:
                done = _finish_raw(source, target, max_size_bytes)
        return replace(done, compression=packing)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def export_disk(
    source: Path, target: Path, *, image_format: Literal["raw", "qcow2"], timeout_s: float
) -> int:
    """Writes the raw disk `source` to `target` (replaced) for others to use; returns the file's size in bytes.

    Raw is sparse; qcow2 is compressed with zlib, which every reader knows, and comes out the same each time.
    Nothing is interpreted: `source` is raw whatever it holds. Raises as `convert` does; then `target` is gone.
    """
    options = ["-S", _MIN_HOLE] if image_format == "raw" else ["-c"]
    described = _DRIVERS["raw"] | {"file": {"driver": "file", "filename": str(source.absolute())}}
    command = ["qemu-img", "convert", *options, "-O", image_format, "json:" + json.dumps(described)]
    _create_anew(target)
    try:
        done = run([*command, str(target.absolute())], timeout_s=timeout_s, ok_codes=(0, 1))
        _require_converted(source, target, done)
        return target.stat().st_size
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _convert_plain(source: Path, target: Path, deadline: float, max_size_bytes: int) -> Converted:
    found = probe(source, max_size_bytes=max_size_bytes)
    if found.format == "qcow2":
        _check_qcow2(source, _left(deadline))
    done = run_confined(
        ["qemu-img", "convert", "-S", _MIN_HOLE, "-O", "raw", _description(found.format), OUTPUT],
        reads=source,
        writes=target,
        written_bytes=found.virtual_size_bytes,
        timeout_s=_left(deadline),
        ok_codes=(0, 1, _TOO_LARGE_FILE),
    )
    _require_converted(source, target, done)
    # Up to a whole sector; anything but that would be qemu-img's mistake.
    os.truncate(target, _expected_size(target, found))
    return Converted(found.virtual_size_bytes, found.format)


def _unpack(
    source: Path,
    packing: formats.Compression,
    aside: Path,
    target: Path,
    deadline: float,
    limits: Limits,
) -> bool:
    """Unpacks to `aside` what must be converted, and straight to `target` what can only be raw; True for the former."""
    with unpacked(source, packing, timeout_s=_left(deadline)) as stream:
        head = stream.read(_HEAD_BYTES)
        is_container = formats.has_container_start(head)
        with _written(target), (aside if is_container else target).open("wb") as file:
            write_sparse(stream, file, source=source, head=head, limits=limits)
    return is_container


def _finish_raw(source: Path, target: Path, max_size_bytes: int) -> Converted:
    try:
        if packing := formats.compression(target):
            raise InvalidImageError(
                f"{source.name} is compressed twice; the inner time with {packing}.", remedy="Unpack it once."
            )
        found = probe(target, max_size_bytes=max_size_bytes)
    except InvalidImageError as error:
        detail = error.detail.replace(target.name, source.name)
        raise InvalidImageError(detail, remedy=error.remedy, **error.facts) from error
    os.truncate(target, found.virtual_size_bytes)  # up to a whole sector; without the footer of a fixed VHD
    return Converted(found.virtual_size_bytes, found.format)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InvalidImageError(f"{path} is not a regular file.")
        yield
    except OSError as error:
        raise InvalidImageError(
            f"{path} cannot be read: {error.strerror}.", remedy="Check the path and its permissions."
        ) from error


@contextmanager
def _written(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _full(target) from error
        raise DriverError(f"{target} cannot be written: {error.strerror}.", retryable=False) from error


def _left(deadline: float) -> float:
    """Seconds until the deadline; a program that is started gets one, so that it can be ended in order."""
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimedOutError("The conversion did not end in time.")
    return max(left_s, 1)


def _create_anew(target: Path) -> None:
    """Makes `target` an empty file of its own, readable by us alone. Never the old one: a qemu-img that
    outlived a killed worker may still be writing to that.
    """
    with _written(target):
        target.unlink(missing_ok=True)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _full(target: Path) -> InsufficientSpaceError:
    return InsufficientSpaceError(
        f"The disk filled up while {target} was written.",
        remedy="Delete volumes, snapshots or images that nobody needs, or enlarge the disk.",
    )


def _check_qcow2(source: Path, timeout_s: float) -> None:
    checked = run_confined(
        ["qemu-img", "check", "--output=json", _description("qcow2")],
        reads=source,
        timeout_s=timeout_s,
        ok_codes=(_CHECK_CLEAN, 1, _CHECK_CORRUPT, _CHECK_LEAKS),
    )
    if checked.returncode not in {_CHECK_CLEAN, _CHECK_LEAKS}:  # leaked clusters lose room, not data
        raise InvalidImageError(
            f"{source.name} is damaged: {_last_line(checked)}.",
            remedy="Download or copy it again, or repair it: qemu-img check -r all FILE",
        )


def _require_converted(source: Path, target: Path, done: Result) -> None:
    if done.returncode == 0:
        return
    if done.returncode == _TOO_LARGE_FILE:
        raise InvalidImageError(f"{source.name} holds more than the disk that it declares.")
    if "No space left on device" in done.stderr:
        raise _full(target)
    if "writing" in done.stderr:
        raise DriverError(f"qemu-img could not write the disk: {_last_line(done)}.", retryable=False)
    raise InvalidImageError(
        f"{source.name} cannot be read: {_last_line(done)}.", remedy="Download or copy it again."
    )


def _expected_size(target: Path, found: Probe) -> int:
    missing = found.virtual_size_bytes - target.stat().st_size
    if not 0 <= missing < SECTOR_BYTES:
        raise DriverError(f"qemu-img wrote a disk that is {missing} bytes too short.", retryable=False)
    return found.virtual_size_bytes


def _description(image_format: formats.Format) -> str:
    """The input as QEMU's own notation for one file of this very format."""
    node = _DRIVERS[image_format] | {"file": {"driver": "file", "filename": INPUT}}
    return "json:" + json.dumps(node)


def _last_line(result: Result) -> str:
    lines = result.stderr.strip().splitlines() or ["no reason given"]
    return lines[-1].removeprefix("qemu-img: ").rstrip(".")
