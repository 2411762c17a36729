"""Requests at the same moment: the database lets one through, whoever it is."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bmi.domain.nouns import Actor
from bmi.errors import BmiError, BusyError, ConflictError, InvalidStateError
from bmi.service import images, nodes, projects
from bmi.service.core import OperationView
from bmi.store import records
from tests.installation import SITE, Site


def at_once(*calls: Callable[[], OperationView]) -> tuple[list[OperationView], list[BmiError]]:
    """What came of calls that began together."""
    start = threading.Barrier(len(calls))
    done: list[OperationView] = []
    refused: list[BmiError] = []

    def call(one: Callable[[], OperationView]) -> None:
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
    # On PostgreSQL two may have chosen the same number; the rule in the database refuses one of them.
    assert all(isinstance(error, ConflictError) for error in refused)
    shown = [view.network for view in projects.list_projects(site.core, SITE)]
    assert len({network.vlan for network in shown if network}) == len(done) + 2
    assert len({network.address for network in shown if network}) == len(done) + 2
