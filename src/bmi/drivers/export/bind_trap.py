"""Starts a program of which each bind(2) is answered by another process: the child side of `doorkeeper`.

    python -I -S bind_trap.py CHANNEL PROGRAM [ARGUMENT…]

The filter's notification descriptor goes through the unix socket CHANNEL. Run as a program of its own, with
the standard library alone, because nothing may run between the fork of a process with threads and its exec.
"""

import ctypes
import os
import platform
import socket
import sys

# From linux/seccomp.h, linux/filter.h and the tables of system calls.
_SECCOMP, BIND = {"x86_64": (317, 49), "aarch64": (277, 200)}.get(platform.machine(), (0, 0))
_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_RET_ALLOW, _RET_USER_NOTIF = 0x7FFF0000, 0x7FC00000
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_OFFSET_OF_NUMBER = 0  # in struct seccomp_data


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def _trap_bind() -> int:
    """Installs the filter, for this process and what it becomes; returns the notification descriptor."""
    code = (_Instruction * 4)(
        _Instruction(_LOAD_WORD, 0, 0, _OFFSET_OF_NUMBER),
        _Instruction(_JUMP_IF_EQUAL, 0, 1, BIND),
        _Instruction(_RETURN, 0, 0, _RET_USER_NOTIF),
        _Instruction(_RETURN, 0, 0, _RET_ALLOW),
    )
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(code), code)
    handle: int = libc.syscall(_SECCOMP, _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program))
    if handle < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"seccomp: {os.strerror(number)}")
    return handle


def main() -> None:
    """Leaves the caller at once: the program is nobody's zombie when it dies."""
    channel, program = int(sys.argv[1]), sys.argv[2:]
    if os.fork():
        os._exit(0)
    os.setsid()
    with socket.socket(fileno=channel) as peer:
        handle = _trap_bind()
        socket.send_fds(peer, [b"."], [handle])
        os.close(handle)
    os.execvp(program[0], program)  # noqa: S606  # there is no shell to be without


if __name__ == "__main__":
    main()
