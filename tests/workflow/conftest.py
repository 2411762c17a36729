"""What the tests of the effect side share."""

from collections.abc import Iterator

import pytest

from bmi.store.database import Database
from tests.workflow.bench import Bench


@pytest.fixture
def bench(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Made-up steps and plans on a database of each kind."""
    made = Bench(database, monkeypatch)
    yield made
    made.close()
