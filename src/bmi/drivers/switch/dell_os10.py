"""Dell OS10. A trunk always has an untagged VLAN, `switchport access vlan`; without one it would be VLAN 1."""

from collections.abc import Sequence

from bmi.drivers.switch import CLOSED
from bmi.drivers.switch.family import Change, Family, Script, Seen
from bmi.drivers.switch.running_config import foreign, joined, numbers, stanzas
from bmi.drivers.switch.ssh import creates

_NODE_SIDE = ("ethernet", "port-channel")
_KNOWN = r"switchport (mode|access vlan|trunk allowed vlan) .*"


def ports(printed: Sequence[str]) -> dict[str, Seen]:
    return {
        name: _seen(lines)
        for name, lines in stanzas(printed[0]).items()
        if name.lower().startswith(_NODE_SIDE)
    }


def _seen(lines: list[str]) -> Seen:
    said = {"mode": "access", "access vlan": "1", "trunk allowed vlan": ""}
    for line in lines:
        for key in said:
            if line.startswith(f"switchport {key} "):
                said[key] = line.removeprefix(f"switchport {key} ")
    tagged = numbers(said["trunk allowed vlan"])
    native = int(said["access vlan"])
    plain = "no switchport" not in lines and (said["mode"] == "trunk") == bool(tagged - {native})
    return Seen(
        native, tagged - {native}, up="shutdown" not in lines, plain=plain, foreign=foreign(lines, _KNOWN)
    )


def vlan(number: int) -> Script:
    return (f"interface vlan {number}", "exit")


def commands(changes: Sequence[Change], unused_vlan: int) -> list[Script]:
    """`switchport trunk allowed vlan` adds; what shall go is said one by one, first of all."""
    said: list[Script] = [vlan(unused_vlan)] if any(change.config == CLOSED for change in changes) else []
    for change in changes:
        was, config = change.was, change.config
        is_trunk = bool(config.tagged)
        said.append(
            (
                f"interface {change.port}",
                *(["shutdown"] if config == CLOSED or was.config is None else []),
                *(f"no {line}" for line in was.foreign),
                *([] if was.is_ours else ["switchport mode trunk"]),
                *(f"no switchport trunk allowed vlan {gone}" for gone in sorted(was.tagged - config.tagged)),
                f"switchport access vlan {config.native or unused_vlan}",
                f"switchport mode {'trunk' if is_trunk else 'access'}",
                *([f"switchport trunk allowed vlan {joined(config.tagged)}"] if is_trunk else []),
                *([] if config == CLOSED else ["no shutdown"]),
                "exit",
            )
        )
    return said


FAMILY = Family(
    device_type="dell_os10",
    show=("show running-configuration interface",),
    parse=ports,
    commands=commands,
    vlan=vlan,
    save="copy running-configuration startup-configuration",
    needs_native=True,
    # 4094 is what its switches speak to each other on (VLT).
    unused_vlan=4093,
)

create = creates(FAMILY)
