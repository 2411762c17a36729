"""Named network namespaces of this machine: made, looked into and removed, each idempotent."""

import json
from pathlib import Path
from typing import Any

from bmi import process

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
    process.run(["sysctl", "-eqw", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0"], netns=name)


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


def ip(netns: str | None, *arguments: str) -> str:
    """Runs `ip` with `arguments` inside `netns` (None: the machine's own) and returns what it printed."""
    return process.run(["ip", *(["-n", netns] if netns else []), *arguments]).stdout


def links(netns: str | None) -> dict[str, dict[str, Any]]:
    """What `ip` knows of each interface, by name; empty where there is no such namespace."""
    if netns is not None and not exists(netns):
        return {}
    return {link["ifname"]: link for link in json.loads(ip(netns, "-json", "link", "show"))}


def set_address(netns: str, interface: str, address: str) -> None:
    """Gives the interface this IPv4 address (CIDR notation) and no other, and brings it up."""
    shown = json.loads(ip(netns, "-json", "-4", "address", "show", "dev", interface))
    present = {f"{a['local']}/{a['prefixlen']}" for link in shown for a in link.get("addr_info", [])}
    for stale in present - {address}:
        ip(netns, "address", "delete", stale, "dev", interface)
    ip(netns, "address", "replace", address, "dev", interface)
    ip(netns, "link", "set", "dev", interface, "up")
