"""Dell OS9 (FTOS): a VLAN lists its ports, and a port without one that it should be in falls to VLAN 1. So a port
is shut down while it changes, and a closed one is no switch port at all.
"""

from collections import defaultdict
from collections.abc import Sequence

from bmi.drivers.switch import CLOSED
from bmi.drivers.switch.family import Change, Family, Script, Seen
from bmi.drivers.switch.running_config import foreign, names, stanzas
from bmi.drivers.switch.ssh import creates

_NOT_NODE_SIDE = ("vlan", "loopback", "management", "null", "group", "tunnel")


def ports(printed: Sequence[str]) -> dict[str, Seen]:
    tagged: dict[str, set[int]] = defaultdict(set)
    native: dict[str, int] = {}
    found = stanzas(printed[0])
    for vlan, lines in found.items():
        number = vlan.removeprefix("Vlan ")
        if not number.isdigit():
            continue
        for line in lines:
            how, _, members = line.partition(" ")
            for port in names(members) if how in {"tagged", "untagged"} else []:
                if how == "tagged":
                    tagged[port].add(int(number))
                else:
                    native[port] = int(number)
    return {
        port: _seen(lines, native.get(port), frozenset(tagged[port]))
        for port, lines in found.items()
        if not port.lower().startswith(_NOT_NODE_SIDE)
    }


def _seen(lines: list[str], native: int | None, tagged: frozenset[int]) -> Seen:
    """Only one that is not hybrid may have tagged VLANs alone: a hybrid one is on VLAN 1 besides."""
    is_hybrid, is_switched = "portmode hybrid" in lines, "switchport" in lines
    if is_switched:
        plain = is_hybrid == (native is not None and bool(tagged)) and (native is not None or bool(tagged))
    else:
        plain = False
    others = foreign(lines, "switchport")
    return Seen(native, tagged, up="no shutdown" in lines, plain=plain, foreign=others)


def commands(changes: Sequence[Change], _unused_vlan: int) -> list[Script]:
    scripts: list[Script] = []
    for change in changes:
        port, was, config = change.port, change.was, change.config
        is_hybrid = config.native is not None and bool(config.tagged)
        said = [f"interface {port}", "shutdown", *(f"no {line}" for line in was.foreign), "exit"]
        said += _members(port, was.native, was.tagged, "no ")
        said += [f"interface {port}", "no switchport"]
        if config != CLOSED:
            said += [f"{'' if is_hybrid else 'no '}portmode hybrid", "switchport", "exit"]
            said += _members(port, config.native, config.tagged, "")
            said += [f"interface {port}", "no shutdown"]
        scripts.append([*said, "exit"])
    return scripts


def _members(port: str, native: int | None, tagged: frozenset[int], negation: str) -> list[str]:
    members = [(native, "untagged")] if native not in {None, 1} else []
    members += [(vlan, "tagged") for vlan in sorted(tagged)]
    return [
        word
        for vlan, how in members
        for word in (f"interface vlan {vlan}", f"{negation}{how} {port}", "exit")
    ]


FAMILY = Family(
    device_type="dell_os9",
    show=("show running-config interface",),
    parse=ports,
    commands=commands,
    # The longer command asks a question (netmiko's pull request 3070).
    save="write memory",
)

create = creates(FAMILY)
