"""HIL's switches: what its network daemon does to ports, does wrong, or does not do."""

import logging
import threading
import time
from typing import Any

import pytest

from bmi.drivers import load
from bmi.drivers.isolation import Isolation
from bmi.drivers.switch import CLOSED, PortConfig, Switch
from bmi.errors import DriverError, TimedOutError
from tests.hil.bench import Bench
from tests.hil.server import HilServer
from tests.hil.state import Network, Wire

NATIVE = PortConfig(301)
TAGGED = PortConfig(None, frozenset({302}))
BOTH = PortConfig(301, frozenset({302, 303}))


def _switch(bench: Bench, **more: Any) -> Switch:
    made: Switch = load("switch", "hil")(**bench.options, **({"poll_s": 0.02} | more))
    return made


def _claimed(bench: Bench, **projects: str) -> None:
    isolation: Isolation = load("isolation", "hil")(**bench.options)
    for node, project in projects.items():
        isolation.claim(node, project)


def _error(switch: Switch, port: str, config: PortConfig) -> DriverError:
    error = switch.apply({port: config})[port]
    assert isinstance(error, DriverError)
    return error


@pytest.fixture
def switch(stand_in: Bench) -> Switch:
    """With node n1 claimed for red, and n2 for blue."""
    _claimed(stand_in, n1="red", n2="blue")
    return _switch(stand_in)


def test_ports_are_what_is_asked_on_either(either: Bench) -> None:
    """The VLANs are different ones in each run, for a real HIL remembers them."""
    n1, n2 = f"{either.prefix}n1", f"{either.prefix}n2"
    base = 1000 + int(either.prefix[1:-1] or "0", 16) % 3000
    _claimed(either, **{n1: f"{either.prefix}red", n2: f"{either.prefix}blue"})
    switch = _switch(either)
    first = {
        f"{n1}/boot": PortConfig(base, frozenset({base + 1})),
        f"{n1}/data": PortConfig(None, frozenset({base + 1})),
        f"{n2}/boot": PortConfig(base),
    }
    assert switch.apply(first) == first
    assert {port: switch.list()[port] for port in first} == first
    networks = either.do("GET", "/networks")
    assert networks[f"bmi-vlan-{base}"] == {
        "network_id": str(base),
        "projects": [f"{either.prefix}blue", f"{either.prefix}red"],
    }
    second = {f"{n1}/boot": PortConfig(base + 1), f"{n1}/data": CLOSED, f"{n2}/boot": CLOSED}
    assert switch.apply(second) == second
    assert {port: switch.list()[port] for port in second} == second
    assert switch.apply({f"{n1}/boot": CLOSED}) == {f"{n1}/boot": CLOSED}
    assert not {f"bmi-vlan-{base}", f"bmi-vlan-{base + 1}"} & either.do("GET", "/networks").keys()


def test_all_ports_begin_before_one_is_waited_for(stand_in: Bench, hil: HilServer) -> None:
    nodes = [stand_in.node(f"m{number}", number) for number in range(10, 20)]
    _claimed(stand_in, **dict.fromkeys(nodes, "red"))
    switch = _switch(stand_in)
    hil.weak.stuck = True
    wanted = {f"{node}/boot": NATIVE for node in nodes}
    found: dict[str, Any] = {}
    worker = threading.Thread(target=lambda: found.update(switch.apply(wanted)))
    worker.start()
    while hil.most_pending < len(nodes):
        assert worker.is_alive()
    time.sleep(0.3)
    # HIL works in turn: only the action that is next is asked for.
    asked = {call for call in hil.service.requests if "/networking_action/" in call}
    assert asked == {f"GET /v0/networking_action/{hil.actions[0].uuid}"}
    hil.weak.stuck = False
    worker.join()
    assert found == wanted


def test_an_action_that_is_passed_over_delays_its_own_port_alone(
    stand_in: Bench, switch: Switch, hil: HilServer
) -> None:
    hil.weak.passes_over = "n1"
    found = _switch(stand_in, action_timeout_s=1).apply({"n1/boot": NATIVE, "n2/boot": BOTH})
    assert found["n2/boot"] == BOTH
    assert isinstance(found["n1/boot"], TimedOutError)


def test_an_action_that_ends_in_error_is_the_error_of_its_port_alone(switch: Switch, hil: HilServer) -> None:
    hil.weak.errors = 1
    found = switch.apply({"n1/boot": NATIVE, "n2/boot": NATIVE})
    failed = [port for port, config in found.items() if isinstance(config, DriverError)]
    assert len(failed) == 1
    error = found[failed[0]]
    assert isinstance(error, DriverError)
    assert (error.retryable, error.detail) == (True, f"HIL could not change the switch port of {failed[0]}.")
    assert switch.apply({failed[0]: NATIVE}) == {failed[0]: NATIVE}


