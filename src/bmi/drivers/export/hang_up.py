"""Closes connections of another process from outside, when it waits for a peer that says nothing any more."""

import ctypes
import errno
import os
import socket
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_PIDFD_GETFD = 438  # pidfd_getfd(2), the same number on every architecture


def hang_up(process: int, peers: Collection[str]) -> None:
    """Shuts down every TCP connection that `process` (a pidfd) has with one of these addresses: it is told so by its
    kernel, whatever the peer does. Needs the right to trace the process. Raises OSError.
    """
    pid = _pid_of(process)
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it closed one meanwhile
            if entry.readlink().name.startswith("socket:"):
                _hang_up(process, int(entry.name), peers)


def _pid_of(process: int) -> int:
    fields = Path(f"/proc/self/fdinfo/{process}").read_text(encoding="ascii").split()
    pid = int(fields[fields.index("Pid:") + 1])
    if pid < 0:
        raise ProcessLookupError
    return pid


def _hang_up(process: int, number: int, peers: Collection[str]) -> None:
    copy = _LIBC.syscall(_PIDFD_GETFD, process, number, 0)
    if copy < 0 and ctypes.get_errno() == errno.EBADF:
        return  # closed meanwhile
    if copy < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    with socket.socket(fileno=copy) as connection:
        if connection.family in {socket.AF_INET, socket.AF_INET6}:
            # Listening, or closed by the peer already: it has none.
            with suppress(OSError):
                if connection.getpeername()[0] in peers:
                    connection.shutdown(socket.SHUT_RDWR)
