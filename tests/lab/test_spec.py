"""A lab's facts: stable, distinct, refused when impossible."""

from dataclasses import replace
from pathlib import Path

import pytest

from bmi.errors import InvalidInputError, NotFoundError
from bmi.lab import spec as specs
from bmi.lab.spec import LabSpec

SPEC = LabSpec(Path("/tmp/lab"), "blue", 3, 1024, 0, 8000)


def test_addresses_are_stable_local_and_distinct() -> None:
    macs = [node.mac for node in SPEC.nodes]
    assert macs == [node.mac for node in replace(SPEC, directory=Path("/tmp/other")).nodes]
    others = [node.mac for node in replace(SPEC, name="green").nodes]
    assert len({*macs, *others}) == 6
    assert all(mac.startswith("02:") and len(mac) == 17 for mac in macs)


def test_a_lab_is_found_again(tmp_path: Path) -> None:
    spec = replace(SPEC, directory=tmp_path)
    spec.save(wanted="up")
    assert specs.load(tmp_path) == (spec, "up")
    spec.save(wanted="down")
    assert specs.load(tmp_path) == (spec, "down")
    specs.forget(spec)
    with pytest.raises(NotFoundError):
        specs.load(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a/b"},
        {"name": "x" * 33},
        {"node_count": 0},
        {"node_count": 251},
        {"directory": Path("/tmp") / ("d" * 90)},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        replace(SPEC, **wrong)  # type: ignore[arg-type]  # wrong on purpose
