"""Switches, ports and cables: who may, what is refused, and what follows."""

import pytest

from bmi.domain.nouns import Actor, NodeState
from bmi.domain.operations import OperationState
from bmi.drivers.switch import CLOSED
from bmi.errors import (
    AlreadyExistsError,
    BmiError,
    ForbiddenError,
    InUseError,
    InvalidInputError,
    InvalidStateError,
    NotFoundError,
)
from bmi.service import allocation, networks, nodes, projects, switches
from bmi.service.switches import Cable
from bmi.store import ports as ports_of
from bmi.store import records
from tests.installation import SITE, Site

MAC = "52:54:00:00:aa:01"


@pytest.fixture
def cabled(site: Site) -> Site:
    """The nodes n1 and n2, not cabled yet, and two switches."""
    with site.database.read() as tx:
        known = {switch.name for switch in records.switches.list(tx)}
    for name in {"sw1", "sw2"} - known:
        site.add_switch(name)
    site.add_nodes("bare1", "bare2")
    return site


def ports(site: Site, switch: str = "sw2") -> dict[str, str | None]:
    found = switches.list_ports(site.core, SITE, switch)
    return {view.port.name: view.node and f"{view.node}/{view.nic}" for view in found}


def test_ports_and_cables_are_taken_down_in_bulk_and_closed(cabled: Site) -> None:
    said = [
        Cable("sw2", "p1", "bare1"),
        Cable("sw2", "p2", "bare2"),
        Cable("sw2", "p3", "bare2", "data", MAC),
        Cable("sw2", "p4"),
    ]
    for _ in range(2):
        assert switches.cable(cabled.core, SITE, said) == 4
        assert ports(cabled) == {"p1": "bare1/boot", "p2": "bare2/boot", "p3": "bare2/data", "p4": None}
    with cabled.keeping():
        _until_settled(cabled)
    assert {cabled.switch.list()[port] for port in ("p1", "p2", "p3", "p4")} == {CLOSED}


