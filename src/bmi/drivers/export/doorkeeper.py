"""Lets a program listen in a network namespace in which it does not live.

A tgtd that serves RBD volumes needs both sides: its clients are on a project's network, the Ceph cluster is on
this machine's own, and no path may lead from one to the other. A socket belongs to the namespace it was made
in, whoever holds it; so tgtd lives in the machine's namespace, and when it wants to bind a socket, the kernel
asks us (seccomp_unotify(2)) and we put one of the project's namespace, bound, in its place. Once it listens we
are not needed any more, and its data passes nobody's hands but the kernel's.
"""

import ctypes
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bmi.drivers.export import bind_trap
from bmi.errors import DriverError

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_LIBC = ctypes.CDLL(None, use_errno=True)

# struct seccomp_notif: id, pid, flags, then struct seccomp_data: number, architecture, instruction, 6 arguments.
_REQUEST = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")  # struct seccomp_notif_resp: id, value, error, flags
_PUT = struct.Struct("=QIIII")  # struct seccomp_notif_addfd: id, flags, our descriptor, theirs, its flags
_RECEIVE, _SEND, _ADD = 0xC0502100, 0xC0182101, 0x40182103  # SECCOMP_IOCTL_NOTIF_*
_CONTINUE, _REPLACE = 1, 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE, SECCOMP_ADDFD_FLAG_SETFD
_START_S = 10


class Doorkeeper:
    """Answers the binds of one program, from its start until `close`. After that it can bind nothing more."""

    def __init__(self, netns: Path) -> None:
        """`netns` is the file of the namespace. Raises OSError when it cannot be entered."""
        self._home = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        self._handle = -1
        self._stop, self._stopped = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, name="doorkeeper", daemon=True)

    def spawn(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: int) -> None:
        """Starts the program in a session of its own, output to `log`; raises DriverError."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            trap = [sys.executable, "-I", "-S", bind_trap.__file__, str(theirs.fileno())]
            subprocess.run(
                [*trap, *command],
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                check=True,
                timeout=_START_S,
            )
            theirs.close()
            ours.settimeout(_START_S)
            handles = socket.recv_fds(ours, 1, 1)[1]
        if not handles:
            raise DriverError(
                "The kernel does not let us answer for a program's sockets (seccomp user notification).",
                retryable=False,
                remedy="BMI needs Linux 5.9 or later, and a container that does not forbid seccomp(2).",
            )
        self._handle = handles[0]
        self._thread.start()

    def close(self) -> None:
        """Lets go of the program; it goes on. May be called again."""
        if self._home < 0:
            return
        os.close(self._stopped)
        if self._thread.ident is not None:
            self._thread.join()
        for handle in (self._handle, self._home, self._stop):
            if handle >= 0:
                os.close(handle)
        self._home = -1

    def _serve(self) -> None:
        """A thread's namespace is its own: this one's is the program's place to listen."""
        lost = 0 if _LIBC.setns(self._home, _CLONE_NEWNET) == 0 else ctypes.get_errno()
        poller = select.poll()
        poller.register(self._handle, select.POLLIN)
        poller.register(self._stop)
        while True:
            ready = dict(poller.poll())
            if self._stop in ready or not ready.get(self._handle, 0) & select.POLLIN:
                return
            with suppress(OSError):  # it died while it waited for us
                self._answer(lost)

    def _answer(self, lost: int) -> None:
        request = bytearray(_REQUEST.size)
        fcntl.ioctl(self._handle, _RECEIVE, request)
        call, pid, _, _, _, _, descriptor, address, length, *_ = _REQUEST.unpack(request)
        wanted = _memory(pid, address, min(length, 128))
        family = int.from_bytes(wanted[:2], sys.byteorder)
        if family not in {socket.AF_INET, socket.AF_INET6}:
            fcntl.ioctl(self._handle, _SEND, _ANSWER.pack(call, 0, 0, _CONTINUE))
            return
        error = lost or self._put_bound(call, family, wanted, descriptor)
        fcntl.ioctl(self._handle, _SEND, _ANSWER.pack(call, 0, -error, 0))

    def _put_bound(self, call: int, family: int, wanted: bytes, descriptor: int) -> int:
        """Replaces the program's socket by one of our namespace that is bound; returns an errno, or 0."""
        with socket.socket(family, socket.SOCK_STREAM) as door:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                door.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if _LIBC.bind(door.fileno(), wanted, len(wanted)) != 0:
                return ctypes.get_errno()
            fcntl.ioctl(self._handle, _ADD, _PUT.pack(call, _REPLACE, door.fileno(), descriptor, 0))
        return 0


def _memory(pid: int, address: int, length: int) -> bytes:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(length)
