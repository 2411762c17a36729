"""Nodes belong to somebody: who gets how many of which, what others see of them, and how they come back."""

from dataclasses import replace

import pytest

from bmi.domain.nouns import Actor, NodeState
from bmi.domain.operations import OperationState
from bmi.errors import (
    BusyError,
    DriverError,
    ForbiddenError,
    InUseError,
    InvalidInputError,
    InvalidStateError,
    NotEnoughNodesError,
    NotFoundError,
    OverQuotaError,
)
from bmi.service import allocation, nodes, operations, projects, quotas
from bmi.service.allocation import Allocation, allocate_nodes, free_node, label_node
from bmi.service.nodes import Order
from bmi.store import records, schema
from tests.installation import SITE, Site
from tests.service.test_race import at_once, overtaken

IMAGE = Order(image="debian-12")


@pytest.fixture
def red(site: Site) -> Actor:
    return site.actor("red-token", "red")


def state(site: Site, name: str) -> NodeState:
    return nodes.get_node(site.core, SITE, name).node.state


def seen(site: Site, actor: Actor) -> list[str]:
    return [view.node.name for view in nodes.list_nodes(site.core, actor)]


# ---- out of the pool --------------------------------------------------------------------------------


def test_a_member_sees_own_nodes_only_and_of_the_pool_numbers(site: Site, red: Actor, blue: Actor) -> None:
    label_node(site.core, SITE, "n2", add=["gpu", "big"])
    assert seen(site, red) == []
    assert allocation.pool(site.core) == [
        allocation.PoolView((), 1),
        allocation.PoolView(("big", "gpu"), 1),
    ]
    assert allocate_nodes(site.core, red, 1, labels=["gpu"]) == Allocation(["n2"], [])
    assert (seen(site, red), seen(site, blue), seen(site, SITE)) == (["n2"], [], ["n1", "n2"])
    assert state(site, "n2") is NodeState.ALLOCATED
    assert allocation.pool(site.core) == [allocation.PoolView((), 1)]


def test_what_is_not_yours_is_not_found_and_you_are_told_how_to_get_some(site: Site, blue: Actor) -> None:
    site.provision("n2", "red")
    answers = []
    for name in ("n1", "n2", "n3"):
        for ask in (
            lambda name=name: nodes.provision_node(site.core, blue, name, IMAGE),
            lambda name=name: nodes.release_node(site.core, blue, name),
            lambda name=name: free_node(site.core, blue, name),
            lambda name=name: nodes.power_node(site.core, blue, name, "off"),
            lambda name=name: nodes.get_node(site.core, blue, name),
            lambda name=name: nodes.list_events(site.core, blue, name),
        ):
            with pytest.raises(NotFoundError) as caught:
                ask()
            answers.append(str(caught.value).replace(name, "…"))
    assert len(set(answers)) == 1
    assert "bmi node allocate" in answers[0]


def test_a_request_gets_all_or_nothing(site: Site, red: Actor) -> None:
    site.add_nodes("n3")
    before = site.everything()
    with pytest.raises(NotEnoughNodesError, match="There are 3 free nodes; this asks for 4") as caught:
        allocate_nodes(site.core, red, 4)
    assert caught.value.facts == {"asked": 4, "free": 3, "labels": []}
    with pytest.raises(
        NotEnoughNodesError, match="There are 0 free nodes labelled big and gpu; this asks for 1"
    ):
        allocate_nodes(site.core, red, 1, labels=["gpu", "big"])
    for count in (0, -1, 1001):
        with pytest.raises(InvalidInputError, match="count"):
            allocate_nodes(site.core, red, count)
    with pytest.raises(InvalidInputError, match="labels"):
        allocate_nodes(site.core, red, 1, labels=["No label"])
    assert site.everything() == before
    assert allocate_nodes(site.core, red, 3).nodes == ["n1", "n2", "n3"]


def test_fifty_requests_for_ten_nodes_get_ten(site: Site, red: Actor, blue: Actor) -> None:
    with site.database.write() as tx:
        [one, _] = records.nodes.list(tx)
        for number in range(3, 11):
            records.nodes.insert(tx, replace(one, id=f"node-{number}", name=f"n{number}"))
    given, refused = at_once(
        *(lambda actor=actor: allocate_nodes(site.core, actor, 1) for actor in (red, blue) * 25)
    )
    assert {type(error) for error in refused} == {NotEnoughNodesError}
    assert (len(given), len(refused)) == (10, 40)
    assert sorted(name for made in given for name in made.nodes) == sorted(f"n{n}" for n in range(1, 11))
    assert len(seen(site, red)) + len(seen(site, blue)) == 10


