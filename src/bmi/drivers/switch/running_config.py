"""Reading the configurations of switches: their stanzas, and their ways to write many numbers in one word."""

import re
from collections.abc import Collection


def stanzas(config: str, kind: str = "interface") -> dict[str, list[str]]:
    """The indented lines under each `interface NAME`, without indentation."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in config.splitlines():
        if line.startswith(f"{kind} "):
            lines = found.setdefault(line.removeprefix(f"{kind} ").strip(), [])
        elif line[:1].isspace():
            lines.append(line.strip())
        else:
            lines = []
    return found


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
    """`2,5,6`; every switch takes that."""
    return ",".join(map(str, sorted(vlans)))
