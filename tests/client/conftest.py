"""A site behind a real server on a loopback port."""

from collections.abc import Iterator

import pytest

from bmi.api.app import create_app
from bmi.client import Client
from tests.installation import Site, furnished, site
from tests.live import serving

__all__ = ["furnished", "site"]


@pytest.fixture
def url(site: Site) -> Iterator[str]:
    with serving(create_app(site.core, uploads_dir=site.uploads)) as address:
        yield address


@pytest.fixture
def client(site: Site, url: str) -> Iterator[Client]:
    """An administrator's client."""
    with Client(url, site.token("root")) as made:
        yield made
