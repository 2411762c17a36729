"""One site with virtual bare metal for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.lab.golden import DEFAULT_CACHE, ensure_golden
from bmi.lab.site import Site, finished, running_site

IMAGE = "debian-12"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The golden image of the lab."""
    return ensure_golden(DEFAULT_CACHE, progress=print)


@pytest.fixture(scope="session")
def site(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A lab with two nodes, BMI on it, and the golden image imported. Each module has a project of its own, and
    gives the nodes back.
    """
    with running_site(tmp_path_factory.mktemp("site"), "systest", nodes=2, port=7562) as made:
        admin = made.client()
        finished(admin, admin.import_image(IMAGE, golden, public=True))
        yield made
    assert made.leftovers() == []