def test_requests_that_share_the_pool_get_all_that_they_ask_for_or_nothing(
    site: Site, red: Actor, blue: Actor
) -> None:
    site.add_nodes(*(f"n{number}" for number in range(3, 12)))
    given, refused = at_once(
        *(lambda actor=actor: allocate_nodes(site.core, actor, 3) for actor in (red, blue) * 4)
    )
    assert [len(made.nodes) for made in given] == [3, 3, 3]
    assert all("There are 2 free" in str(error) for error in refused)
    assert allocation.pool(site.core) == [allocation.PoolView((), 2)]


def test_a_quota_of_nodes_holds_at_the_same_moment_too(site: Site, red: Actor) -> None:
    site.add_nodes(*(f"n{number}" for number in range(3, 9)))
    quotas.set_quota(site.core, SITE, "red", {"nodes": 3})
    with pytest.raises(
        OverQuotaError, match="may have 3 nodes; it has 0 nodes and this asks for 4 nodes more"
    ):
        allocate_nodes(site.core, red, 4)
    given, refused = at_once(*[lambda: allocate_nodes(site.core, red, 1)] * 8)
    assert (len(given), {type(error) for error in refused}) == (3, {OverQuotaError})
    with pytest.raises(OverQuotaError):
        nodes.provision_node(site.core, SITE, "n8", replace(IMAGE, project="red"))
    assert state(site, "n8") is NodeState.FREE


@pytest.mark.parametrize("deletion_first", [True, False], ids=["deletion-first", "allocation-first"])
def test_a_project_that_is_deleted_gets_no_node(
    site: Site, red: Actor, monkeypatch: pytest.MonkeyPatch, deletion_first: bool
) -> None:
    def delete() -> object:
        return projects.delete_project(site.core, SITE, "red")

    def allocate() -> object:
        return allocate_nodes(site.core, red, 1)

    if deletion_first:
        done, refused = overtaken(monkeypatch, delete, allocate)
        assert [type(error) for error in refused] == [InvalidStateError]
    else:
        done, refused = at_once(allocate, delete)
    assert len(done) == 1
    site.settle()
    assert len(projects.list_projects(site.core, SITE)) == (
        1 if refused and not isinstance(refused[0], InUseError) else 2
    )


def test_a_node_whose_port_is_not_closed_is_nobodys_yet(site: Site, red: Actor) -> None:
    site.add_switch()
    site.add_nodes("n3", switch="sw1")
    label_node(site.core, SITE, "n3", add=["cabled"])
    with site.database.write() as tx:
        records.ports.update(tx, values={"revision": schema.ports.c.revision + 1})
    with pytest.raises(NotEnoughNodesError):
        allocate_nodes(site.core, red, 1, labels=["cabled"])
    with pytest.raises(BusyError, match="port of node 'n3' is not closed"):
        nodes.provision_node(site.core, SITE, "n3", replace(IMAGE, project="red"))
    assert allocation.PoolView(("cabled",), 1) not in allocation.pool(site.core)
    site.settle()
    with site.keeping():
        pass
    assert allocate_nodes(site.core, red, 1, labels=["cabled"]).nodes == ["n3"]


def test_a_node_that_is_being_removed_is_not_given_away(site: Site, red: Actor) -> None:
    nodes.delete_node(site.core, SITE, "n1")
    assert allocate_nodes(site.core, red, 1).nodes == ["n2"]
    with pytest.raises(NotEnoughNodesError):
        allocate_nodes(site.core, red, 1)


def test_a_request_that_is_repeated_with_its_key_gets_the_same_nodes(site: Site, red: Actor) -> None:
    site.add_nodes(*(f"n{number}" for number in range(3, 7)))
    given, refused = at_once(*[lambda: allocate_nodes(site.core, red, 2, labels=[], key="k")] * 3)
    assert (refused, [made.nodes for made in given]) == ([], [["n1", "n2"]] * 3)
    with pytest.raises(InvalidInputError, match="used for another allocation"):
        allocate_nodes(site.core, red, 1, key="k")
    assert allocate_nodes(site.core, red, 2, key="l").nodes == ["n3", "n4"]
    assert allocate_nodes(site.core, red, 2).nodes == ["n5", "n6"]
    assert allocate_nodes(site.core, red, 2, key="k").nodes == ["n1", "n2"]


# ---- an administrator's shortcut --------------------------------------------------------------------


