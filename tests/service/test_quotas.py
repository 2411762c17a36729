"""What a project may have is counted where it is made, and nobody gets the last one twice."""

from collections.abc import Callable

import pytest

from bmi.domain.nouns import Actor
from bmi.errors import ForbiddenError, InvalidInputError, NotFoundError, OverQuotaError
from bmi.service import nodes, quotas, snapshots, volumes
from bmi.service.core import OperationView
from bmi.service.nodes import Order
from bmi.store import records
from bmi.store.quotas import require
from tests.installation import SITE, Site
from tests.service.test_race import at_once

GIB = 1 << 30


def limit(site: Site, **limits: int | None) -> None:
    quotas.set_quota(site.core, SITE, "red", limits)


def test_what_a_project_holds_is_told(site: Site, red: Actor, blue: Actor) -> None:
    site.add_image("own", "red")
    site.provision("n1", "red")
    snapshots.create_snapshot(site.core, red, "n1", "s")
    limit(site, volumes=3, unique_bytes=GIB)
    view = quotas.project_usage(site.core, red, "red")
    assert view.held == quotas.Amount(
        nodes=2, volumes=1, volume_bytes=4096, snapshots=1, images=1, image_bytes=4096
    )
    assert (view.project.quota, view.measured_at) == ({"volumes": 3, "unique_bytes": GIB}, None)
    with pytest.raises(NotFoundError):
        quotas.project_usage(site.core, blue, "red")


def test_limits_are_an_administrators_and_can_be_lifted(site: Site, red: Actor) -> None:
    limit(site, volumes=3, snapshots=0)
    limit(site, volumes=None)
    assert quotas.project_usage(site.core, red, "red").project.quota == {"snapshots": 0}
    with pytest.raises(ForbiddenError):
        quotas.set_quota(site.core, red, "red", {"volumes": 100})
    for wrong in ({"volumes": -1}, {"volumes": 1 << 63}, {"colours": 1}):
        with pytest.raises(InvalidInputError):
            limit(site, **wrong)
    with pytest.raises(NotFoundError):
        quotas.set_quota(site.core, SITE, "green", {})


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            {"volumes": 0},
            "Project 'red' may have 0 volumes; it has 0 volumes and this asks for 1 volume more.",
        ),
        ({"volume_bytes": GIB}, "may have 1.0 GiB of volumes; it has 0 bytes of volumes"),
    ],
)
def test_a_provision_over_quota_makes_nothing(
    site: Site, red: Actor, limits: dict[str, int], said: str
) -> None:
    limit(site, **limits)
    before = site.everything()
    with pytest.raises(OverQuotaError, match=said) as caught:
        nodes.provision_node(site.core, red, "n1", Order(image="debian-12", size_bytes=2 * GIB))
    assert site.everything() == before
    error = caught.value
    assert (error.status, bool(error.remedy)) == (409, True)
    assert set(error.facts) == {"limit", "allowed", "used", "asked"}


def test_a_snapshot_over_quota_makes_nothing(site: Site, red: Actor) -> None:
    site.provision("n1", "red")
    limit(site, snapshots=1)
    snapshots.create_snapshot(site.core, red, "n1", "s")
    site.settle()
    creations: list[Callable[[], OperationView]] = [
        lambda: snapshots.create_snapshot(site.core, red, "n1", "t"),
        lambda: snapshots.create_volume_snapshot(site.core, red, "n1", "t"),
    ]
    for create in creations:
        with pytest.raises(OverQuotaError, match="1 snapshot; it has 1 snapshot"):
            create()


def test_what_was_measured_counts_as_well(site: Site, red: Actor) -> None:
    site.provision("n1", "red")
    limit(site, unique_bytes=GIB)
    with site.database.write() as tx:
        records.volumes.update(tx, values={"unique_bytes": GIB})
    with pytest.raises(OverQuotaError, match=r"1\.0 GiB of data of its own"):
        nodes.provision_node(site.core, red, "n2", Order(image="debian-12"))


def test_a_volume_that_exists_costs_nothing_again(site: Site, red: Actor) -> None:
    site.provision("n1", "red")
    limit(site, volumes=1, volume_bytes=4096)
    nodes.release_node(site.core, red, "n1", keep_volume=True)
    site.settle()
    with pytest.raises(OverQuotaError):
        nodes.provision_node(site.core, red, "n2", Order(image="debian-12"))
    nodes.provision_node(site.core, red, "n2", Order(volume="n1"))


def test_the_room_of_what_is_deleted_is_free(site: Site, red: Actor) -> None:
    site.provision("n1", "red")
    limit(site, volumes=1)
    nodes.release_node(site.core, red, "n1", keep_volume=True)
    site.settle()
    volumes.delete_volume(site.core, red, "n1")
    site.settle()
    site.provision("n1", "red")


def test_eight_requests_for_the_last_volume_get_one(site: Site, red: Actor) -> None:
    names = [f"m{number}" for number in range(8)]
    site.add_nodes(*names)
    site.give("red", *names)
    limit(site, volumes=1)
    order = Order(image="debian-12")

    def asking(name: str) -> Callable[[], OperationView]:
        return lambda: nodes.provision_node(site.core, red, name, order)

    made, refused = at_once(*map(asking, names))
    assert len(made) == 1
    assert [type(error) for error in refused] == [OverQuotaError] * 7
    with site.database.read() as tx:
        assert len(records.volumes.list(tx)) == 1


def test_eight_requests_for_the_last_bytes_get_them_once(site: Site, red: Actor) -> None:
    """Images and snapshots are made under no other lock that they share."""
    names = [f"m{number}" for number in range(8)]
    site.add_nodes(*names)
    for name in names:
        nodes.provision_node(site.core, SITE, name, Order(image="debian-12", project="red"))
    site.settle(*names)
    limit(site, snapshots=3)

    def asking(name: str) -> Callable[[], OperationView]:
        return lambda: snapshots.create_snapshot(site.core, red, name, f"s-{name}")

    made, refused = at_once(*map(asking, names))
    assert len(made) == 3
    assert [type(error) for error in refused] == [OverQuotaError] * 5


def test_the_site_has_no_limits(site: Site) -> None:
    with site.database.write() as tx:
        require(tx, None, quotas.Amount(images=1 << 40))
