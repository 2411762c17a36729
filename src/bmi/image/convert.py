"""Taking in a disk image: what it is, whether it may be trusted, and its bytes as a sparse raw disk."""

import errno
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from bmi.errors import DriverError, InsufficientSpaceError, InvalidImageError
from bmi.image import formats, qcow2
from bmi.process import Result, run

DEFAULT_MAX_SIZE_BYTES = 16 << 40

_SECTOR_BYTES = 512
_MEMORY_LIMIT_BYTES = 2 << 30
# Zeros shorter than this are written out: a clone costs time by the extent, and a file system full of
# small files would otherwise become five times as many (403 against 72 for a Debian tree of 1.5 GiB).
_MIN_HOLE = "64k"
_CHECK_CLEAN, _CHECK_CORRUPT, _CHECK_LEAKS = 0, 2, 3


@dataclass(frozen=True)
class Probe:
    """What an image file says it is; the size is the disk's, as the node will see it."""

    format: formats.Format
    virtual_size_bytes: int


@dataclass(frozen=True)
class Converted:
    """A raw disk that was written."""

    size_bytes: int


def probe(path: Path, *, max_size_bytes: int = DEFAULT_MAX_SIZE_BYTES) -> Probe:
    """Reads what `path` is without running anything; cheap.

    Raises InvalidImageError for a file that is no raw or qcow2 disk, that needs another file (a backing
    or data file) or a key, that is truncated, or that declares more than `max_size_bytes`. A raw disk
    that ends within a sector counts as padded with zeros to a whole one.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InvalidImageError(f"{path} is not a regular file.")
        image_format = formats.detect(path)
        size_bytes = _declared_size_bytes(path, image_format, max_size_bytes)
    except OSError as error:
        raise InvalidImageError(
            f"{path} cannot be read: {error.strerror}.", remedy="Check the path and its permissions."
        ) from error
    _require_plausible(path, size_bytes, max_size_bytes)
    return Probe(image_format, -(-size_bytes // _SECTOR_BYTES) * _SECTOR_BYTES)


def convert(
    source: Path, target: Path, *, timeout_s: float, max_size_bytes: int = DEFAULT_MAX_SIZE_BYTES
) -> Converted:
    """Writes the disk in `source` to `target` as a sparse raw file; `target` is replaced.

    The caller has made sure that there is room and makes `target` durable. Raises InvalidImageError as
    `probe` does and for a damaged image, InsufficientSpaceError when the disk fills up, DriverError and
    TimedOutError when qemu-img fails; then `target` does not exist.
    """
    found = probe(source, max_size_bytes=max_size_bytes)
    if found.format == "qcow2":
        _check_qcow2(source, timeout_s)
    _create_anew(target)
    try:
        command = ["convert", "-S", _MIN_HOLE, "-O", "raw", _description(source, found.format), str(target)]
        _require_converted(source, target, _qemu_img(command, timeout_s, ok_codes=(0, 1)))
        # Up to a whole sector; anything but that would be qemu-img's mistake.
        os.truncate(target, _expected_size(target, found))
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return Converted(found.virtual_size_bytes)


def _create_anew(target: Path) -> None:
    """Makes `target` an empty file of its own, readable by us alone. Never the old one: a qemu-img that
    outlived a killed worker may still be writing to that.
    """
    try:
        target.unlink(missing_ok=True)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _full(target) from error
        raise DriverError(f"{target} cannot be written: {error.strerror}.", retryable=False) from error


def _full(target: Path) -> InsufficientSpaceError:
    return InsufficientSpaceError(
        f"The disk filled up while {target} was written.",
        remedy="Delete volumes, snapshots or images that nobody needs, or enlarge the disk.",
    )


def _declared_size_bytes(path: Path, image_format: formats.Format, max_size_bytes: int) -> int:
    if image_format == "raw":
        return path.stat().st_size
    header = qcow2.read_header(path)
    qcow2.require_self_contained(path, header)
    _require_plausible(path, header.size_bytes, max_size_bytes)  # before its tables are read
    qcow2.require_complete(path, header)
    return header.size_bytes


def _require_plausible(path: Path, size_bytes: int, max_size_bytes: int) -> None:
    if not 0 < size_bytes <= max_size_bytes:
        raise InvalidImageError(
            f"{path.name} declares a disk of {size_bytes} bytes; between 1 and {max_size_bytes} are accepted.",
        )


def _check_qcow2(source: Path, timeout_s: float) -> None:
    command = ["check", "--output=json", _description(source, "qcow2")]
    checked = _qemu_img(command, timeout_s, ok_codes=(_CHECK_CLEAN, 1, _CHECK_CORRUPT, _CHECK_LEAKS))
    if checked.returncode not in {_CHECK_CLEAN, _CHECK_LEAKS}:  # leaked clusters lose room, not data
        raise InvalidImageError(
            f"{source.name} is damaged: {_last_line(checked)}.",
            remedy="Download or copy it again, or repair it: qemu-img check -r all FILE",
        )


def _require_converted(source: Path, target: Path, done: Result) -> None:
    if done.returncode == 0:
        return
    if "No space left on device" in done.stderr:
        raise _full(target)
    if "writing" in done.stderr:
        raise DriverError(f"qemu-img could not write the disk: {_last_line(done)}.", retryable=False)
    raise InvalidImageError(
        f"{source.name} cannot be read: {_last_line(done)}.", remedy="Download or copy it again."
    )


def _expected_size(target: Path, found: Probe) -> int:
    missing = found.virtual_size_bytes - target.stat().st_size
    if not 0 <= missing < _SECTOR_BYTES:
        raise DriverError(f"qemu-img wrote a disk that is {missing} bytes too short.", retryable=False)
    return found.virtual_size_bytes


def _qemu_img(arguments: list[str], timeout_s: float, *, ok_codes: tuple[int, ...]) -> Result:
    """Runs qemu-img with bounded memory: it parses what strangers made."""
    limits = ["prlimit", f"--as={_MEMORY_LIMIT_BYTES}", "--core=0", "--"]
    return run([*limits, "qemu-img", *arguments], timeout_s=timeout_s, ok_codes=ok_codes)


def _description(path: Path, image_format: formats.Format) -> str:
    """The image as QEMU's own notation for one file of this very format: nothing is guessed, no
    `protocol:` in a name is followed, and no backing file is ever opened.
    """
    node: dict[str, object] = {
        "driver": image_format,
        "file": {"driver": "file", "filename": str(path.absolute())},
    }
    if image_format == "qcow2":
        node["backing"] = None
    return "json:" + json.dumps(node)


def _last_line(result: Result) -> str:
    lines = result.stderr.strip().splitlines() or ["no reason given"]
    return lines[-1].removeprefix("qemu-img: ").rstrip(".")
