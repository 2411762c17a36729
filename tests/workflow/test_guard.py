"""The guard brings back what the database says, and nothing else."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from bmi.domain.nouns import Actor, Network, ObjectState, Role
from bmi.domain.plans import CLOSE_NETWORK
from bmi.drivers.export import Portal, Target
from bmi.drivers.export.fake import FakeExport
from bmi.drivers.faults import FakeWorld
from bmi.store import operations as journal
from bmi.store import records
from bmi.workflow.guard import Guard
from bmi.workflow.targets import portal_of
from bmi.workflow.tools import Tools
from tests import rows
from tests.workflow.world import World

IQN = "iqn.2024-07.internal.bmi:volume-{}"


def network_of(world: World) -> Network:
    with world.database.read() as tx:
        return records.networks.get(tx, "network-1")


def add_node(world: World, number: int, *, exported: bool) -> str:
    """Another node with a volume; returns the volume's IQN."""
    with world.database.write() as tx:
        records.nodes.insert(tx, rows.node(id=f"node-{number}", name=f"n{number}"))
        records.volumes.insert(
            tx,
            rows.volume(
                id=f"volume-{number}",
                node_id=f"node-{number}",
                state=ObjectState.READY,
                exported=exported,
                chap_secret=world.tools.vault.seal("0123456789abcdef"),
            ),
        )
    return IQN.format(f"volume-{number}")


def exported(world: World) -> list[str]:
    return list(world.export.list(portal_of(world.tools, network_of(world))))


def crash_portal(world: World) -> None:
    world.export.crash(portal_of(world.tools, network_of(world)))


def test_a_portal_that_died_is_back_with_exactly_what_should_be_exported(world: World) -> None:
    wanted = [add_node(world, number, exported=True) for number in (2, 3)]
    add_node(world, 4, exported=False)
    crash_portal(world)

    Guard(world.tools).look(uplinks=False)

    portal = portal_of(world.tools, network_of(world))
    assert exported(world) == wanted
    assert world.export.targets(portal)[wanted[0]]["initiator"] == "iqn.2024-07.internal.bmi:node-node-2"


def test_a_portal_that_serves_is_left_alone(world: World, caplog: pytest.LogCaptureFixture) -> None:
    add_node(world, 2, exported=True)  # a step is about to export it, and will

    Guard(world.tools).look(uplinks=True)

    assert exported(world) == []
    assert caplog.messages == []


def test_each_network_gets_its_own_volumes_only(world: World) -> None:
    ours = add_node(world, 2, exported=True)
    with world.database.write() as tx:
        records.projects.insert(tx, rows.project(id="project-2", name="chemistry"))
        theirs = rows.network(id="network-2", name="chemistry", project_id="project-2", vlan=101)
        theirs = replace(theirs, address="10.96.1.1/24", netns="bmi-101")
        records.networks.insert(tx, theirs)
        add = rows.volume(id="volume-9", node_id="node-1", network_id="network-2", exported=True)
        records.volumes.insert(tx, add)
    crash_portal(world)

    Guard(world.tools).look(uplinks=True)

    assert exported(world) == [ours]
    assert list(world.export.list(portal_of(world.tools, theirs))) == [IQN.format("volume-9")]
    assert world.uplink.list() == ["bmi-100", "bmi-101"]


@pytest.mark.parametrize("uplinks", [True, False])
def test_a_lost_foot_is_put_back_when_feet_are_looked_at(world: World, uplinks: bool) -> None:
    world.uplink.remove("bmi-100")
    Guard(world.tools).look(uplinks=uplinks)
    assert world.uplink.list() == (["bmi-100"] if uplinks else [])


def test_a_network_under_a_live_operation_is_left_alone(world: World) -> None:
    crash_portal(world)
    world.uplink.remove("bmi-100")
    with world.database.write() as tx:
        journal.enqueue(
            tx,
            CLOSE_NETWORK,
            now=world.database.now(),
            actor=Actor("admin", Role.ADMIN, None),
            subject=("network", "network-1", "physics"),
            project_id=None,
            args={},
        )

    Guard(world.tools).look(uplinks=True)

    assert world.uplink.list() == []
    assert world.export.world.read("portals") == {}


@pytest.mark.parametrize("state", [s for s in ObjectState if s is not ObjectState.READY])
def test_a_network_that_is_not_ready_is_left_alone(world: World, state: ObjectState) -> None:
    crash_portal(world)
    with world.database.write() as tx:
        records.networks.update(tx, id="network-1", values={"state": state})

    Guard(world.tools).look(uplinks=True)

    assert world.export.world.read("portals") == {}


def test_trouble_and_its_end_are_said_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    guard = Guard(world.tools)
    crash_portal(world)
    world.export.world.set_fault("ensure_portal", error="The exporter is not installed.")
    for _ in range(3):
        guard.look(uplinks=False)
    world.export.world.set_fault("ensure_portal")
    for _ in range(3):
        guard.look(uplinks=False)

    assert caplog.messages == [
        "Network physics: The exporter is not installed.",
        "The portal of network physics was down; 0 targets are back",
        "Network physics: well again",
    ]


def test_an_uplink_that_does_not_tell_keeps_no_portal_down(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = add_node(world, 2, exported=True)
    crash_portal(world)
    world.uplink.world.set_fault("list", error="The switch database is away.")
    guard = Guard(world.tools)
    guard.look(uplinks=True)
    guard.look(uplinks=True)

    assert exported(world) == [wanted]
    assert caplog.messages.count("Uplinks: The switch database is away.") == 1


class _SlowExport(FakeExport):
    """Things happen while the portal comes back."""

    def __init__(self, faked: FakeWorld, meanwhile: Callable[[], None]) -> None:
        super().__init__(faked)
        self._meanwhile = meanwhile

    def ensure_portal(self, portal: Portal, targets: Sequence[Target]) -> bool:
        self._meanwhile()
        return super().ensure_portal(portal, targets)


def _with_slow_export(world: World, meanwhile: Callable[[], None]) -> Tools:
    return replace(world.tools, export=_SlowExport(world.export.world, meanwhile))


def test_what_is_unexported_while_the_portal_comes_back_stays_so(world: World) -> None:
    gone, stays = (add_node(world, number, exported=True) for number in (2, 3))
    late = add_node(world, 4, exported=False)
    crash_portal(world)

    def meanwhile() -> None:
        with world.database.write() as tx:
            records.volumes.update(tx, id="volume-2", values={"exported": False})
            records.volumes.update(tx, id="volume-4", values={"exported": True})

    Guard(_with_slow_export(world, meanwhile)).look(uplinks=False)

    assert gone not in exported(world)
    assert exported(world) == [stays, late]


def test_a_network_that_is_closed_while_its_portal_comes_back_stays_closed(world: World) -> None:
    crash_portal(world)

    def meanwhile() -> None:
        with world.database.write() as tx:
            records.networks.update(tx, id="network-1", values={"state": ObjectState.DELETING})

    Guard(_with_slow_export(world, meanwhile)).look(uplinks=False)

    assert world.export.world.read("portals") == {}
