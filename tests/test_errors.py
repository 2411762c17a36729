"""Errors as problem documents, there and back."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bmi import errors
from bmi.errors import BmiError, DriverError, InvalidInputError, NotFoundError, from_problem


def family(root: type[BmiError] = BmiError) -> Iterator[type[BmiError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from family(child)


def example(cls: type[BmiError]) -> BmiError:
    match cls:
        case errors.NotFoundError:
            return NotFoundError("node", "n7", remedy="Look.")
        case errors.InvalidInputError:
            return InvalidInputError("mac", "it is odd.", remedy="Look.", users=["a"])
        case _:
            return cls("It went wrong.", remedy="Look.", operation="o1")


@pytest.mark.parametrize("cls", list(family()), ids=lambda cls: cls.__name__)
def test_an_error_survives_the_wire(cls: type[BmiError]) -> None:
    error = example(cls)
    back = from_problem(json.loads(json.dumps(error.problem())))
    assert type(back) is cls
    assert (back.detail, back.remedy, back.facts) == (error.detail, error.remedy, error.facts)
    assert (back.status, back.retryable, back.problem()) == (error.status, error.retryable, error.problem())


def test_every_code_is_one_class() -> None:
    codes = [cls.code() for cls in family()]
    assert len(codes) == len(set(codes))
    assert {"node-busy", ""}.isdisjoint(codes)
    assert errors.InvalidInputError.code() == "invalid-input"
    assert all(400 <= cls.status < 600 and cls.title for cls in family())


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"type": "about:blank"},
        {"type": "urn:bmi:problem:from-the-future", "title": "New"},
        {"detail": None},
    ],
)
def test_an_unknown_problem_is_still_an_error(document: dict[str, Any]) -> None:
    error = from_problem(document)
    assert type(error) is BmiError
    assert error.detail


def test_a_driver_decides_whether_waiting_helps() -> None:
    final = DriverError("It refuses.", retryable=False)
    assert not from_problem(final.problem()).retryable
    assert DriverError("It is busy.").retryable


def test_facts_do_not_replace_what_a_problem_is() -> None:
    assert BmiError("It went wrong.", status="fine", stage="dhcp").problem() == {
        "type": "urn:bmi:problem:bmi",
        "title": "Internal error",
        "status": 500,
        "detail": "It went wrong.",
        "retryable": False,
        "stage": "dhcp",
    }


def test_an_error_reads_as_what_is_wrong_and_what_to_do() -> None:
    assert str(BmiError("It went wrong.", remedy="Look.")) == "It went wrong. Look."
    assert str(BmiError("It went wrong.")) == "It went wrong."