def _until_settled(site: Site) -> None:
    import time

    deadline = time.monotonic() + 20
    while not all(
        view.port.applied_revision == view.port.revision
        for view in switches.list_ports(site.core, SITE, "sw2")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_nic_moves_to_another_port_and_the_old_one_is_closed(cabled: Site) -> None:
    switches.cable(cabled.core, SITE, [Cable("sw2", "p1", "bare1")])
    with cabled.keeping():
        _until_settled(cabled)
    switches.cable(cabled.core, SITE, [Cable("sw2", "p2", "bare1")])
    assert ports(cabled) == {"p1": None, "p2": "bare1/boot"}
    with cabled.keeping():
        _until_settled(cabled)


def test_a_nic_whose_port_is_perhaps_still_open_is_moved_by_force_only(cabled: Site) -> None:
    """Its node would be in the pool, and the port forgotten on the network of the project before."""
    switches.cable(cabled.core, SITE, [Cable("sw2", "p1", "bare1")])
    with pytest.raises(InvalidStateError, match="not yet closed") as caught:
        switches.cable(cabled.core, SITE, [Cable("sw2", "p2", "bare1")])
    assert "--force" in caught.value.remedy
    switches.cable(cabled.core, SITE, [Cable("sw2", "p2", "bare1")], force=True)
    assert ports(cabled) == {"p1": None, "p2": "bare1/boot"}


def test_a_switch_with_a_port_that_is_perhaps_still_open_is_removed_by_force_only(cabled: Site) -> None:
    switches.cable(cabled.core, SITE, [Cable("sw2", "p1")])
    with pytest.raises(InUseError, match="p1") as caught:
        switches.remove_switch(cabled.core, SITE, "sw2")
    assert "--force" in caught.value.remedy
    switches.remove_switch(cabled.core, SITE, "sw2", force=True)
    with pytest.raises(NotFoundError):
        switches.get_switch(cabled.core, SITE, "sw2")


def test_nodes_that_are_cabled_to_a_switch_keep_it_unless_its_hardware_is_gone(cabled: Site) -> None:
    """A node that its project frees waits for its port; without a switch, there is none to wait for."""
    switches.cable(cabled.core, SITE, [Cable("sw2", "p1", "bare1"), Cable("sw2", "p2", "bare2")])
    with cabled.keeping():
        _until_settled(cabled)
    cabled.give("red", "bare1")
    cabled.give(None, "bare2")
    switches.cable(cabled.core, SITE, [Cable("sw2", "p3", "bare2")])
    _leave_open(cabled, "p1", 100)
    begun = allocation.free_node(cabled.core, SITE, "bare1").operation
    cabled.engine.claim_and_advance()
    with pytest.raises(InUseError, match="p1, p3") as caught:
        switches.remove_switch(cabled.core, SITE, "sw2")
    assert "--force" in caught.value.remedy
    switches.remove_switch(cabled.core, SITE, "sw2", force=True)
    cabled.settle()
    assert cabled.operation(begun.id).state is OperationState.SUCCEEDED
    shown = {view.node.name: view for view in nodes.list_nodes(cabled.core, SITE)}
    assert {shown[name].node.state for name in ("bare1", "bare2")} == {NodeState.FREE}
    with cabled.database.read() as tx:
        assert {nic.port for nic in records.nics.list(tx)} == {None}


def test_a_node_in_use_is_not_cut_off_with_its_switch(cabled: Site) -> None:
    switches.cable(cabled.core, SITE, [Cable("sw2", "p1", "bare1")])
    with cabled.keeping():
        _until_settled(cabled)
    cabled.provision("bare1", "red")
    before = cabled.everything()
    with pytest.raises(InvalidStateError, match="in use") as caught:
        switches.remove_switch(cabled.core, SITE, "sw2", force=True)
    assert "bmi release bare1" in caught.value.remedy
    assert cabled.everything() == before


def _leave_open(site: Site, port: str, vlan: int) -> None:
    """The port was last seen on this VLAN, and its switch is away."""
    with site.database.write() as tx:
        found = records.ports.find(tx, name=port)
        assert found is not None
        records.ports.update(tx, id=found.id, values={"applied": {"native": vlan, "tagged": [vlan + 1]}})
        ports_of.make_due(tx, [found.id], site.core.now())


def test_a_vlan_that_a_port_may_still_be_on_is_given_to_nobody(cabled: Site) -> None:
    """Its node was cabled elsewhere by force, and its project is gone: what is at the port would be in the next one's."""
    switches.cable(cabled.core, SITE, [Cable("sw2", "p1")])
    lowest = networks.create_network(cabled.core, SITE, "first").network.vlan
    _leave_open(cabled, "p1", lowest + 1)
    for make in (networks.create_network, projects.create_project):
        with pytest.raises(InUseError, match=f"VLAN {lowest + 2}"):
            make(cabled.core, SITE, "second", vlan=lowest + 2)
    assert networks.create_network(cabled.core, SITE, "second").network.vlan == lowest + 3
    with cabled.keeping():
        _until_settled(cabled)
    assert networks.create_network(cabled.core, SITE, "third").network.vlan == lowest + 1


@pytest.mark.parametrize(
    "cable", [Cable("sw2", "p1", "bare1"), Cable("sw2", "p1", "bare1", "data", MAC)], ids=["boot", "data"]
)
def test_a_node_that_is_in_use_is_not_cabled(cabled: Site, cable: Cable) -> None:
    """A port that BMI begins to manage is closed: the node would lose its disk."""
    cabled.provision("bare1", "red")
    before = cabled.everything()
    with pytest.raises(InvalidStateError, match="in use") as caught:
        switches.cable(cabled.core, SITE, [cable])
    assert "bmi release bare1" in caught.value.remedy
    assert cabled.everything() == before


@pytest.mark.parametrize("name", ["password", "Secret", "enable_password", "token"])
def test_no_secret_becomes_an_option(cabled: Site, name: str) -> None:
    before, options = cabled.everything(), {name: "calvin"}
    with pytest.raises(InvalidInputError, match=f"options.*{name}") as caught:
        switches.register_switch(cabled.core, SITE, "sw3", driver="fake", options=options)
    assert "calvin" not in str(caught.value)
    assert "_file" in caught.value.remedy
    with pytest.raises(InvalidInputError, match=f"options.*{name}"):
        switches.change_switch(cabled.core, SITE, "sw2", options=options)
    assert cabled.everything() == before


def test_a_switch_that_was_replaced_is_told_of_and_gets_its_ports_anew(cabled: Site) -> None:
    switches.cable(cabled.core, SITE, [Cable("sw2", "p1", "bare1")])
    with cabled.keeping():
        _until_settled(cabled)
    switches.change_switch(cabled.core, SITE, "sw2", options={"host": "192.0.2.1", "fingerprint": "old"})
    changed = switches.change_switch(cabled.core, SITE, "sw2", options={"fingerprint": "new", "host": None})
    assert changed.options == {"fingerprint": "new"}
    assert switches.get_switch(cabled.core, SITE, "sw2") == changed
    [shown] = switches.list_ports(cabled.core, SITE, "sw2")
    assert shown.port.applied_revision < shown.port.revision


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (Cable("nowhere", "p1"), NotFoundError),
        (Cable("sw2", " "), InvalidInputError),
        (Cable("sw2", "p2", "nobody"), NotFoundError),
        (Cable("sw2", "p2", "bare2", "data"), NotFoundError),
        (Cable("sw2", "p2", "bare2", "data", "no-mac"), InvalidInputError),
        (Cable("sw2", "p1", "bare2"), AlreadyExistsError),
    ],
    ids=str,
)
def test_one_wrong_line_and_nothing_is_taken_down(cabled: Site, wrong: Cable, error: type[BmiError]) -> None:
    before = cabled.everything()
    with pytest.raises(error, match="Cable 2") as caught:
        switches.cable(cabled.core, SITE, [Cable("sw2", "p1", "bare1"), wrong])
    assert caught.value.remedy
    assert cabled.everything() == before


