"""What the tests about HIL start from."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hil.bench import KINDS, Bench, bench
from tests.hil.server import HilServer


@pytest.fixture(params=KINDS)
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """The stand-in, and the real HIL where there is one."""
    with bench(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[Bench]:
    """The stand-in."""
    with bench("stand-in", tmp_path) as made:
        yield made


@pytest.fixture
def hil(stand_in: Bench) -> HilServer:
    """The stand-in's inside."""
    assert stand_in.server is not None
    return stand_in.server
