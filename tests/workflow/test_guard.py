"""The guard brings back what the database says, and nothing else."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from bmi.domain.nouns import Actor, Network, ObjectState, Role
from bmi.domain.plans import CLOSE_NETWORK
from bmi.drivers import netns
from bmi.drivers.export import Portal, Target, tgt
from bmi.drivers.export.fake import FakeExport
from bmi.drivers.faults import FakeWorld
from bmi.drivers.storage import Ref
from bmi.drivers.uplink import Foot, ovs
from bmi.drivers.uplink.fake import FakeUplink
from bmi.errors import DriverError, TimedOutError
from bmi.store import operations as journal
from bmi.store import records
from bmi.workflow.guard import Guard
from bmi.workflow.steps.networks import foot_of
from bmi.workflow.targets import portal_of
from bmi.workflow.tools import Tools
from tests import rows
from tests.drivers.export import iscsi
from tests.wires import switch_yard, unique
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
                name=f"n{number}",
                node_id=f"node-{number}",
                state=ObjectState.READY,
                exported=exported,
                chap_secret=world.tools.vault.seal("0123456789abcdef"),
            ),
        )
    return IQN.format(f"volume-{number}")


def add_network(world: World) -> Network:
    """Another project's network."""
    network = rows.network(id="network-2", name="chemistry", project_id="project-2", vlan=101)
    network = replace(network, address="10.96.1.1/24", netns="bmi-101")
    with world.database.write() as tx:
        records.projects.insert(tx, rows.project(id="project-2", name="chemistry"))
        return records.networks.insert(tx, network)


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
    theirs = add_network(world)
    with world.database.write() as tx:
        add = rows.volume(id="volume-9", node_id="node-1", network_id="network-2", exported=True)
        records.volumes.insert(tx, add)
    crash_portal(world)

    Guard(world.tools).look(uplinks=True)

    assert exported(world) == [ours]
    assert list(world.export.list(portal_of(world.tools, theirs))) == [IQN.format("volume-9")]
    assert world.uplink.list() == ["bmi-100", "bmi-101"]


@pytest.mark.parametrize("uplinks", [True, False])
def test_a_lost_foot_is_put_back_when_feet_are_looked_at(world: World, uplinks: bool) -> None:
    guard = Guard(world.tools)
    guard.look(uplinks=True)
    world.uplink.remove("bmi-100")
    guard.look(uplinks=uplinks)
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


def test_what_is_unexported_while_the_guard_exports_it_does_not_stay(world: World) -> None:
    crash_portal(world)
    export = _LossyExport(world.export.world)

    def exported_late() -> None:
        add_node(world, 2, exported=True)

    def unexported_again() -> None:
        with world.database.write() as tx:
            records.volumes.update(tx, id="volume-2", values={"exported": False})

    export.meanwhile, export.before_ensure = exported_late, unexported_again
    Guard(replace(world.tools, export=export)).look(uplinks=False)

    assert exported(world) == []


def test_a_network_that_is_closed_while_its_portal_comes_back_stays_closed(world: World) -> None:
    crash_portal(world)

    def meanwhile() -> None:
        with world.database.write() as tx:
            records.networks.update(tx, id="network-1", values={"state": ObjectState.DELETING})

    Guard(_with_slow_export(world, meanwhile)).look(uplinks=False)

    assert world.export.world.read("portals") == {}


class _EventfulUplink(FakeUplink):
    """Something happens when a foot is made, before or after it."""

    def __init__(self, faked: FakeWorld, before: Callable[[], None], after: Callable[[], None]) -> None:
        super().__init__(faked)
        self._before, self._after = before, after

    def list(self) -> Sequence[str]:
        listed = super().list()
        self._before()
        return listed

    def ensure(self, foot: Foot) -> None:
        super().ensure(foot)
        self._after()


