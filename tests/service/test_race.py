"""Requests at the same moment: the database lets one through, whoever it is."""

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import pytest

from bmi.domain.nouns import Actor, BootSession
from bmi.errors import BmiError, BusyError, InUseError, InvalidStateError, NotEnoughNodesError
from bmi.service import (
    allocation,
    image_sources,
    images,
    networks,
    nodes,
    projects,
    snapshots,
    switches,
)
from bmi.service.core import OperationView
from bmi.service.image_sources import Source, Told
from bmi.store import operations as journal
from bmi.store import records
from bmi.workflow.steps import OUTCOMES
from tests.installation import SITE, Site

T = TypeVar("T")


def at_once(*calls: Callable[[], T]) -> tuple[list[T], list[BmiError]]:
    """What came of calls that began together."""
    start = threading.Barrier(len(calls))
    done: list[T] = []
    refused: list[BmiError] = []

    def call(one: Callable[[], T]) -> None:
        start.wait()
        try:
            done.append(one())
        except BmiError as error:
            refused.append(error)

    with ThreadPoolExecutor(len(calls)) as pool:
        list(pool.map(call, calls))
    return done, refused


def test_one_node_is_given_once(site: Site, red: Actor, blue: Actor) -> None:
    order = nodes.Order(image="debian-12")
    done, refused = at_once(
        *(
            lambda actor=actor: nodes.provision_node(site.core, actor, "n1", order)
            for actor in (red, blue, red, blue)
        )
    )
    assert len(done) == 1
    assert len(refused) == 3
    with site.database.read() as tx:
        assert len(records.volumes.list(tx)) == 1


def test_one_image_is_deleted_once(site: Site) -> None:
    done, refused = at_once(*[lambda: images.delete_image(site.core, SITE, "debian-12")] * 4)
    assert len(done) == 1
    assert [type(error) for error in refused] == [BusyError] * 3


def test_imports_to_one_name_get_different_versions(site: Site, red: Actor) -> None:
    def make(name: str) -> OperationView:
        return image_sources.import_image(site.core, red, name, Source(image="debian-12"), Told())

    site.add_image("os", "red")
    done, refused = at_once(*[lambda: make("os")] * 4)
    assert refused == []
    assert {view.operation.args["image"] for view in done} == {"os@2", "os@3", "os@4", "os@5"}
    done, refused = at_once(*[lambda: make("new")] * 4)
    # There is no row of the name yet that the others could wait for.
    assert {type(error) for error in refused} <= {BusyError}
    versions = sorted(view.operation.args["image"] for view in done)
    assert versions == [f"new@{number}" for number in range(1, len(done) + 1)]
    assert done


def test_one_key_makes_one_operation(site: Site, red: Actor) -> None:
    order = nodes.Order(image="debian-12")
    done, refused = at_once(*[lambda: nodes.provision_node(site.core, red, "n1", order, key="k")] * 4)
    assert len({view.operation.id for view in done}) == 1
    assert all(isinstance(error, BusyError | InvalidStateError) for error in refused)


def test_two_nodes_never_get_one_address(site: Site, red: Actor) -> None:
    order = nodes.Order(image="debian-12")
    done, refused = at_once(
        *(lambda name=name: nodes.provision_node(site.core, red, name, order) for name in ("n1", "n2"))
    )
    assert (len(done), refused) == (2, [])
    addresses = {nodes.get_node(site.core, red, name).address for name in ("n1", "n2")}
    assert len(addresses) == 2


def test_two_projects_never_get_one_network(site: Site) -> None:
    done, refused = at_once(
        *(
            lambda name=name: projects.create_project(site.core, SITE, name)
            for name in ("green", "grey", "gold")
        )
    )
    assert refused == []
    shown = [view.network for view in projects.list_projects(site.core, SITE)]
    assert len({network.vlan for network in shown if network}) == len(done) + 2
    assert len({network.address for network in shown if network}) == len(done) + 2


def test_networks_at_once_get_vlans_that_nobody_else_has(site: Site, red: Actor, blue: Actor) -> None:
    done, refused = at_once(
        *(
            lambda actor=actor, number=number: networks.create_network(site.core, actor, f"net-{number}")
            for number, actor in enumerate((red, blue) * 5)
        )
    )
    assert refused == []
    assert {view.network.vlan for view in done} == set(range(102, 112))


