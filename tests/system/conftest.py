"""One site with virtual bare metal for all tests of this folder."""

from collections.abc import Iterator

import pytest

from bmi.lab.golden import DEFAULT_CACHE, ensure_golden
from bmi.lab.site import Site, finished, running_site

IMAGE = "debian-12"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A lab with one node, BMI on it, and the golden image imported."""
    golden = ensure_golden(DEFAULT_CACHE, progress=print)
    with running_site(tmp_path_factory.mktemp("site"), "systest", nodes=1, port=7562) as made:
        admin = made.client()
        finished(admin, admin.import_image(IMAGE, golden, public=True))
        yield made
    assert made.leftovers() == []
