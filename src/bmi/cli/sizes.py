"""Amounts as people type them: `40GiB`, `1.5T`, plain bytes, and `none` for no limit."""

import re

import click

# Of no use as a limit otherwise.
NO_LIMIT = -1

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]?)(?:ib|b)?", re.IGNORECASE)


def size(text: str) -> int:
    """Bytes; units count in 1024s, with or without `iB`."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise click.BadParameter(f"{text!r} is no size; write something like 40GiB.")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def limit(text: str) -> int:
    """A size, or NO_LIMIT for `none`."""
    return NO_LIMIT if text == "none" else size(text)