def test_a_nic_in_use_is_not_moved(cabled: Site) -> None:
    switches.cable(cabled.core, SITE, [Cable("sw2", "p1", "bare1")])
    cabled.provision("bare1", "red")
    with pytest.raises(InvalidStateError, match="in use"):
        switches.cable(cabled.core, SITE, [Cable("sw2", "p2", "bare1")])
    assert cabled.switch.list()["p1"] != CLOSED


def test_a_switch_is_kept_while_nodes_are_cabled_to_it(cabled: Site) -> None:
    switches.cable(cabled.core, SITE, [Cable("sw2", "p1", "bare1"), Cable("sw2", "p2")])
    with pytest.raises(InUseError):
        switches.remove_switch(cabled.core, SITE, "sw2")
    with cabled.keeping():
        _until_settled(cabled)
        switches.cable(cabled.core, SITE, [Cable("sw1", "elsewhere", "bare1")])
        _until_settled(cabled)
    switches.remove_switch(cabled.core, SITE, "sw2")
    with pytest.raises(NotFoundError):
        switches.get_switch(cabled.core, SITE, "sw2")


def test_a_check_tells_of_differences_and_a_repair_narrows(cabled: Site) -> None:
    switches.cable(cabled.core, SITE, [Cable("sw2", "p1")])
    with cabled.keeping():
        _until_settled(cabled)
    cabled.switch.world.change("ports", lambda table: table.update(p1={"native": 300, "tagged": []}))
    asked = [switches.check_switch(cabled.core, SITE, "sw2")]
    cabled.settle()
    assert cabled.switch.list()["p1"] != CLOSED
    asked.append(switches.check_switch(cabled.core, SITE, "sw2", repair=True))
    cabled.settle()
    assert cabled.switch.list()["p1"] == CLOSED
    assert {cabled.operation(view.operation.id).state for view in asked} == {OperationState.SUCCEEDED}


def test_switches_are_the_administrators(cabled: Site) -> None:
    member: Actor = cabled.actor("curious", "red")
    for ask in (
        lambda: switches.get_switch(cabled.core, member, "sw2"),
        lambda: switches.list_ports(cabled.core, member, "sw2"),
        lambda: switches.cable(cabled.core, member, []),
        lambda: switches.check_switch(cabled.core, member, "sw2", repair=True),
        lambda: switches.remove_switch(cabled.core, member, "sw2"),
        lambda: switches.change_switch(cabled.core, member, "sw2", options={}),
    ):
        with pytest.raises(ForbiddenError):
            ask()


def test_a_node_whose_port_is_not_yet_closed_is_not_in_the_pool(cabled: Site) -> None:
    switches.cable(cabled.core, SITE, [Cable("sw2", "p1", "bare1")])
    with pytest.raises(BmiError, match="port"):
        nodes.provision_node(cabled.core, SITE, "bare1", nodes.Order(image="debian-12", project="red"))
