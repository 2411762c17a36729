"""What the tests of the effect side share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.store.database import Database
from tests.installation import furnished, site
from tests.workflow.bench import Bench
from tests.workflow.world import World

__all__ = ["furnished", "site"]


@pytest.fixture
def bench(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Made-up steps and plans on a database of each kind."""
    made = Bench(database, monkeypatch)
    yield made
    made.close()


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    """A served network with a free node and an image, in fakes."""
    made = World(database, tmp_path / "world")
    made.found()
    return made
