"""Juniper Junos with Enhanced Layer 2 Software (EX2300 and later, QFX): one commit makes all changes at once."""

import re
from collections import defaultdict
from collections.abc import Sequence

from netmiko.base_connection import BaseConnection

from bmi.drivers.switch import CLOSED
from bmi.drivers.switch.family import Change, Family, Patience, Script, Seen, complaints, vlans_of
from bmi.drivers.switch.ssh import creates

_PORT = re.compile(r"((?:ge|xe|et|mge)-\d+/\d+/\d+(?::\d+)?|ae\d+)\s+(?:up|down)\b")
_SWITCHING = "unit 0 family ethernet-switching"
_REMAINS = ("unit", "vlan-tagging", "flexible-vlan-tagging", "encapsulation", "ether-options 802.3ad")
# Further lines of a port by which its frames may get elsewhere.
_ELSEWHERE = re.compile(
    r"(flexible-)?vlan-tagging|encapsulation |(gigether-|ether-)options 802\.3ad|unit (?!0 )|unit 0 (?!description)"
)
# What of its switching takes a frame nowhere else.
_KNOWN = re.compile(r"(|interface-mode (access|trunk)|vlan members \S+|storm-control .*|recovery-timeout .*)")


def ports(printed: Sequence[str]) -> dict[str, Seen]:
    """From the names that there are, and the configuration as commands."""
    terse, interfaces, vlans, options = printed
    voice = "\n".join(line for line in options.splitlines() if " voip " in line)
    elsewhere = f"{vlans}\n{voice}"
    ids = dict(re.findall(r"^set vlans (\S+) vlan-id (\d+)", vlans, re.MULTILINE))
    said: dict[str, list[str]] = defaultdict(list)
    for port, words in re.findall(r"^set interfaces (\S+) (.+?)\s*$", interfaces, re.MULTILINE):
        said[port].append(words)
    return {
        port: _seen(
            said[port], ids, named=bool(re.search(rf"\binterface (all|access-ports|{port})\b", elsewhere))
        )
        for port in _PORT.findall(terse)
    }


def _seen(lines: list[str], ids: dict[str, str], *, named: bool) -> Seen:
    """One that is `named` by a VLAN or for phones is on more than its own lines say."""
    up = "disable" not in lines
    switching = [line.removeprefix(_SWITCHING).strip() for line in lines if line.startswith(_SWITCHING)]
    others = [line for line in lines if _ELSEWHERE.match(line) and not line.startswith(_SWITCHING)]
    if not switching or others or named or not all(map(_KNOWN.fullmatch, switching)):
        return Seen(up=up, plain=False)
    members = [line.removeprefix("vlan members ") for line in switching if line.startswith("vlan members ")]
    vlans = [ids.get(member, member) for member in members]
    if not vlans or not all(vlan.isdigit() for vlan in vlans):  # the VLAN called default, `all`, ranges
        return Seen(up=up, plain=False)
    numbers = frozenset(map(int, vlans))
    if "interface-mode trunk" not in switching:
        return Seen(min(numbers), up=up, plain=len(numbers) == 1)
    native = next((int(line.split()[1]) for line in lines if line.startswith("native-vlan-id ")), None)
    return Seen(native, numbers - {native}, up=up, plain=native is None or native in numbers)


def commands(changes: Sequence[Change], _unused_vlan: int) -> list[Script]:
    said = [f"set vlans bmi-{vlan} vlan-id {vlan}" for vlan in vlans_of(changes)]
    for change in changes:
        config = change.config
        port = f"interfaces {change.port}"
        said += [f"delete {port} {_SWITCHING}", f"delete {port} native-vlan-id"]
        if not change.was.is_ours:
            said += [f"delete {port} {words}" for words in _REMAINS]
        if config == CLOSED:
            said += [f"set {port} disable"]
            continue
        said += [
            f"delete {port} disable",
            f"set {port} {_SWITCHING} interface-mode {'trunk' if config.tagged else 'access'}",
            *(f"set {port} {_SWITCHING} vlan members bmi-{vlan}" for vlan in sorted(config.vlans)),
            *([f"set {port} native-vlan-id {config.native}"] if config.tagged and config.native else []),
        ]
    return [said]


def _commit(
    _family: Family, connection: BaseConnection, scripts: Sequence[Script], patience: Patience
) -> str:
    """In a candidate of our own, which is thrown away when it does not pass."""
    connection.config_mode(config_command="configure private")
    lines = [line for script in scripts for line in script]
    printed = connection.send_config_set(
        lines, exit_config_mode=False, enter_config_mode=False, read_timeout=patience.now_s()
    )
    try:
        if complaints(printed):
            raise ValueError  # as it says itself when it does not commit
        patience.now_s()
        connection.commit()
        printed = ""
    except ValueError as error:
        printed += str(error)
        connection.send_command("rollback 0", expect_string=r"#", read_timeout=patience.answer_s)
    connection.exit_config_mode()
    return printed


FAMILY = Family(
    device_type="juniper_junos",
    show=(
        "show interfaces terse",
        # With what ranges and groups of interfaces say.
        "show configuration interfaces | display inheritance no-comments | display set",
        "show configuration vlans | display inheritance no-comments | display set",
        "show configuration switch-options | display inheritance no-comments | display set",
    ),
    parse=ports,
    commands=commands,
    run=_commit,
    all_or_nothing=True,
    save=None,
)

create = creates(FAMILY)