@pytest.mark.parametrize("moment", ["before the foot is made", "while the foot is made"])
def test_a_foot_in_a_network_that_is_closed_meanwhile_does_not_stay(world: World, moment: str) -> None:
    world.uplink.reboot()
    crash_portal(world)

    def nothing() -> None: ...

    def close() -> None:
        with world.database.write() as tx:
            records.networks.update(tx, id="network-1", values={"state": ObjectState.DELETING})

    events = (close, nothing) if moment == "before the foot is made" else (nothing, close)
    uplink = _EventfulUplink(world.uplink.world, *events)
    Guard(replace(world.tools, uplink=uplink)).look(uplinks=True)

    assert world.uplink.list() == []
    assert world.export.world.read("portals") == {}


def test_a_network_that_is_closed_while_its_portal_comes_back_loses_its_foot(world: World) -> None:
    """The closing operation had removed it, and the guard had put it back."""
    crash_portal(world)
    world.uplink.reboot()

    def meanwhile() -> None:
        with world.database.write() as tx:
            records.networks.update(tx, id="network-1", values={"state": ObjectState.DELETING})

    Guard(_with_slow_export(world, meanwhile)).look(uplinks=True)

    assert world.uplink.list() == []


def test_feet_are_looked_at_again_when_a_portal_gets_into_trouble(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    guard = Guard(world.tools)
    guard.look(uplinks=True)
    world.uplink.reboot()
    world.export.world.set_fault("ensure_portal", error="There is no such namespace.", times=1)
    guard.look(uplinks=False)
    guard.look(uplinks=False)
    assert world.uplink.list() == ["bmi-100"]
    assert "The foot in network physics was gone and is back" in caplog.messages


class _LossyExport(FakeExport):
    """A portal that comes back without the volumes whose files are gone, as tgt does."""

    lost: frozenset[str] = frozenset()
    meanwhile: Callable[[], None] = staticmethod(lambda: None)
    before_ensure: Callable[[], None] = staticmethod(lambda: None)

    def ensure_portal(self, portal: Portal, targets: Sequence[Target]) -> bool:
        there = [target for target in targets if target.iqn not in self.lost]
        started = super().ensure_portal(portal, there)
        self.meanwhile()
        if started and len(there) < len(targets):
            raise DriverError("The portal serves again, but a volume is not exported.")
        return started

    def ensure(self, portal: Portal, target: Target) -> None:
        self.before_ensure()
        if target.iqn in self.lost:
            raise DriverError("The volume's file is not there.")
        super().ensure(portal, target)


def test_a_lost_volume_keeps_nothing_else_from_being_right(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    lost, gone = (add_node(world, number, exported=True) for number in (2, 3))
    late = add_node(world, 4, exported=False)
    crash_portal(world)

    def meanwhile() -> None:
        with world.database.write() as tx:
            records.volumes.update(tx, id="volume-3", values={"exported": False})
            records.volumes.update(tx, id="volume-4", values={"exported": True})

    export = _LossyExport(world.export.world)
    export.lost, export.meanwhile = frozenset({lost}), meanwhile
    guard = Guard(replace(world.tools, export=export))
    for _ in range(3):
        guard.look(uplinks=False)

    assert gone not in exported(world)
    assert exported(world) == [late]
    assert caplog.messages == [
        "Network physics: The portal serves again, but a volume is not exported.",
        "Network physics: The volume's file is not there.",
    ]

    export.lost = frozenset()  # the store is mounted at last
    guard.look(uplinks=False)
    assert exported(world) == [lost, late]


class _HungExport(FakeExport):
    """The exporter of network-1 hangs until its portal is removed."""

    hangs = True
    ended = 0

    def ensure_portal(self, portal: Portal, targets: Sequence[Target]) -> bool:
        if self.hangs and portal.name == "network-1":
            raise TimedOutError("tgtd did not answer.")
        return super().ensure_portal(portal, targets)

    def remove_portal(self, portal: Portal) -> None:
        super().remove_portal(portal)
        self.hangs = False
        self.ended += 1


def test_an_exporter_that_hangs_is_replaced_after_three_time_outs(world: World) -> None:
    wanted = add_node(world, 2, exported=True)
    export = _HungExport(world.export.world)
    guard = Guard(replace(world.tools, export=export))
    for _ in range(2):
        guard.look(uplinks=False)
    assert export.ended == 0
    for _ in range(2):
        guard.look(uplinks=False)
    assert export.ended == 1
    assert exported(world) == [wanted]


def test_time_outs_that_are_not_in_a_row_end_nothing(world: World) -> None:
    export = _HungExport(world.export.world)
    guard = Guard(replace(world.tools, export=export))
    for hangs in (True, True, False, True, True):
        export.hangs = hangs
        guard.look(uplinks=False)
    assert export.ended == 0


class _WaitingExport(FakeExport):
    """Network-1 gets its answer when network-2 has had its own."""

    def __init__(self, faked: FakeWorld) -> None:
        super().__init__(faked)
        self.other_served = threading.Event()
        self.asked: list[str] = []

    def ensure_portal(self, portal: Portal, targets: Sequence[Target]) -> bool:
        self.asked.append(portal.name)
        if portal.name == "network-1" and not self.other_served.wait(timeout=10):
            raise TimedOutError("Nobody else got a turn.")
        self.other_served.set()
        return super().ensure_portal(portal, targets)


def test_networks_do_not_wait_for_each_other(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.uplink.ensure(foot_of(add_network(world)))
    Guard(replace(world.tools, export=_WaitingExport(world.export.world))).look(uplinks=False)
    assert caplog.messages == ["The portal of network chemistry was down; 0 targets are back"]


def test_a_round_ends_without_those_that_take_long_and_asks_them_once(world: World) -> None:
    export = _WaitingExport(world.export.world)
    guard = Guard(replace(world.tools, export=export))
    for _ in range(3):
        guard.look(uplinks=False, patience_s=0.01)
    assert export.asked == ["network-1"]
    export.other_served.set()
    guard.look(uplinks=False)


@pytest.fixture
def real_world(world: World) -> Iterator[tuple[World, tgt.TgtExport]]:
    """Network-1 with a real foot, a real portal and one real target."""
    foot = unique("foot")
    with world.database.write() as tx:
        records.networks.update(tx, id="network-1", values={"netns": foot})
    add_node(world, 2, exported=True)
    world.storage.clone(Ref("image", "image-1"), "volume-2")
    os.truncate(world.storage.backing("volume-2").location, iscsi.SIZE_BYTES)
    export = tgt.create(run_dir=str(world.root / "run"), timeout_s=0.5)
    with switch_yard() as yard:
        uplink = ovs.create(bridge=yard.bridge, db=yard.db, netns=yard.netns)
        network = network_of(world)
        world.tools = replace(world.tools, export=export, uplink=uplink)
        uplink.ensure(foot_of(network))
        try:
            yield world, export
        finally:
            export.remove_portal(portal_of(world.tools, network))
            uplink.remove(foot)


@pytest.mark.real
def test_all_is_back_after_a_reboot(real_world: tuple[World, tgt.TgtExport]) -> None:
    world, export = real_world
    portal = portal_of(world.tools, network_of(world))
    Guard(world.tools).look(uplinks=True)
    assert export.list(portal) == [IQN.format("volume-2")]

    iscsi.kill(export, portal)
    netns.remove(network_of(world).netns)  # the switch's database still knows the port
    guard = Guard(world.tools)
    for _ in range(2):
        guard.look(uplinks=True)

    assert world.tools.uplink.list() == [network_of(world).netns]
    assert iscsi.Client(portal).discover("iqn.2024-07.internal.bmi:node-node-2") == [IQN.format("volume-2")]


@pytest.mark.real
def test_a_tgtd_that_was_stopped_is_replaced(real_world: tuple[World, tgt.TgtExport]) -> None:
    world, export = real_world
    portal = portal_of(world.tools, network_of(world))
    guard = Guard(world.tools)
    guard.look(uplinks=True)
    hung = iscsi.pid_of(export, portal)
    os.kill(hung, signal.SIGSTOP)
    for _ in range(4):
        guard.look(uplinks=False)
    assert iscsi.pid_of(export, portal) != hung
    assert export.list(portal) == [IQN.format("volume-2")]
