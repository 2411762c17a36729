"""Ports that somebody else has changed: shown, narrowed by BMI itself, widened only when a person says so."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from bmi.domain.nouns import Json, Switch
from bmi.drivers.switch import CLOSED, PortConfig
from bmi.drivers.switch.fake import FakeSwitch
from bmi.errors import DriverError
from bmi.store import ports as rows
from bmi.store import records
from bmi.workflow import cabling
from bmi.workflow.sweep import Sweep
from tests.workflow.world import World

RIGHT = PortConfig(100)
# What a port on VLAN 100 may be found to be, and what is left of that when only what is wrong is taken away.
FOUND = {
    "another VLAN": (PortConfig(200), CLOSED),
    "one VLAN more": (PortConfig(100, frozenset({200})), RIGHT),
    "tagged instead": (PortConfig(None, frozenset({100, 200})), CLOSED),
    "another VLAN, and one of its own": (PortConfig(200, frozenset({100})), CLOSED),
    "closed": (CLOSED, CLOSED),
    "all VLANs": (None, CLOSED),
}


@pytest.fixture
def switch(world: World) -> Switch:
    """A switch with a node on its network, and one more port that is to be closed."""
    with world.database.write() as tx:
        world.open_port(tx)
        world.give(tx)
        rows.manage(tx, "switch-1", "spare", world.database.now())
        found = records.switches.get(tx, "switch-1")
    world.switch.apply({"eth1": RIGHT, "spare": CLOSED, "uplink": PortConfig(7)})
    settle(world)
    return found


def settle(world: World) -> None:
    keeper = world.keeper("keeper")
    keeper.look()
    keeper.finish()


def put(world: World, port: str, found: PortConfig | None) -> None:
    """As somebody at the switch does it."""
    state = found and {"native": found.native, "tagged": sorted(found.tagged)}
    world.switch.world.change("ports", lambda table: table.update({port: state}))


def differences(world: World, switch: Switch, **how: bool) -> list[Json]:
    found: list[Json] = cabling.compare(world.tools, switch, **how)["differences"]
    return found


def test_ports_that_are_as_they_should_be_are_no_difference(world: World, switch: Switch) -> None:
    assert cabling.compare(world.tools, switch) == {"ports": 2, "others": 1, "differences": []}


@pytest.mark.parametrize("kind", FOUND)
def test_a_difference_is_shown_and_nothing_is_changed(world: World, switch: Switch, kind: str) -> None:
    put(world, "eth1", FOUND[kind][0])
    [shown] = differences(world, switch)
    assert (shown["port"], shown["wanted"], shown["mended"]) == ("eth1", "VLAN 100", False)
    assert world.switch.list()["eth1"] == FOUND[kind][0]


@pytest.mark.parametrize("kind", FOUND)
def test_a_repair_only_takes_away(world: World, switch: Switch, kind: str) -> None:
    found, left = FOUND[kind]
    put(world, "eth1", found)
    [shown] = differences(world, switch, repair=True)
    assert shown["mended"] == (left == RIGHT)
    settle(world)
    assert world.switch.list()["eth1"] == left
    assert len(differences(world, switch)) == (left != RIGHT)


@pytest.mark.parametrize("kind", FOUND)
def test_a_person_makes_it_all_that_it_should_be(world: World, switch: Switch, kind: str) -> None:
    put(world, "eth1", FOUND[kind][0])
    differences(world, switch, repair=True, widen=True)
    settle(world)
    assert world.switch.list()["eth1"] == RIGHT
    assert differences(world, switch) == []


@pytest.mark.parametrize("found", [PortConfig(300), None], ids=str)
def test_the_sweep_shuts_a_port_whose_nic_is_unknown(
    world: World, switch: Switch, found: PortConfig | None
) -> None:
    put(world, "spare", found)
    put(world, "uplink", PortConfig(8))
    Sweep(world.tools).look()
    assert world.switch.list() == {"eth1": RIGHT, "spare": CLOSED, "uplink": PortConfig(8)}


def test_the_sweep_does_not_widen(world: World, switch: Switch, caplog: pytest.LogCaptureFixture) -> None:
    put(world, "eth1", CLOSED)
    Sweep(world.tools).look()
    assert world.switch.list()["eth1"] == CLOSED
    assert "bmi switch repair tor --widen" in caplog.text


def test_a_switch_that_is_away_keeps_the_sweep_from_nothing_else(world: World, switch: Switch) -> None:
    world.switch.world.set_fault("list", error="The switch is away.")
    Sweep(world.tools).look()


def test_a_port_that_is_about_to_change_is_no_difference(world: World, switch: Switch) -> None:
    with world.database.write() as tx:
        rows.set_open(tx, "node-1", world.database.now(), is_open=False)
    assert differences(world, switch, repair=True) == []
    assert world.switch.list()["eth1"] == RIGHT


def test_a_port_that_changes_while_it_is_compared_is_left_to_the_keeper(world: World, switch: Switch) -> None:
    put(world, "eth1", PortConfig(200))
    found, _managed, _others = cabling.differing(world.tools, switch)
    with world.database.write() as tx:
        rows.set_open(tx, "node-1", world.database.now(), is_open=False)
    assert cabling.narrow(world.tools, switch, found) == set()
    assert world.switch.list()["eth1"] == PortConfig(200)
    settle(world)
    assert world.switch.list()["eth1"] == CLOSED


def meanwhile(world: World, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Lets something happen while the next session asks the switch for a change."""
    apply, acts = world.switch.apply, [act]

    def interrupted(ports: Mapping[str, PortConfig]) -> Mapping[str, PortConfig | DriverError]:
        if acts:
            acts.pop()()
        return apply(ports)

    monkeypatch.setattr(world.switch, "apply", interrupted)