def test_an_administrator_gives_a_free_node_by_provisioning_it(site: Site, red: Actor) -> None:
    view = nodes.provision_node(site.core, SITE, "n1", replace(IMAGE, project="red"))
    site.settle("n1")
    assert site.operation(view.operation.id).state is OperationState.SUCCEEDED
    assert seen(site, red) == ["n1"]
    assert [event.stage for event in nodes.list_events(site.core, red, "n1")][:2] == ["allocated", "accepted"]
    with pytest.raises(InvalidStateError, match="belongs to another project"):
        nodes.provision_node(site.core, SITE, "n1", replace(IMAGE, project="blue"))


@pytest.mark.parametrize("by_member", [True, False])
def test_a_provision_that_is_cancelled_leaves_the_node_whose_it_was(
    site: Site, red: Actor, by_member: bool
) -> None:
    if by_member:
        allocate_nodes(site.core, red, 1)
    actor, project = (red, None) if by_member else (SITE, "red")
    view = nodes.provision_node(site.core, actor, "n1", replace(IMAGE, project=project))
    operations.cancel_operation(site.core, actor, view.operation.id)
    site.settle()
    assert site.operation(view.operation.id).state is OperationState.CANCELLED
    assert state(site, "n1") is (NodeState.ALLOCATED if by_member else NodeState.FREE)
    assert seen(site, red) == (["n1"] if by_member else [])


# ---- back into the pool -----------------------------------------------------------------------------


def test_a_node_is_released_to_its_project_and_freed_to_the_pool(site: Site, red: Actor) -> None:
    allocate_nodes(site.core, red, 2)
    site.provision("n1", "red")
    with pytest.raises(InUseError, match="has the volume 'n1'") as caught:
        free_node(site.core, red, "n1")
    assert "bmi release n1" in caught.value.remedy
    nodes.release_node(site.core, red, "n1")
    site.settle()
    assert state(site, "n1") is NodeState.ALLOCATED
    with pytest.raises(InvalidStateError, match="nothing to release"):
        nodes.release_node(site.core, red, "n1")
    view = free_node(site.core, red, "n1", key="k")
    assert free_node(site.core, red, "n1", key="k").operation.id == view.operation.id
    assert state(site, "n1") is NodeState.RELEASING
    with pytest.raises(BusyError):
        nodes.provision_node(site.core, red, "n1", IMAGE)
    site.settle()
    assert (state(site, "n1"), seen(site, red)) == (NodeState.FREE, ["n2"])
    with pytest.raises(InvalidStateError, match="nobody has it"):
        free_node(site.core, SITE, "n1")


def test_a_node_is_freed_when_its_port_is_closed_for_certain(site: Site, red: Actor) -> None:
    site.add_switch()
    site.add_nodes("n3", switch="sw1")
    site.provision("n3", "red")
    site.switch.world.set_fault("apply", error="The switch is away.", retryable=False)
    released = nodes.release_node(site.core, red, "n3")
    site.settle()
    assert site.operation(released.operation.id).state is OperationState.SUCCEEDED
    assert state(site, "n3") is NodeState.ALLOCATED
    freed = free_node(site.core, red, "n3")
    site.settle()
    problem = site.operation(freed.operation.id).problem or {}
    assert (problem["detail"], problem["type"]) == ("The switch is away.", DriverError("").problem()["type"])
    assert (state(site, "n3"), seen(site, red)) == (NodeState.ERROR, ["n3"])
    site.switch.world.set_fault("apply")
    operations.retry_operation(site.core, red, freed.operation.id)
    site.settle()
    assert state(site, "n3") is NodeState.FREE


def test_only_what_nobody_has_is_taken_out_of_the_pool(site: Site, red: Actor) -> None:
    allocate_nodes(site.core, red, 1)
    with pytest.raises(InvalidStateError, match="belongs to a project"):
        nodes.delete_node(site.core, SITE, "n1")
    with pytest.raises(InUseError, match="node n1"):
        projects.delete_project(site.core, SITE, "red")


# ---- labels -----------------------------------------------------------------------------------------


def test_labels_are_an_administrators(site: Site, red: Actor) -> None:
    allocate_nodes(site.core, red, 1)
    with pytest.raises(ForbiddenError):
        label_node(site.core, red, "n1", add=["gpu"])
    label_node(site.core, SITE, "n1", add=["gpu", "rack-3", "gpu"])
    label_node(site.core, SITE, "n1", add=["big"], remove=["rack-3", "none"])
    assert nodes.get_node(site.core, red, "n1").node.labels == ["big", "gpu"]
    with pytest.raises(InvalidInputError, match="more than 32"):
        label_node(site.core, SITE, "n1", add=[f"l{number}" for number in range(33)])
    with pytest.raises(NotFoundError):
        label_node(site.core, SITE, "n9", add=["gpu"])