def test_an_action_that_was_skipped_is_seen(switch: Switch, hil: HilServer) -> None:
    hil.weak.skips = 1
    error = _error(switch, "n1/boot", NATIVE)
    assert error.retryable
    assert "should be VLAN 301" in error.detail
    assert hil.wire("n1") == Wire()
    assert switch.apply({"n1/boot": NATIVE}) == {"n1/boot": NATIVE}


def test_a_network_daemon_that_does_nothing(stand_in: Bench, switch: Switch, hil: HilServer) -> None:
    hil.weak.stuck = True
    found = _switch(stand_in, action_timeout_s=0.3).apply({"n1/boot": NATIVE, "n2/boot": CLOSED})
    for error in found.values():
        assert isinstance(error, TimedOutError)
        assert error.retryable
        assert "hil-admin serve-networks" in error.remedy
    hil.weak.stuck = False
    # What is still queued comes to its end first; a NIC takes one action at a time.
    assert switch.apply({"n1/boot": TAGGED, "n2/boot": NATIVE}) == {"n1/boot": TAGGED, "n2/boot": NATIVE}


def test_a_project_keeps_the_network_that_a_node_of_it_comes_onto_meanwhile(
    stand_in: Bench, switch: Switch, hil: HilServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hil.weak.stuck = True
    _switch(stand_in, action_timeout_s=0.1).apply({"n1/boot": NATIVE})
    users = switch._users  # type: ignore[attr-defined]  # of this driver

    def outdated(network: str) -> set[str]:
        found: set[str] = users(network)
        hil.weak.stuck = False
        deadline = time.monotonic() + 10
        while hil.wire("n1") != Wire(301):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return found

    monkeypatch.setattr(switch, "_users", outdated)
    assert switch.apply({"n2/boot": NATIVE}) == {"n2/boot": NATIVE}
    monkeypatch.undo()
    assert set(hil.networks["bmi-vlan-301"].access) == {"red", "blue"}
    assert switch.apply({"n1/boot": CLOSED}) == {"n1/boot": CLOSED}
    assert set(hil.networks["bmi-vlan-301"].access) == {"blue"}


def test_an_action_of_somebody_else_is_waited_for(stand_in: Bench, switch: Switch, hil: HilServer) -> None:
    hil.weak.stuck = True
    stand_in.do("POST", "/switch/tor/port/gi1/1/1/revert")
    threading.Timer(0.3, lambda: setattr(hil.weak, "stuck", False)).start()
    assert switch.apply({"n1/boot": NATIVE}) == {"n1/boot": NATIVE}


def test_no_closed_port_falls_back_to_vlan_1(stand_in: Bench, hil: HilServer) -> None:
    hil.weak.falls_back = True
    node = stand_in.node("n9", 9)
    assert hil.wire(node) == Wire(native=1)
    _claimed(stand_in, n9="red")
    switch = _switch(stand_in)
    for config in (CLOSED, NATIVE, CLOSED, BOTH, TAGGED, CLOSED):
        assert switch.apply({"n9/boot": config}) == {"n9/boot": config}
        assert hil.wire(node) == Wire(config.native, set(config.tagged))


def test_a_switch_that_takes_tagged_networks_beside_a_native_one_only(switch: Switch, hil: HilServer) -> None:
    hil.weak.nativeless = False
    for config in (BOTH, NATIVE, BOTH, CLOSED):
        assert switch.apply({"n1/boot": config}) == {"n1/boot": config}
    error = _error(switch, "n1/boot", TAGGED)
    assert "Please attach a native network first" in error.detail
    assert switch.list()["n1/boot"] == CLOSED


# ---- who may be on a network ------------------------------------------------------------------------


def test_a_network_is_open_to_the_projects_that_are_on_it_and_to_nobody_else(
    switch: Switch, hil: HilServer
) -> None:
    switch.apply({"n1/boot": NATIVE, "n2/boot": NATIVE})
    assert sorted(hil.networks["bmi-vlan-301"].access) == ["blue", "red"]
    switch.apply({"n2/boot": CLOSED})
    assert hil.networks["bmi-vlan-301"].access == ["red"]
    switch.apply({"n1/boot": CLOSED})
    assert hil.networks == {}


@pytest.mark.parametrize("access", [["blue"], []], ids=["another", "everybody"])
def test_who_had_the_vlan_before_has_no_access_any_more(
    switch: Switch, hil: HilServer, access: list[str]
) -> None:
    hil.networks["bmi-vlan-301"] = Network(None, access, "301")
    switch.apply({"n1/boot": NATIVE})
    assert hil.networks["bmi-vlan-301"].access == ["red"]


def test_no_network_is_ever_opened_to_everybody(
    switch: Switch, hil: HilServer, caplog: pytest.LogCaptureFixture
) -> None:
    switch.apply({"n1/boot": NATIVE, "n2/boot": NATIVE})
    hil.networks["bmi-vlan-301"].access = ["blue"]
    with caplog.at_level(logging.WARNING):
        switch.apply({"n2/boot": CLOSED})
    assert hil.networks["bmi-vlan-301"].access == ["blue"]
    assert "used by projects that have no access" in caplog.text


def test_a_vlan_that_is_somebody_elses_network(switch: Switch, hil: HilServer) -> None:
    hil.networks["storage"] = Network(None, ["blue"], "301")
    error = _error(switch, "n1/boot", NATIVE)
    assert not error.retryable
    assert "VLAN 301 is that of HIL's network storage" in error.detail
    assert switch.apply({"n2/boot": NATIVE}) == {"n2/boot": NATIVE}
    assert hil.networks["storage"].access == ["blue"]


def test_a_network_that_two_have_made(switch: Switch, hil: HilServer) -> None:
    hil.networks |= {name: Network(None, ["red"], "301") for name in ("one", "other")}
    assert "one and other" in _error(switch, "n1/boot", NATIVE).detail


# ---- behind our back --------------------------------------------------------------------------------


def test_a_node_that_somebody_took_is_not_let_on_our_networks(switch: Switch, hil: HilServer) -> None:
    hil.nodes["n1"].project = "blue"
    error = _error(switch, "n1/boot", NATIVE)
    assert not error.retryable
    assert "BMI did not give it to" in error.detail
    assert hil.networks == {}
    assert "n1/boot" not in switch.list()


def test_a_node_that_somebody_took_loses_what_we_gave_it_and_nothing_else(
    switch: Switch, hil: HilServer
) -> None:
    switch.apply({"n1/boot": NATIVE})
    with hil.changing():
        hil.networks["theirs"] = Network("blue", ["blue"], "150")
        hil.nodes["n1"].project = "blue"
        hil.nodes["n1"].nics["boot"].networks["vlan/150"] = "theirs"
    error = _error(switch, "n1/boot", CLOSED)
    assert "should be closed, and is VLAN 150 tagged" in error.detail
    assert hil.nodes["n1"].nics["boot"].networks == {"vlan/150": "theirs"}


def test_a_node_that_was_freed_is_closed_and_not_opened(switch: Switch, hil: HilServer) -> None:
    hil.nodes["n1"].project = None
    assert "belongs to no project of HIL" in _error(switch, "n1/boot", NATIVE).detail
    hil.wire("n1").native = 1
    assert switch.apply({"n1/boot": CLOSED}) == {"n1/boot": CLOSED}
    assert hil.wire("n1") == Wire()


def test_networks_that_we_did_not_give_are_seen_and_taken_away(switch: Switch, hil: HilServer) -> None:
    hil.networks["external"] = Network(None, [], "1")
    hil.nodes["n1"].nics["boot"].networks["vlan/native"] = "external"
    assert switch.list()["n1/boot"] is None
    assert switch.apply({"n1/boot": NATIVE}) == {"n1/boot": NATIVE}
    assert hil.nodes["n1"].nics["boot"].networks == {"vlan/native": "bmi-vlan-301"}


# ---- what is not there ------------------------------------------------------------------------------


def test_ports_that_hil_does_not_know(switch: Switch, hil: HilServer) -> None:
    hil.nodes["n2"].nics["boot"].port = None
    asked = {"nope/boot": CLOSED, "n1/nope": CLOSED}
    assert switch.apply(asked) == asked
    for port in ("nope/boot", "n1/nope", "n2/boot"):
        error = _error(switch, port, NATIVE)
        assert not error.retryable
        assert port in error.detail
    assert "which switch port n2/boot is cabled to" in _error(switch, "n2/boot", CLOSED).detail


def test_hil_away(switch: Switch, hil: HilServer) -> None:
    hil.service.go_away()
    for call in (switch.list, switch.check, lambda: switch.apply({"n1/boot": NATIVE})):
        with pytest.raises(DriverError, match="cannot be reached") as caught:
            call()
        assert caught.value.retryable


def test_hil_away_in_the_midst(switch: Switch, hil: HilServer) -> None:
    hil.weak.stuck = True
    found: dict[str, Any] = {}
    worker = threading.Thread(target=lambda: found.update(_outcome(switch, {"n1/boot": NATIVE})))
    worker.start()
    while not hil.most_pending:
        assert worker.is_alive()
    hil.service.go_away()
    worker.join()
    hil.service.come_back()
    hil.weak.stuck = False
    error = found["n1/boot"]
    assert isinstance(error, DriverError)
    assert error.retryable
    assert switch.apply({"n1/boot": NATIVE}) == {"n1/boot": NATIVE}


def _outcome(switch: Switch, ports: dict[str, PortConfig]) -> dict[str, Any]:
    try:
        return dict(switch.apply(ports))
    except DriverError as error:
        return dict.fromkeys(ports, error)


def test_hil_slow(stand_in: Bench, hil: HilServer) -> None:
    slow = _switch(stand_in, timeout_s=0.2)
    hil.service.slow_s = 30
    with pytest.raises(TimedOutError):
        slow.apply({"n1/boot": CLOSED})
