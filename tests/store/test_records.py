"""The gateways, and what each rule of the schema says when it is broken."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from bmi.domain.nouns import NodeState, Role
from bmi.errors import AlreadyExistsError, BmiError, ConflictError, InUseError, NotFoundError
from bmi.store import records, schema
from bmi.store.database import Database
from bmi.store.records import Gateway
from tests import rows


def fill(tx: Connection) -> None:
    """One record of every kind."""
    records.projects.insert(tx, rows.project())
    records.tokens.insert(tx, rows.token())
    records.networks.insert(tx, rows.network())
    records.switches.insert(tx, rows.switch())
    records.nodes.insert(tx, rows.node())
    records.nics.insert(tx, rows.nic())
    records.images.insert(tx, rows.image())
    records.images.insert(tx, rows.image(id="image-2", name="site", project_id=None))
    records.snapshots.insert(tx, rows.snapshot())
    records.volumes.insert(tx, rows.volume())
    records.boot_sessions.insert(tx, rows.boot_session())
    tx.execute(schema.addresses.insert().values(nic_id="nic-1", network_id="network-1", ip="10.96.0.10"))


EVERYTHING: list[tuple[Gateway[Any], Any]] = [
    (records.projects, rows.project()),
    (records.tokens, rows.token()),
    (records.networks, rows.network()),
    (records.switches, rows.switch()),
    (records.nodes, rows.node(problem={"title": "Busy"})),
    (records.nics, rows.nic()),
    (records.images, rows.image(boot={"kernel": "vmlinuz", "options": ["ro"]})),
    (records.snapshots, rows.snapshot()),
    (records.volumes, rows.volume(seed={"hostname": "n1"})),
    (records.boot_sessions, rows.boot_session()),
]


def test_what_is_written_is_read_again(database: Database) -> None:
    with database.write() as tx:
        for gateway, record in EVERYTHING:
            gateway.insert(tx, record)
    with database.read() as tx:
        for gateway, record in EVERYTHING:
            assert gateway.get(tx, record.id) == record
            assert gateway.list(tx) == [record]


def test_get_raises_and_find_returns_none_when_there_is_nothing(database: Database) -> None:
    with database.read() as tx:
        assert records.nodes.find(tx, name="n1") is None
        with pytest.raises(NotFoundError, match="no node 'node-9'"):
            records.nodes.get(tx, "node-9")
        with pytest.raises(NotFoundError):
            records.boot_nic(tx, "node-9")


def test_lists_are_filtered_ordered_and_cut(database: Database) -> None:
    with database.write() as tx:
        for number, name in enumerate(["c", "a", "b"]):
            records.nodes.insert(tx, rows.node(id=f"node-{number}", name=name))
        records.nodes.insert(tx, rows.node(id="node-9", name="z", state=NodeState.ACTIVE))

        def names(**how: Any) -> list[str]:
            return [node.name for node in records.nodes.list(tx, state=NodeState.FREE, **how)]

        assert names() == ["c", "a", "b"]
        assert names(order="name") == ["a", "b", "c"]
        assert names(order="name", newest_first=True, limit=2) == ["c", "b"]
        behind = records.nodes.list(tx, schema.nodes.c.name > "b", order="name")
        assert [node.name for node in behind] == ["c", "z"]


def test_update_and_delete_tell_how_many(database: Database) -> None:
    with database.write() as tx:
        records.nodes.insert(tx, rows.node())
        assert records.nodes.update(tx, id="node-1", values={"state": NodeState.ERROR}) == 1
        assert records.nodes.get(tx, "node-1").state is NodeState.ERROR
        assert records.nodes.update(tx, id="node-9", values={"state": NodeState.FREE}) == 0
        assert records.nodes.delete(tx, id="node-1") == 1
        assert records.nodes.delete(tx, id="node-1") == 0


def test_a_node_boots_from_one_of_its_nics(database: Database) -> None:
    with database.write() as tx:
        records.switches.insert(tx, rows.switch())
        records.nodes.insert(tx, rows.node())
        records.nics.insert(tx, rows.nic(id="nic-2", name="a1", mac="52:54:00:00:00:02", port="eth2"))
        records.nics.insert(tx, rows.nic())
        assert records.boot_nic(tx, "node-1").id == "nic-1"


def test_the_addresses_of_a_network_are_its_own(database: Database) -> None:
    with database.write() as tx:
        fill(tx)
        assert records.addresses_in(tx, "network-1") == ["10.96.0.10"]
        assert records.addresses_in(tx, "network-2") == []


_OTHER = rows.network(
    id="x", name="x", project_id="project-2", vlan=101, address="10.96.1.1/24", netns="bmi-101"
)
TAKEN: list[tuple[Gateway[Any], Any, str]] = [
    (records.projects, rows.project(id="x"), "A project of this name"),
    (records.tokens, rows.token(id="x"), "A token of this name"),
    (
        records.networks,
        replace(_OTHER, name="physics", project_id="project-1", boot=False),
        "A network of this name",
    ),
    (records.networks, replace(_OTHER, vlan=100), "Another network has this VLAN"),
    (records.networks, replace(_OTHER, address="10.96.0.1/24"), "Another network has this address range"),
    (records.networks, replace(_OTHER, netns="bmi-100"), "Another network has this network namespace"),
    (records.networks, replace(_OTHER, project_id="project-1"), "The project has a network already"),
    (records.switches, rows.switch(id="x"), "A switch of this name"),
    (records.nodes, rows.node(id="x"), "A node of this name"),
    (records.nics, rows.nic(id="x", name="x", port="x"), "mac: another node"),
    (records.nics, rows.nic(id="x", name="x", mac="52:54:00:00:00:02"), "port: another node is cabled"),
    (records.nics, rows.nic(id="x", mac="52:54:00:00:00:02", port="x"), "The node has a NIC of this name"),
    (records.images, rows.image(id="x"), "This version of the image"),
    (records.images, rows.image(id="x", name="site", project_id=None), "This version of the image"),
    (records.snapshots, rows.snapshot(id="x"), "A snapshot of this name"),
    (records.volumes, rows.volume(id="x", node_id=None), "A volume of this name"),
    (records.volumes, rows.volume(id="x", name="x"), "The node has a volume"),
    (records.boot_sessions, rows.boot_session(id="x"), "The node has a live boot"),
]


@pytest.mark.parametrize(("gateway", "record", "sentence"), TAKEN, ids=[case[2] for case in TAKEN])
def test_what_is_taken_is_refused_in_words(
    database: Database, gateway: Gateway[Any], record: Any, sentence: str
) -> None:
    with database.write() as tx:
        fill(tx)
    with pytest.raises(AlreadyExistsError, match=sentence), database.write() as tx:
        gateway.insert(tx, record)


def test_what_a_person_typed_is_not_taken_for_the_name_of_a_rule(database: Database) -> None:
    record = rows.image(name="projects.name")
    with database.write() as tx:
        fill(tx)
        records.images.insert(tx, replace(record, id="x"))
    with pytest.raises(AlreadyExistsError, match="This version of the image"), database.write() as tx:
        records.images.insert(tx, replace(record, id="y"))


def test_the_same_name_in_another_place_is_another_thing(database: Database) -> None:
    with database.write() as tx:
        fill(tx)
        records.projects.insert(tx, rows.project(id="project-2", name="chemistry"))
        records.images.insert(tx, rows.image(id="a", project_id="project-2"))
        records.images.insert(tx, rows.image(id="b", project_id=None))
        records.snapshots.insert(tx, rows.snapshot(id="a", project_id="project-2"))
        # NICs that BMI knows no port of do not stand in each other's way.
        records.nodes.insert(tx, rows.node(id="node-2", name="n2"))
        records.nics.insert(
            tx, rows.nic(id="a", name="a", mac="52:54:00:00:00:0a", switch_id=None, port=None)
        )
        records.nics.insert(
            tx, rows.nic(id="b", name="b", mac="52:54:00:00:00:0b", switch_id=None, port=None)
        )
        # A boot that has ended makes room for the next.
        records.boot_sessions.update(tx, id="boot-1", values={"ended_at": rows.NOW})
        records.boot_sessions.insert(tx, rows.boot_session(id="boot-2"))


@pytest.mark.parametrize(
    ("gateway", "record"),
    [
        (records.networks, rows.network(vlan=1)),
        (records.networks, rows.network(vlan=4095)),
        (records.nics, rows.nic(port=None)),
        (records.nics, rows.nic(switch_id=None)),
        (records.tokens, rows.token(role=Role.ADMIN)),
        (records.tokens, rows.token(project_id=None)),
    ],
    ids=[
        "VLAN 1",
        "VLAN 4095",
        "a switch without port",
        "a port without switch",
        "an admin of a project",
        "a member of none",
    ],
)
def test_what_must_never_be_is_refused_by_the_database(
    database: Database, gateway: Gateway[Any], record: Any
) -> None:
    with database.write() as tx:
        records.projects.insert(tx, rows.project())
    with pytest.raises(IntegrityError), database.write() as tx:
        gateway.insert(tx, record)


@pytest.mark.parametrize(
    ("gateway", "record_id"),
    [
        (records.projects, "project-1"),
        (records.networks, "network-1"),
        (records.switches, "switch-1"),
        (records.nodes, "node-1"),
        (records.images, "image-1"),
    ],
)
def test_what_is_in_use_stays(database: Database, gateway: Gateway[Any], record_id: str) -> None:
    with database.write() as tx:
        fill(tx)
    with pytest.raises(InUseError, match="still refers"), database.write() as tx:
        gateway.delete(tx, id=record_id)
    with database.read() as tx:
        gateway.get(tx, record_id)


def test_a_node_takes_what_is_only_its_own_along(database: Database) -> None:
    with database.write() as tx:
        fill(tx)
        records.volumes.delete(tx, id="volume-1")
        records.nodes.delete(tx, id="node-1")
        assert records.nics.list(tx) == []
        assert records.boot_sessions.list(tx) == []
        assert records.addresses_in(tx, "network-1") == []


@pytest.mark.parametrize(
    ("gateway", "record"),
    [(records.nodes, rows.node(project_id="gone")), (records.images, rows.image(project_id="gone"))],
    ids=["node", "image"],
)
def test_what_is_needed_must_be_there(database: Database, gateway: Gateway[Any], record: Any) -> None:
    with pytest.raises(BmiError, match="has just been removed") as refused, database.write() as tx:
        gateway.insert(tx, record)
    assert type(refused.value) is ConflictError
