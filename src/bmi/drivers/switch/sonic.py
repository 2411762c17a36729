"""SONiC, by its own commands; the user needs `sudo` without a password."""

import re
from collections import defaultdict
from collections.abc import Sequence

from bmi.drivers.switch import CLOSED
from bmi.drivers.switch.family import Change, Family, Script, Seen, in_shell
from bmi.drivers.switch.ssh import creates

# Interface, lanes, speed …, operational and administrative state.
_STATUS = re.compile(r"^\s*((?:Ethernet|PortChannel)\S+)\s.*?\s(?:up|down)\s+(up|down)\b", re.MULTILINE)
_MEMBER = re.compile(r"^\s*Vlan\d+\s+(\d+)\s+(\S+)\s+(tagged|untagged)\s*$", re.MULTILINE)


def ports(printed: Sequence[str]) -> dict[str, Seen]:
    status, vlans = printed
    tagged: dict[str, set[int]] = defaultdict(set)
    native: dict[str, int] = {}
    for vlan, port, how in _MEMBER.findall(vlans):
        if how == "tagged":
            tagged[port].add(int(vlan))
        else:
            native[port] = int(vlan)
    return {
        port: Seen(native.get(port), frozenset(tagged[port]), up=admin == "up")
        for port, admin in _STATUS.findall(status)
    }


def vlan(number: int) -> Script:
    return (f"sudo config vlan add {number}",)


def commands(changes: Sequence[Change], _unused_vlan: int) -> list[Script]:
    scripts: list[Script] = []
    for change in changes:
        port, was, config = change.port, change.was, change.config
        if config == CLOSED:
            said = [f"sudo config interface shutdown {port}"]
        else:
            said = [f"sudo config switchport mode trunk {port}"]
        going = was.tagged - config.tagged
        if was.native is not None and was.native != config.native:
            going |= {was.native}
        said += [f"sudo config vlan member del {gone} {port}" for gone in sorted(going)]
        if config.native is not None and config.native != was.native:
            said += [f"sudo config vlan member add -u {config.native} {port}"]
        said += [f"sudo config vlan member add {new} {port}" for new in sorted(config.tagged - was.tagged)]
        if config != CLOSED:
            said += [f"sudo config interface startup {port}"]
        scripts.append(said)
    return scripts


FAMILY = Family(
    device_type="linux",
    show=("show interfaces status", "show vlan config"),
    parse=ports,
    commands=commands,
    run=in_shell,
    vlan=vlan,
    save="sudo config save -y",
    # A VLAN that is there already; and the mode, which releases before 202405 do not know, and later ones insist on.
    may_fail=r"sudo config (vlan add \d+|switchport mode trunk \S+)",
)

create = creates(FAMILY)
