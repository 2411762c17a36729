"""Network namespaces: idempotent, and not fooled by what an interrupted `ip netns add` leaves."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.drivers import netns
from tests.wires import unique

pytestmark = pytest.mark.real


@pytest.fixture
def name() -> Iterator[str]:
    made = unique("netns")
    yield made
    netns.remove(made)


def test_it_comes_and_goes(name: str) -> None:
    for _ in range(2):
        netns.ensure(name)
    assert netns.exists(name)
    assert name in netns.names()
    assert list(netns.links(name)) == ["lo"]
    assert netns.processes(name) == []
    for _ in range(2):
        netns.remove(name)
    assert not netns.exists(name)
    assert name not in netns.names()
    assert netns.links(name) == {}
    assert netns.processes(name) == []


def test_a_bare_file_is_no_namespace(name: str) -> None:
    Path("/run/netns").mkdir(exist_ok=True)
    file = Path("/run/netns") / name
    file.touch()
    assert not netns.exists(name)
    netns.ensure(name)
    assert netns.exists(name)
    netns.remove(name)
    file.touch()
    netns.remove(name)
    assert not file.exists()
