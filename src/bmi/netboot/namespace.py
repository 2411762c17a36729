"""Sockets that live in a network namespace although the process does not."""

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_NAMES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_LIBC = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


def inside(netns: str, make: Callable[[], T]) -> T:
    """Runs `make` inside the named namespace (empty: the process's own) and returns what it returned.

    A socket belongs for ever to the namespace in which it was made. The namespace of a thread is its
    own, so a thread that ends afterwards does the visit and no other notices. Raises OSError.
    """
    if not netns:
        return make()
    outcome: list[T] = []
    trouble: list[BaseException] = []

    def visit() -> None:
        try:
            handle = os.open(_NAMES / netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _LIBC.setns(handle, _CLONE_NEWNET) != 0:
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code), netns)
            finally:
                os.close(handle)
            outcome.append(make())
        except BaseException as error:  # noqa: BLE001  # raised again in the caller's thread
            trouble.append(error)

    thread = threading.Thread(target=visit, name=f"visit-{netns}")
    thread.start()
    thread.join()
    if trouble:
        raise trouble[0]
    return outcome[0]


def identity(netns: str) -> tuple[int, int]:
    """What tells a namespace from a later one of the same name; raises OSError where there is none."""
    known = (_NAMES / netns if netns else Path("/proc/self/ns/net")).stat()
    return known.st_dev, known.st_ino
