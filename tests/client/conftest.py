"""A site behind a real server on a loopback port."""

from collections.abc import Iterator

import pytest

from bmi.client import Client
from tests.installation import Site, furnished, site
from tests.live import api_of, serving

__all__ = ["furnished", "site"]


@pytest.fixture
def url(site: Site) -> Iterator[str]:
    with serving(api_of(site)) as address:
        yield address


@pytest.fixture
def client(site: Site, url: str) -> Iterator[Client]:
    """An administrator's client."""
    with Client(url, site.token("root")) as made:
        yield made
