"""Named network namespaces of this machine: made, looked into and removed, each idempotent."""

from pathlib import Path

from bmi.drivers import process

_NAMES = Path("/run/netns")


def names() -> list[str]:
    """The namespaces that exist, sorted."""
    return sorted(path.name for path in _NAMES.iterdir() if exists(path.name)) if _NAMES.is_dir() else []


def exists(name: str) -> bool:
    """Whether `name` can be entered. The bare file that an interrupted `ip netns add` leaves cannot."""
    try:
        return (_NAMES / name).stat().st_dev != _NAMES.stat().st_dev
    except FileNotFoundError:
        return False


def ensure(name: str) -> None:
    """Makes the namespace with its loopback up. It forwards nothing: what the machine's own setting
    would have passed on to it is undone.
    """
    if not exists(name):
        (_NAMES / name).unlink(missing_ok=True)
        process.run(["ip", "netns", "add", name])
    process.run(["ip", "-n", name, "link", "set", "lo", "up"])
    process.run(["sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0"], netns=name)


def remove(name: str) -> None:
    """Removes the name; the namespace itself, and the virtual interfaces in it, end with the last
    process inside.
    """
    if exists(name):
        process.run(["ip", "netns", "delete", name])
    else:
        (_NAMES / name).unlink(missing_ok=True)


def processes(name: str) -> list[int]:
    """The ids of the processes inside the namespace."""
    if not exists(name):
        return []
    return [int(word) for word in process.run(["ip", "netns", "pids", name]).stdout.split()]


def ip(netns: str | None, *arguments: str, ok_codes: tuple[int, ...] = (0,)) -> str:
    """Runs `ip` with `arguments` inside `netns` (None: the machine's own) and returns what it printed."""
    return process.run(["ip", *(["-n", netns] if netns else []), *arguments], ok_codes=ok_codes).stdout
