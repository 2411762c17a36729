"""The keeper of switch ports: few sessions, no port forgotten, and nobody waits for a switch that is not theirs."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bmi.domain.nouns import Node, NodeState
from bmi.domain.operations import OperationState
from bmi.drivers.switch import CLOSED, PortConfig
from bmi.service import nodes, switches
from bmi.service.nodes import Order
from bmi.store import ports as rows
from bmi.store import records
from bmi.workflow.engine import Engine
from bmi.workflow.ports import Keeper
from bmi.workflow.steps import OUTCOMES, STEPS
from tests.installation import BMC_HOST, BMC_PASSWORD, SITE, Site, opened
from tests.switches.families import simulator
from tests.switches.server import SshServer, options, serving
from tests.workflow.world import World

_NODES = 64
_SWITCHES = 2


# ---- few sessions ------------------------------------------------------------------------------------------


@pytest.fixture
def hall(furnished_empty: Path, tmp_path: Path) -> Iterator[tuple[Site, list[SshServer]]]:
    """64 free nodes on two switches with a command line."""
    with opened(furnished_empty) as site, ExitStack() as stack:
        servers = [
            stack.enter_context(serving(simulator("cisco_ios", _NODES // _SWITCHES)))
            for _ in range(_SWITCHES)
        ]
        for number, server in enumerate(servers):
            site_options: dict[str, Any] = options(server, tmp_path)
            switches.register_switch(
                site.core, SITE, f"tor{number}", driver="cisco_ios", options=site_options
            )
        for number in range(_NODES):
            said = nodes.Registration(
                name=f"n{number}",
                mac=f"52:54:00:00:01:{number:02x}",
                bmc=f"fake+https://{BMC_HOST}/n{number}",
                bmc_username="root",
                bmc_password=BMC_PASSWORD,
                switch=f"tor{number % _SWITCHES}",
                port=servers[0].simulator.ports[number // _SWITCHES],
            )
            nodes.register_node(site.core, SITE, said)
        work(site)
        yield site, servers


@pytest.fixture
def furnished_empty(migrated_sqlite: Path, tmp_path: Path) -> Path:
    """A site with a project and an image, and nothing else."""
    directory = tmp_path / "site"
    directory.mkdir()
    (directory / "bmi.sqlite").write_bytes(migrated_sqlite.read_bytes())
    with opened(directory) as site:
        site.project("red")
        site.add_image("debian-12", public=True)
    return directory


def work(site: Site, *came_up: str) -> None:
    site.will_boot(*came_up)
    with site.keeping():
        site.engine.run_until_idle(timeout_s=240)


@pytest.mark.slow
def test_64_nodes_provisioned_at_once_take_at_most_3_sessions_a_switch(
    hall: tuple[Site, list[SshServer]],
) -> None:
    site, servers = hall
    for server in servers:
        server.sessions = 0
    names = [f"n{number}" for number in range(_NODES)]
    for name in names:
        nodes.provision_node(site.core, SITE, name, Order(image="debian-12", project="red"))
    work(site, *names)

    assert {node.state for node in all_nodes(site)} == {NodeState.ACTIVE}
    assert max(server.sessions for server in servers) <= 3, [server.sessions for server in servers]
    with site.database.read() as tx:
        [network] = records.networks.list(tx)
    for server in servers:
        switch = server.simulator
        assert {switch.vlans(port) for port in switch.ports} == {frozenset({network.vlan})}


def all_nodes(site: Site) -> list[Node]:
    with site.database.read() as tx:
        return records.nodes.list(tx)


# ---- a switch that is away ---------------------------------------------------------------------------------


@pytest.fixture
def two_racks(site: Site) -> Site:
    """The nodes n1 to n3 on the switch sw1, and a node far1 on a switch of its own; all may boot."""
    switches.register_switch(site.core, SITE, "sw2", driver="fake", options={"root": "far"})
    site.register("far1", 9, switch="sw2")
    site.settle()
    return site


def away(site: Site, *, port: str = "port9") -> None:
    site.switch.world.set_fault(f"apply {port}", error="The switch does not answer.")


def back(site: Site, port: str = "port9") -> None:
    site.switch.world.set_fault(f"apply {port}")
    with site.database.write() as tx:  # instead of waiting for the end of the back-off
        records.ports.update(tx, name=port, values={"due_at": 0})


def state_of(site: Site, name: str) -> NodeState:
    with site.database.read() as tx:
        found = records.nodes.find(tx, name=name)
    assert found is not None
    return found.state


def test_a_port_that_cannot_be_opened_delays_only_its_own_node(two_racks: Site) -> None:
    site = two_racks
    away(site)
    site.will_boot("n1", "far1")
    late = nodes.provision_node(site.core, SITE, "far1", Order(image="debian-12", project="red"))
    other = nodes.provision_node(site.core, SITE, "n1", Order(image="debian-12", project="red"))
    with site.working():
        until(lambda: site.operation(other.operation.id).state is OperationState.SUCCEEDED)
        assert site.operation(late.operation.id).state is OperationState.RUNNING
        back(site)
        until(lambda: site.operation(late.operation.id).state is OperationState.SUCCEEDED)
    assert site.switch.list()["port9"] == site.switch.list()["port1"] != CLOSED


def test_a_release_does_not_wait_for_its_switch_and_nobody_gets_the_node_before(two_racks: Site) -> None:
    site = two_racks
    site.provision("far1", "red")
    away(site)
    released = nodes.release_node(site.core, SITE, "far1")
    site.settle()
    assert site.operation(released.operation.id).state is OperationState.SUCCEEDED
    with site.database.read() as tx:
        node = records.nodes.find(tx, name="far1")
        assert node is not None
        assert tx.scalar(rows.is_unsettled(node.id).select()) is True
        assert records.volumes.find(tx, node_id=node.id) is None
    assert site.switch.list()["port9"] != CLOSED
    back(site)
    keep(site)
    assert site.switch.list()["port9"] == CLOSED
    with site.database.read() as tx:
        assert tx.scalar(rows.is_unsettled(node.id).select()) is False


def keep(site: Site) -> None:
    keeper = Keeper(site.engine._tools, owner="later")
    keeper.look()
    keeper.finish()


def until(happened: Any, patience_s: float = 20) -> None:
    deadline = time.monotonic() + patience_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


# ---- nothing is forgotten, nothing is undone ---------------------------------------------------------------


def changed(world: World, *, is_open: bool) -> None:
    with world.database.write() as tx:
        rows.set_open(tx, "node-1", world.database.now(), is_open=is_open)


def opened_world(world: World) -> World:
    with world.database.write() as tx:
        world.open_port(tx)
        world.give(tx)
    world.switch.apply({"eth1": PortConfig(100)})
    return world


def test_a_keeper_whose_lease_was_taken_over_repeats_what_it_may_have_overwritten(world: World) -> None:
    """It was stopped in the middle of a session, and another one has closed the port since."""
    opened_world(world)
    changed(world, is_open=False)
    changed(world, is_open=True)

    def meanwhile(moment: str) -> None:
        if moment == "before":
            with world.database.write() as tx:
                records.switches.update(tx, id="switch-1", values={"keeper": "another", "kept_until": 0})
            changed(world, is_open=False)
            other = world.keeper("other")
            other.look()
            other.finish()
            assert world.switch.list()["eth1"] == CLOSED

    sleeper = world.keeper("sleeper", hook=meanwhile)
    sleeper.look()
    sleeper.finish()
    assert world.switch.list()["eth1"] == PortConfig(100)  # the sleeper's late word
    last = world.keeper("last")
    last.look()
    last.finish()
    assert world.switch.list()["eth1"] == CLOSED


def test_two_keepers_are_never_at_one_switch(world: World) -> None:
    opened_world(world)
    changed(world, is_open=False)
    seen: list[str] = []

    def meanwhile(moment: str) -> None:
        if moment == "before":
            other = world.keeper("other", hook=seen.append)
            other.look()
            other.finish()

    keeper = world.keeper("keeper", hook=meanwhile)
    keeper.look()
    keeper.finish()
    assert seen == []
    assert world.switch.list()["eth1"] == CLOSED


def test_a_driver_is_not_believed_that_shows_something_else(world: World) -> None:
    opened_world(world)
    changed(world, is_open=False)

    class Liar:
        def apply(self, ports: dict[str, PortConfig]) -> dict[str, PortConfig]:
            return dict.fromkeys(ports, PortConfig(100))

    object.__setattr__(world.tools, "switch", lambda _driver, _options: Liar())
    keeper = world.keeper("keeper")
    keeper.look()
    keeper.finish()
    with world.database.read() as tx:
        [port] = records.ports.list(tx)
    assert port.applied_revision < port.revision
    assert port.attempts == 1
    assert port.problem is not None
    assert "should be closed" in port.problem["detail"]


def test_a_port_without_a_nic_is_closed(world: World) -> None:
    world.switch.apply({"eth7": PortConfig(100)})
    with world.database.write() as tx:
        rows.manage(tx, "switch-1", "eth7", world.database.now())
    keeper = world.keeper("keeper")
    keeper.look()
    keeper.finish()
    assert world.switch.list()["eth7"] == CLOSED


def test_a_provision_fails_at_once_when_waiting_cannot_help(world: World) -> None:
    world.switch.world.set_fault("apply eth1", error="There is no such port.", retryable=False)
    made = world.ask("provision")
    with world.working(Engine(world.database, STEPS, OUTCOMES, world.tools, owner="w", threads=4)) as engine:
        engine.run_until_idle(30)
    with world.database.read() as tx:
        from bmi.store import operations as journal

        operation = journal.operations.get(tx, made)
        node = records.nodes.get(tx, "node-1")
    assert operation.state is OperationState.FAILED
    assert (operation.problem or {})["detail"] == "There is no such port."
    assert node.state is NodeState.ERROR


def test_only_the_sessions_that_go_on_keep_their_switches(world: World) -> None:
    """One that stumbled begins again when its lease has run out, whatever else its keeper does."""
    now = world.database.now()
    with world.database.write() as tx:
        assert rows.claim_switch(tx, "switch-1", "keeper", now=now, lease_s=15)
        rows.keep_switches(tx, ["another"], now + 60)
        assert rows.claim_switch(tx, "switch-1", "keeper", now=now + 20, lease_s=15)
        rows.keep_switches(tx, ["keeper"], now + 60)
        assert not rows.claim_switch(tx, "switch-1", "keeper", now=now + 40, lease_s=15)


def test_a_session_that_does_not_end_is_given_up_and_done_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ports have a problem to show, the switch is free for the next try, and a late word is not the last."""
    monkeypatch.setattr("bmi.workflow.ports._PATIENCE_S", 0.2)
    monkeypatch.setattr("bmi.workflow.ports._PORT_PATIENCE_S", 0)
    opened_world(world)
    stuck, ended = threading.Event(), threading.Event()

    def hook(moment: str) -> None:
        if moment == "before":
            stuck.wait(20)
        elif moment == "after":
            ended.set()

    changed(world, is_open=False)
    changed(world, is_open=True)
    keeper = world.keeper("keeper", hook=hook)
    keeper.look()
    keeper.finish()
    with world.database.read() as tx:
        [port] = records.ports.list(tx)
        switch = records.switches.get(tx, "switch-1")
    assert "did not end within" in (port.problem or {})["detail"]
    assert (port.problem or {})["remedy"]
    assert switch.name in (port.problem or {})["detail"]
    changed(world, is_open=False)
    following = world.keeper("keeper")
    following.look()
    following.finish()
    assert world.switch.list()["eth1"] == CLOSED
    stuck.set()
    assert ended.wait(20)
    assert world.switch.list()["eth1"] == PortConfig(100)
    following.look()
    following.finish()
    assert world.switch.list()["eth1"] == CLOSED


def test_an_operation_does_not_wait_for_ever_for_a_port_that_nobody_sees_to(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bmi.workflow.ports._PATIENCE_S", 0.2)
    monkeypatch.setattr("bmi.workflow.ports._PORT_PATIENCE_S", 0)
    object.__setattr__(world.tools, "boot_timeout_s", 0.1)
    made = world.ask("provision")
    engine = Engine(world.database, STEPS, OUTCOMES, world.tools, owner="w", threads=4)
    engine.run_until_idle(30)
    with world.database.read() as tx:
        from bmi.store import operations as journal

        operation = journal.operations.get(tx, made)
    assert operation.state is OperationState.FAILED
    assert "nobody has seen to it" in (operation.problem or {})["detail"]
    assert (operation.problem or {})["remedy"]
