"""A site over either kind of database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.domain.nouns import Actor
from bmi.store.database import Database
from tests.installation import Site


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Iterator[Site]:
    """A site with projects red and blue, an image that all may use, and two free nodes."""
    made = Site(database, tmp_path / "site")
    made.project("red")
    made.project("blue")
    made.add_image("debian-12", public=True)
    made.add_nodes("n1", "n2")
    yield made
    made.close()


@pytest.fixture
def red(site: Site) -> Actor:
    """A member of red, whose the nodes are."""
    site.give("red", "n1", "n2")
    return site.actor("red-token", "red")


@pytest.fixture
def blue(site: Site) -> Actor:
    return site.actor("blue-token", "blue")
