"""What Cisco's IOS, NX-OS and Arista's EOS say in the same words: `switchport`, and what follows it.

A closed port is shut down, and is a trunk that allows no VLAN: even if somebody turns it on, it reaches nothing.
"""

from collections.abc import Sequence

from bmi.drivers.switch import CLOSED
from bmi.drivers.switch.family import Change, Script, Seen
from bmi.drivers.switch.running_config import foreign, joined, numbers, stanzas

_NOT_NODE_SIDE = ("vlan", "loopback", "mgmt", "management", "tunnel", "nve", "vxlan", "null", "bdi")
_ALL = frozenset(range(1, 4095))
# What is read below, and what takes a frame nowhere else.
_KNOWN = (
    r"switchport( (mode|access vlan|trunk (native|allowed) vlan) .*|( trunk encapsulation dot1q| nonegotiate| protected)?"
    r"|( block| port-security).*)?"
)


def ports(config: str, *, default_mode: str = "access") -> dict[str, Seen]:
    """From the `interface` stanzas of a running configuration, which leaves out what is the default."""
    return {
        name: _seen(lines, default_mode)
        for name, lines in stanzas(config).items()
        if not name.lower().startswith(_NOT_NODE_SIDE)
    }


def _seen(lines: list[str], default_mode: str) -> Seen:
    up, others = "shutdown" not in lines, foreign(lines, _KNOWN)
    said = {"mode": default_mode, "access vlan": "1", "trunk native vlan": "1"}
    allowed = _ALL
    for line in lines:
        words = line.removeprefix("switchport ")
        if words.startswith("trunk allowed vlan add "):
            allowed |= numbers(words.removeprefix("trunk allowed vlan add "))
        elif words.startswith("trunk allowed vlan "):
            listed = words.removeprefix("trunk allowed vlan ")
            allowed = frozenset() if listed == "none" else numbers(listed) if listed[0].isdigit() else _ALL
        for key in said:
            if line.startswith("switchport ") and words.startswith(f"{key} "):
                said[key] = words.removeprefix(f"{key} ")
    if "no switchport" in lines:
        return Seen(up=up, plain=False, foreign=others)
    if said["mode"] == "access" and said["access vlan"].isdigit():
        return Seen(int(said["access vlan"]), up=up, foreign=others)
    if said["mode"] == "trunk" and said["trunk native vlan"].isdigit() and allowed != _ALL:
        native = int(said["trunk native vlan"])
        return Seen(native if native in allowed else None, allowed - {native}, up=up, foreign=others)
    return Seen(up=up, plain=False, foreign=others)


def vlan(number: int) -> Script:
    return (f"vlan {number}", "exit")


def commands(
    changes: Sequence[Change], unused_vlan: int, *, before: tuple[str, ...] = (), after: tuple[str, ...] = ()
) -> list[Script]:
    """Values first, then the mode that makes them count, then `no shutdown`. `before` and `after` the mode comes
    what only some say.
    """
    said: list[Script] = []
    for change in changes:
        config = change.config
        is_access = config.native is not None and not config.tagged
        access = f"switchport access vlan {config.native if is_access else unused_vlan}"
        trunk = (
            f"switchport trunk native vlan {unused_vlan if is_access else config.native or unused_vlan}",
            f"switchport trunk allowed vlan {'none' if is_access else joined(config.vlans) or 'none'}",
        )
        said.append(
            (
                f"interface {change.port}",
                *(["shutdown"] if config == CLOSED or change.was.config is None else []),
                *(f"no {line}" for line in change.was.foreign),
                # Where ports are routed unless they are told otherwise.
                "switchport",
                *before,
                *([access] if is_access else trunk),
                f"switchport mode {'access' if is_access else 'trunk'}",
                *after,
                *(trunk if is_access else [access]),
                *([] if config == CLOSED else ["no shutdown"]),
                "exit",
            )
        )
    return said
