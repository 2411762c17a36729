"""NVIDIA Cumulus Linux 5 with NVUE: one VLAN-aware bridge, one `nv config apply` for all changes at once.

A port that is in no bridge reaches nothing; one in the bridge is on VLAN 1 untagged unless it is told otherwise.
"""

import json
import re
from collections import defaultdict
from collections.abc import Sequence

from bmi.drivers.switch import CLOSED
from bmi.drivers.switch.family import Change, Family, Script, Seen, in_shell, vlans_of
from bmi.drivers.switch.running_config import joined, names, numbers
from bmi.drivers.switch.ssh import creates

_BRIDGE = "bridge domain br_default"
_NODE_SIDE = {"swp", "bond"}
_IN_A_BRIDGE = re.compile("bridge domain ")
_KNOWN = re.compile(rf"{_BRIDGE}( access| untagged| vlan| stp| learning|$)")
# A line of a port that is routed, or does more with its frames than the bridge says.
_ELSEWHERE = ("ip", "vlan", "base-interface", "tunnel", "evpn", "router")


def ports(printed: Sequence[str]) -> dict[str, Seen]:
    """From the interfaces that there are, and the applied configuration as commands."""
    interfaces, applied = printed
    said: dict[str, list[str]] = defaultdict(list)
    for ports_named, words in re.findall(r"^nv set interface (\S+) (.+?)\s*$", applied, re.MULTILINE):
        for port in names(ports_named):
            said[port].append(words)
    return {
        port: _seen(said[port])
        for port, facts in json.loads(interfaces).items()
        if (facts.get("type") or facts.get("link", {}).get("type")) in _NODE_SIDE
    }


def _seen(lines: list[str]) -> Seen:
    up = "link state down" not in lines
    if any(
        line.startswith(_ELSEWHERE) or (_IN_A_BRIDGE.match(line) and not _KNOWN.match(line)) for line in lines
    ):
        return Seen(up=up, plain=False)
    if not any(line.startswith(_BRIDGE) for line in lines):
        return Seen(up=up)
    access, untagged, tagged = None, "1", frozenset[int]()
    for line in lines:
        words = line.removeprefix(_BRIDGE).split()
        match words:
            case ["access", vlan]:
                access = int(vlan)
            case ["untagged", vlan]:
                untagged = vlan
            case ["vlan", listed] if listed != "all":
                tagged |= numbers(listed)
    if access is not None:
        return Seen(access, up=up, plain=not tagged)
    native = None if untagged == "none" else int(untagged)
    return Seen(native, tagged - {native}, up=up, plain=bool(tagged))


def commands(changes: Sequence[Change], _unused_vlan: int) -> list[Script]:
    vlans = vlans_of(changes)
    said = ["nv config detach", *([f"nv set {_BRIDGE} vlan {joined(vlans)}"] if vlans else [])]
    for change in changes:
        config, port = change.config, f"interface {change.port}"
        said += [f"nv unset {port} bridge domain", *([] if change.was.plain else [f"nv unset {port} ip"])]
        if config == CLOSED:
            said += [f"nv set {port} link state down"]
            continue
        said += [f"nv set {port} link state up"]
        if not config.tagged:
            said += [f"nv set {port} {_BRIDGE} access {config.native}"]
            continue
        said += [
            f"nv set {port} {_BRIDGE} untagged {config.native or 'none'}",
            f"nv set {port} {_BRIDGE} vlan {joined(config.vlans)}",
        ]
    return [[*said, "nv config apply -y"]]


FAMILY = Family(
    device_type="linux",
    show=("nv show interface -o json", "nv config show -o commands"),
    parse=ports,
    commands=commands,
    run=in_shell,
    all_or_nothing=True,
    save="nv config save",
)

create = creates(FAMILY)
