"""The router advertisement that says: no router."""

import pytest

from bmi.netboot import ra


def test_the_advertisement_byte_by_byte() -> None:
    # Type 134; hop limit, flags, lifetime and timers zero: "unspecified", and not a default router.
    assert ra.advertisement() == bytes([134]) + bytes(15)


@pytest.mark.parametrize(
    ("data", "is_one"),
    [
        (bytes([133]) + bytes(7), True),
        (bytes([133]) + bytes(15), True),
        (bytes([133]) + bytes(6), False),
        (bytes([133, 1]) + bytes(6), False),
        (bytes([134]) + bytes(7), False),
        (b"", False),
    ],
)
def test_only_a_solicitation_is_one(data: bytes, is_one: bool) -> None:
    assert ra.is_solicitation(data) is is_one
