"""Killing a process in the middle of a call, at each of its effects in turn."""

import os
import signal
import sys
from collections.abc import Callable, Iterator

EFFECTS = frozenset(
    [
        "open",
        "os.link",
        "os.rename",
        "os.remove",
        "os.truncate",
        "os.chmod",
        "os.mkdir",
        "fcntl.ioctl",
        "fcntl.flock",
        "subprocess.Popen",
    ]
)
# What the Ceph driver tells of what it makes librbd do.
CEPH_EFFECTS = frozenset(["os.remove", "os.rename", "bmi.ceph"])
_MOST_EFFECTS = 1000


def at_each_effect(action: Callable[[], object], *, effects: frozenset[str] = EFFECTS) -> Iterator[int]:
    """Runs `action` in a child process that is killed (SIGKILL) just before its n-th effect on the world;
    yields n after each death, until a child gets through. `effects` are the audit events that count.
    """
    for effect in range(1, _MOST_EFFECTS):
        if not is_killed(action, effect, effects=effects):
            return
        yield effect
    raise AssertionError(f"no end after {_MOST_EFFECTS} effects")


def is_killed(action: Callable[[], object], effect: int, *, effects: frozenset[str] = EFFECTS) -> bool:
    """Runs `action` in a child process that is killed just before its effect of that number, counted from 1;
    False when it has got through before.
    """
    child = os.fork()
    if child == 0:
        _run_killed(action, effect, effects)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "the child failed by itself"
        return False
    assert os.WTERMSIG(status) == signal.SIGKILL
    return True


def _run_killed(action: Callable[[], object], effect: int, effects: frozenset[str]) -> None:
    left = effect

    def count(event: str, _arguments: object) -> None:
        nonlocal left
        if event in effects:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(count)
        action()
    except BaseException as error:  # noqa: BLE001  # must never return into the test runner's copy
        os.write(2, repr(error).encode())
        os._exit(1)
    os._exit(0)
