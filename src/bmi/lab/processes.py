"""Processes found again by a file with their id, and ended without ever hitting a stranger."""

import os
import select
import signal
from contextlib import suppress
from pathlib import Path

from bmi.errors import TimedOutError

_END_TIMEOUT_S = 10


def running(pid_file: Path, marker: str) -> int | None:
    """The process whose id is in `pid_file`, if it still is the one meant: its command line holds `marker`,
    such as the path of a lab. (A process that has ended, even one not yet waited for, has no command line.)
    """
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None
    return pid if marker in command_line(pid) else None


def command_line(pid: int) -> str:
    """The program and its arguments, separated by blanks; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def end(pid: int, marker: str = "") -> None:
    """Kills the process, if its command line (still) holds `marker`, and waits until it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        # The handle pins the process: its id cannot be given to another one between look and kill.
        if marker not in command_line(pid):
            return
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        if not await_end(handle, _END_TIMEOUT_S):
            raise TimedOutError(f"Process {pid} does not end, even when killed.")
    except ProcessLookupError:
        return
    finally:
        os.close(handle)


def await_end(handle: int, timeout_s: float) -> bool:
    """Whether the process of this pidfd ends in time (pidfd_open(2): it becomes readable)."""
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


def mentioning(path: Path) -> list[int]:
    """The processes with `path` or something below it on their command line, this one and its ancestors
    aside.
    """
    mine = {os.getpid()}
    parent = os.getppid()
    while parent:
        mine.add(parent)
        fields = Path(f"/proc/{parent}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        parent = int(fields[1])
    everybody = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return sorted(pid for pid in everybody if pid not in mine and f"{path}/" in f"{command_line(pid)}/")


def working_in(path: Path) -> list[int]:
    """The processes whose working directory is `path` or something below it, even if it has been removed."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):  # it has ended
            if entry.name.isdecimal() and f"{(entry / 'cwd').readlink()}/".startswith(f"{path}/"):
                found.append(int(entry.name))
    return sorted(found)
