"""Writes a directory tree as a cpio archive of the `newc` kind, the form of a Linux initramfs.

The same tree gives the same bytes: names in order, no owners, no times
(Linux: Documentation/driver-api/early-userspace/buffer-format.rst).
"""

import stat
from pathlib import Path
from typing import BinaryIO

_TRAILER = "TRAILER!!!"


def write_cpio(tree: Path, out: BinaryIO) -> None:
    """Archives everything under `tree` (files, directories, symbolic links; modes kept, owner root)."""
    for number, path in enumerate(sorted(tree.rglob("*")), start=1):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            content = str(path.readlink()).encode()
        elif stat.S_ISREG(mode):
            content = path.read_bytes()
        else:
            content = b""
        _write_member(out, path.relative_to(tree).as_posix(), content, number=number, mode=mode)
    _write_member(out, _TRAILER, b"", number=0, mode=0)


def _write_member(out: BinaryIO, name: str, content: bytes, *, number: int, mode: int) -> None:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    out.write(_padded(header + encoded))
    out.write(_padded(content))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
