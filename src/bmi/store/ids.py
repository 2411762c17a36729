"""Ids: unique, opaque, and in the order they were made."""

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LENGTH = 26


def new_id() -> str:
    """26 characters: 48 bits of milliseconds and 80 random bits in Crockford's base 32, lower case.

    Time comes first so that indexes stay compact and `ORDER BY id` is the order of creation.
    """
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def made_at(text: str) -> float | None:
    """When an id was made, in seconds since the epoch; None for what is no id."""
    if len(text) != _LENGTH or not set(text) <= set(_ALPHABET):
        return None
    number = 0
    for digit in text:
        number = number << 5 | _ALPHABET.index(digit)
    return (number >> 80) / 1000
