"""Reading the configurations of switches: their stanzas, and their ways to write many numbers in one word."""

import re
from collections.abc import Collection, Sequence

# How lines begin by which a port serves a phone, is one of a bundle, is routed, or gets VLANs from elsewhere.
_ELSEWHERE = (
    *("switchport", "service instance", "source template", "channel-group", "port-channel-protocol"),
    *("vlan", "private-vlan", "xconnect", "encapsulation", "bridge-domain", "l2protocol", "mpls"),
    *("authentication", "access-session", "dot1x", "mab", "inherit", "profile", "macro"),
    *("ip address", "ipv6 address", "ip unnumbered", "vrf"),
)


def stanzas(config: str, kind: str = "interface") -> dict[str, list[str]]:
    """The indented lines under each `interface NAME`, without indentation, and without what is under them in turn."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    level = 0
    for line in config.splitlines():
        indentation = len(line) - len(line.lstrip())
        if line.startswith(f"{kind} "):
            lines = found.setdefault(line.removeprefix(f"{kind} ").strip(), [])
            level = 0
        elif not indentation:
            lines = []
        elif indentation <= (level := level or indentation):
            lines.append(line.strip())
    return found


def foreign(lines: Sequence[str], known: str) -> tuple[str, ...]:
    """Those by which a port's frames may get where its VLANs do not say, and that are not `known` (a pattern)."""
    return tuple(line for line in lines if line.startswith(_ELSEWHERE) and not re.fullmatch(known, line))


def numbers(text: str) -> frozenset[int]:
    """`2,5-7` as numbers."""
    found: set[int] = set()
    for part in filter(None, text.replace(" ", "").split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def names(text: str) -> list[str]:
    """`swp1-3,5` or `TenGigabitEthernet 0/1-3,5` as names."""
    found: list[str] = []
    prefix = ""
    for part in text.split(","):
        if not part.strip().replace("-", "").isdigit():
            match = re.fullmatch(r"(.*?)(\d+(?:-\d+)?)", part.strip())
            if match is None:
                found.append(part.strip())
                continue
            prefix, part = match[1], match[2]  # noqa: PLW2901  # the rest of it is like the others
        found += [f"{prefix}{number}" for number in sorted(numbers(part))]
    return found


def joined(vlans: Collection[int]) -> str:
    """`2,5-7`, as every switch takes it."""
    runs: list[list[int]] = []
    for vlan in sorted(vlans):
        if runs and vlan == runs[-1][-1] + 1:
            runs[-1].append(vlan)
        else:
            runs.append([vlan])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
