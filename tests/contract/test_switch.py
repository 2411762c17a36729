"""What every switch driver promises."""

from collections.abc import Iterator

import pytest

from bmi.drivers import load
from bmi.drivers.switch import Switch
from bmi.errors import DriverError
from tests.wires import switch_yard


@pytest.fixture(params=["fake", pytest.param("ovs", marks=pytest.mark.real)])
def switch(request: pytest.FixtureRequest) -> Iterator[Switch]:
    """A switch with a port `port1` that nobody has touched."""
    if request.param == "fake":
        yield load("switch", "fake")()
        return
    with switch_yard() as yard:
        yield load("switch", "ovs")(bridge=yard.bridge, db=yard.db)


def test_an_untouched_port_is_not_open(switch: Switch) -> None:
    assert switch.list().get("port1") is None


def test_a_port_is_put_on_a_vlan_moved_and_closed(switch: Switch) -> None:
    switch.set_access("port1", 101)
    assert switch.list()["port1"] == 101
    switch.set_access("port1", 102)
    assert switch.list()["port1"] == 102
    switch.close("port1")
    assert switch.list()["port1"] is None


def test_all_calls_can_be_repeated(switch: Switch) -> None:
    for _ in range(2):
        switch.set_access("port1", 101)
    assert switch.list()["port1"] == 101
    for _ in range(2):
        switch.close("port1")
    assert switch.list()["port1"] is None


def test_a_port_that_does_not_exist_is_closed(switch: Switch) -> None:
    switch.close("no-such-port")
    assert switch.list().get("no-such-port") is None


@pytest.mark.parametrize("vlan", [-1, 0, 4095, 4096])
def test_there_are_4094_vlans(switch: Switch, vlan: int) -> None:
    with pytest.raises(DriverError) as caught:
        switch.set_access("port1", vlan)
    assert not caught.value.retryable
    assert switch.list().get("port1") is None


@pytest.mark.parametrize("vlan", [1, 4094])
def test_the_first_and_the_last_vlan_can_be_used(switch: Switch, vlan: int) -> None:
    switch.set_access("port1", vlan)
    assert switch.list()["port1"] == vlan


def test_check_says_a_sentence(switch: Switch) -> None:
    assert switch.check().endswith(".")
