"""Drivers are found by name and made with options; what is wrong with either is said."""

import pytest

from bmi.drivers import make
from bmi.drivers.storage.fake import FakeStorage
from bmi.errors import ConfigError


def test_a_driver_is_made_with_its_options(tmp_path: object) -> None:
    assert isinstance(make("storage", "fake", {"root": str(tmp_path), "total_bytes": 7}), FakeStorage)


@pytest.mark.parametrize(
    "name", ["floppy", "", "loopfile", "local.create", "../local", "no.such.package", "Fake", "é"]
)
def test_an_unknown_driver_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no storage driver '") as caught:
        make("storage", name, {})
    assert repr(name) in caught.value.detail
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("kind", "name", "options", "named"),
    [
        ("storage", "fake", {"rot": "/x"}, "rot"),
        ("storage", "local", {}, "path"),
        ("uplink", "existing", {}, "interfaces"),
        ("uplink", "existing", {"interfaces": {"blue": "eth0"}}, "blue"),
        ("switch", "ovs", {"bridge": "br0", "timeout_s": "soon"}, "timeout_s|str"),
    ],
)
def test_wrong_options_are_named(kind: str, name: str, options: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"{kind} driver '{name}' are not right: .*({named})") as caught:
        make(kind, name, options)
    assert "It takes" in caught.value.remedy