def test_cables_in_any_order_and_an_allocation_do_not_meet(
    site: Site, blue: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.add_switch()
    half, cable = threading.Event(), switches._cable

    def pausing(*args: Any, force: bool) -> None:
        cable(*args, force=force)
        if not half.is_set():
            half.set()
            time.sleep(_OVERTAKING_S)

    def allocating() -> object:
        half.wait(10)
        return allocation.allocate_nodes(site.core, blue, 2)

    monkeypatch.setattr(switches, "_cable", pausing)
    cables = [switches.Cable("sw1", "p2", "n2"), switches.Cable("sw1", "p1", "n1")]
    done, refused = at_once(lambda: switches.cable(site.core, SITE, cables), allocating)
    assert len(done) + len(refused) == 2
    assert 2 in done
    assert {type(error) for error in refused} <= {NotEnoughNodesError}  # the ports are not closed yet


def test_a_boot_that_begins_while_another_ends_makes_no_circle(site: Site, red: Actor) -> None:
    """Both hold the node before its boots; the other way round PostgreSQL would end one of them."""
    begun = nodes.provision_node(site.core, red, "n1", nodes.Order(image="debian-12")).operation
    now = site.database.now()
    boot = BootSession("boot-1", begun.subject_id, now, now + 900, None)
    with site.database.write() as tx:
        records.boot_sessions.insert(tx, boot)

    def end() -> None:
        with site.database.write() as tx:
            OUTCOMES["provision"].succeeded(tx, begun, {}, now)

    with ThreadPoolExecutor(1) as pool:
        with site.database.write() as tx:
            records.nodes.get(tx, begun.subject_id, lock=True)
            ended = pool.submit(end)
            time.sleep(_OVERTAKING_S)
            records.boot_sessions.update(tx, id=boot.id, values={"expires_at": now + 901})
        ended.result(10)
    with site.database.read() as tx:
        found = records.boot_sessions.get(tx, boot.id)
    assert (found.expires_at, found.ended_at) == (now + 901, now)


def test_orders_for_each_others_volumes_do_not_meet(
    site: Site, red: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("n1", "n2"):
        site.provision(name, "red")
    both, known = threading.Barrier(2), nodes._require_provisionable

    def meeting(*args: Any) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):  # SQLite lets in one at a time
            both.wait(_OVERTAKING_S)
        with contextlib.suppress(InvalidStateError):
            known(*args)

    monkeypatch.setattr(nodes, "_require_provisionable", meeting)
    done, refused = at_once(
        lambda: nodes.provision_node(site.core, red, "n1", nodes.Order(volume="n2")),
        lambda: nodes.provision_node(site.core, red, "n2", nodes.Order(volume="n1")),
    )
    assert done == []
    assert [type(error) for error in refused] == [InvalidStateError] * 2


# How long a request that is about to commit waits for one that may have to wait for it.
_OVERTAKING_S = 0.3


def overtaken(
    monkeypatch: pytest.MonkeyPatch, first: Callable[[], T], second: Callable[[], T]
) -> tuple[list[T], list[BmiError]]:
    """What comes of `first` when `second` begins, and ends if it can, just before `first` commits."""
    about_to_commit, ended = threading.Event(), threading.Event()
    enqueue = journal.enqueue

    def pausing(*args: Any, **named: Any) -> Any:
        made = enqueue(*args, **named)
        if not about_to_commit.is_set():
            about_to_commit.set()
            ended.wait(_OVERTAKING_S)
        return made

    def overtaking() -> T:
        about_to_commit.wait(10)
        try:
            return second()
        finally:
            ended.set()

    monkeypatch.setattr(journal, "enqueue", pausing)
    return at_once(first, overtaking)


@pytest.mark.parametrize("deletion_first", [True, False], ids=["deletion-first", "provision-first"])
@pytest.mark.parametrize("kind", ["image", "snapshot", "project"])
def test_what_a_node_is_provisioned_from_is_not_deleted_meanwhile(
    site: Site, red: Actor, monkeypatch: pytest.MonkeyPatch, kind: str, deletion_first: bool
) -> None:
    order = nodes.Order(image="debian-12")
    if kind == "snapshot":
        site.provision("n2", "red")
        snapshots.create_snapshot(site.core, red, "n2", "tuned")
        site.settle()
        order = nodes.Order(snapshot="tuned")

    if kind == "project":
        site.give(None, "n1", "n2")

    def provision() -> OperationView:
        return nodes.provision_node(site.core, SITE, "n1", replace(order, project="red"))

    def delete() -> OperationView:
        match kind:
            case "image":
                return images.delete_image(site.core, SITE, "debian-12")
            case "snapshot":
                return snapshots.delete_snapshot(site.core, red, "tuned")
            case _:
                return projects.delete_project(site.core, SITE, "red")

    calls = (delete, provision) if deletion_first else (provision, delete)
    done, refused = overtaken(monkeypatch, *calls)
    assert len(done) == 1
    assert [type(error) for error in refused] == [InvalidStateError if deletion_first else InUseError]
