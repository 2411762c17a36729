"""Who may stay logged in to a volume: its node, with its newest session."""

import pytest

from bmi.domain.nouns import ObjectState
from bmi.drivers.export import Portal
from bmi.store import records, schema
from bmi.workflow.guard import Guard
from bmi.workflow.targets import portal_of
from tests import rows
from tests.workflow.world import World

HOME, ELSEWHERE = "10.96.0.10", "10.96.0.77"
IQN = "iqn.2024-07.internal.bmi:volume-volume-7"


@pytest.fixture
def portal(world: World) -> Portal:
    """The portal of a network in which node-7, at HOME, has its volume."""
    with world.database.write() as tx:
        records.nodes.insert(tx, rows.node(id="node-7", name="n7"))
        records.nics.insert(tx, rows.nic(id="nic-7", node_id="node-7", mac="52:54:00:00:00:77", port="eth77"))
        tx.execute(schema.addresses.insert().values(nic_id="nic-7", network_id="network-1", ip=HOME))
        secret = world.tools.vault.seal("0123456789abcdef")
        records.volumes.insert(
            tx,
            rows.volume(
                id="volume-7",
                name="n7",
                node_id="node-7",
                state=ObjectState.READY,
                exported=True,
                chap_secret=secret,
            ),
        )
        made = portal_of(world.tools, records.networks.get(tx, "network-1"))
    world.export.crash(made)
    Guard(world.tools).look(uplinks=False)
    return made


def logged_in(world: World, portal: Portal) -> list[tuple[int, str]]:
    return [(session.number, session.address) for session in world.export.sessions(portal)]


def told(world: World) -> list[str]:
    with world.database.read() as tx:
        return [event.detail for event in records.events.list(tx, node_id="node-7")]


def test_a_node_that_starts_anew_takes_over_from_itself(world: World, portal: Portal) -> None:
    guard = Guard(world.tools)
    for number in range(1, 4):
        world.export.log_in(portal, IQN, address=HOME)
        guard.look(uplinks=False)
        assert logged_in(world, portal) == [(number, HOME)]
    assert told(world) == []


def test_nobody_else_stays_however_new(world: World, portal: Portal) -> None:
    guard = Guard(world.tools)
    world.export.log_in(portal, IQN, address=HOME)
    for _ in range(3):
        world.export.log_in(portal, IQN, address=ELSEWHERE)
        guard.look(uplinks=False)
        assert logged_in(world, portal) == [(1, HOME)]
    assert told(world) == [f"ended: {ELSEWHERE} logged in to the volume and is not this node"]


def test_the_machine_of_the_portal_itself_may_look(world: World, portal: Portal) -> None:
    world.export.log_in(portal, IQN, address=HOME)
    world.export.log_in(portal, IQN, address=portal.address)
    Guard(world.tools).look(uplinks=False)
    assert [address for _, address in logged_in(world, portal)] == [portal.address, HOME]
    assert told(world) == []