def test_a_narrowing_that_lost_its_switch_is_done_over_by_the_keeper(
    world: World, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stopped in its session, and a keeper has closed the port since: its late word opens that again."""

    def taken_over() -> None:
        with world.database.write() as tx:
            records.switches.update(tx, id="switch-1", values={"kept_until": 0})
            rows.set_open(tx, "node-1", world.database.now(), is_open=False)
        settle(world)
        assert world.switch.list()["eth1"] == CLOSED

    put(world, "eth1", PortConfig(100, frozenset({200})))
    meanwhile(world, monkeypatch, taken_over)
    differences(world, switch, repair=True)
    assert world.switch.list()["eth1"] == RIGHT
    settle(world)
    assert world.switch.list()["eth1"] == CLOSED


def test_a_long_narrowing_keeps_its_switch(
    world: World, switch: Switch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cabling, "_LEASE_S", 0.6)
    refused: list[bool] = []

    def much_later() -> None:
        time.sleep(1.2)
        with world.database.write() as tx:
            refused.append(
                not rows.claim_switch(tx, "switch-1", "other", now=world.database.now(), lease_s=15)
            )

    put(world, "eth1", PortConfig(100, frozenset({200})))
    meanwhile(world, monkeypatch, much_later)
    differences(world, switch, repair=True)
    assert refused == [True]
    assert world.switch.list()["eth1"] == RIGHT


def test_a_narrowing_looks_again_in_its_session(world: World, switch: Switch) -> None:
    """A keeper has given the port more since it was compared, and is done with it."""
    put(world, "eth1", PortConfig(200))
    found, _managed, _others = cabling.differing(world.tools, switch)
    with world.database.write() as tx:
        rows.make_due(tx, ["port-1"], world.database.now())
    settle(world)
    with world.database.read() as tx:
        again = records.ports.get(tx, "port-1")
    # As listed before the keeper came, with the revision of after it.
    stale = [replace(one, port=again) for one in found]
    assert cabling.narrow(world.tools, switch, stale) == set()
    assert world.switch.list()["eth1"] == RIGHT


def test_an_odd_switch_does_not_end_the_round(
    world: World, switch: Switch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with world.database.write() as tx:
        records.switches.insert(tx, replace(switch, id="switch-0", name="odd", driver="odd"))
        rows.manage(tx, "switch-0", "p1", world.database.now())

    def opened(driver: str, _options: Json) -> FakeSwitch:
        if driver == "odd":
            raise KeyError("vlans")
        return world.switch

    object.__setattr__(world.tools, "switch", opened)
    put(world, "spare", PortConfig(300))
    cabling.narrow_all(world.tools, stopped=lambda: False)
    assert world.switch.list()["spare"] == CLOSED
    assert "switch odd" in caplog.text
