"""What every switch driver promises."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bmi.drivers import load
from bmi.drivers.switch import CLOSED, PortConfig, Switch
from bmi.errors import DriverError
from tests.hil.bench import switches as hil_switches
from tests.switches.families import BOTH, COURSE, FAMILIES, NATIVE, TAGGED, simulator
from tests.switches.ovs import OvsShell
from tests.switches.server import Simulator, options, serving
from tests.switches.stanza import Os10
from tests.wires import switch_yard


@dataclass(frozen=True)
class Bench:
    """A switch with two ports that BMI has not touched, and one that it does not have."""

    switch: Switch
    one: str
    two: str
    missing: str = "port9"
    # Of the CLI switches: what stands behind.
    simulator: Simulator | None = None

    def can_be(self, config: PortConfig) -> bool:
        """A few switches cannot have a port that is on no VLAN untagged."""
        return not isinstance(self.simulator, Os10) or config.native is not None or config == CLOSED


_SWITCHES = [
    "fake",
    pytest.param("ovs", marks=pytest.mark.real),
    pytest.param("ovs_shell", marks=pytest.mark.real),
    # Each session of these takes a second.
    *(pytest.param(other, marks=pytest.mark.slow) for other in ("hil", *FAMILIES)),
]


@pytest.fixture(params=_SWITCHES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    if request.param == "fake":
        yield Bench(load("switch", "fake")(), "port1", "port2")
    elif request.param == "hil":
        with hil_switches(tmp_path) as made:
            yield Bench(made, "port1", "port2")
    elif request.param == "ovs_shell":
        with switch_yard() as yard, serving(OvsShell(())) as server:
            yard.plug("port2")
            access = options(server, tmp_path)
            yield Bench(
                load("switch", "ovs_shell")(bridge=yard.bridge, db=yard.db, **access), "port1", "port2"
            )
    elif request.param == "ovs":
        with switch_yard() as yard:
            yard.plug("port2")
            yield Bench(load("switch", "ovs")(bridge=yard.bridge, db=yard.db), "port1", "port2")
    else:
        simulated = simulator(request.param)
        with serving(simulated) as server:
            made = load("switch", request.param)(**options(server, tmp_path))
            one, two = simulated.ports[:2]
            yield Bench(made, one, two, one + "9", simulated)


def test_a_port_becomes_and_is_seen_to_be_what_is_asked(bench: Bench) -> None:
    """In every order, for a switch may have to undo one thing to do another; and never is it on more than it was
    or shall be. Where a session takes a second, tests/drivers/switch goes the rest of the course without one.
    """
    course = COURSE[:3] + COURSE[-2:] if bench.simulator else COURSE
    was = CLOSED
    assert bench.switch.apply({bench.one: CLOSED}) == {bench.one: CLOSED}
    for config in filter(bench.can_be, course):
        if bench.simulator:
            bench.simulator.reached.clear()
        assert bench.switch.apply({bench.one: config}) == {bench.one: config}
        assert bench.switch.list()[bench.one] == config
        if bench.simulator:
            assert bench.simulator.vlans(bench.one) == config.vlans
            assert bench.simulator.reached[bench.one] <= was.vlans | config.vlans
        was = config


def test_a_batch_is_applied_as_a_whole_and_nothing_else_changes(bench: Bench) -> None:
    one, two = bench.one, bench.two
    for batch in (
        {one: NATIVE, two: BOTH},
        {two: PortConfig(103, frozenset({101}))},
        {one: CLOSED, two: NATIVE},
        {one: BOTH, two: BOTH},
    ):
        before = bench.switch.list()
        assert bench.switch.apply(batch) == batch
        assert bench.switch.list() == {**before, **batch}


@pytest.mark.parametrize("config", [NATIVE, TAGGED, BOTH, CLOSED], ids=str)
def test_all_calls_can_be_repeated(bench: Bench, config: PortConfig) -> None:
    if not bench.can_be(config):
        pytest.skip("this switch has no such ports")
    for _ in range(2):
        assert bench.switch.apply({bench.one: config}) == {bench.one: config}
    assert bench.switch.list()[bench.one] == config


def test_nothing_to_do_is_done(bench: Bench) -> None:
    assert bench.switch.apply({}) == {}


def test_a_port_that_does_not_exist_is_on_nothing(bench: Bench) -> None:
    assert bench.switch.apply({bench.missing: CLOSED, bench.one: NATIVE})[bench.one] == NATIVE
    assert bench.switch.list().get(bench.missing, CLOSED) == CLOSED


@pytest.mark.parametrize("vlan", [-1, 0, 1, 4095, 4096])
def test_no_port_can_be_on_what_is_no_vlan_of_a_node(vlan: int) -> None:
    with pytest.raises(DriverError) as caught:
        PortConfig(vlan)
    assert not caught.value.retryable
    with pytest.raises(DriverError):
        PortConfig(None, frozenset({vlan}))


def test_no_port_is_on_a_vlan_in_two_ways() -> None:
    with pytest.raises(DriverError):
        PortConfig(5, frozenset({5, 6}))


def test_check_says_a_sentence(bench: Bench) -> None:
    assert bench.switch.check().endswith(".")
