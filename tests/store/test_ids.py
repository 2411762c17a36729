"""Ids."""

import time

import pytest

from bmi.store.ids import made_at, new_id


def test_ids_are_unique_and_made_of_safe_characters() -> None:
    made = {new_id() for _ in range(10_000)}
    assert len(made) == 10_000
    assert {len(one) for one in made} == {26}
    assert set("".join(made)) <= set("0123456789abcdefghjkmnpqrstvwxyz")


def test_ids_sort_by_the_millisecond_they_were_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for milliseconds in (1, 2, 999, 1_000, 1_700_000_000_000, 1_700_000_000_001, (1 << 48) - 1):
        monkeypatch.setattr(time, "time_ns", lambda at=milliseconds: at * 1_000_000)
        made.append(new_id())
    assert made == sorted(made)


def test_an_id_tells_when_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_001_999_999)
    assert made_at(new_id()) == 1_700_000_000.001


@pytest.mark.parametrize("text", ["", "debian-12", "0" * 25, "0" * 27, "0" * 25 + "u", "0" * 25 + "A"])
def test_what_is_no_id_tells_nothing(text: str) -> None:
    assert made_at(text) is None
