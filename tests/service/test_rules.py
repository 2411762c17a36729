"""Who may do what to what, and when."""

from dataclasses import replace

import pytest

from bmi.config import NetworkSettings
from bmi.domain.nouns import Actor, NodeState, ObjectState
from bmi.errors import (
    ForbiddenError,
    InUseError,
    InvalidInputError,
    InvalidStateError,
    NoFreeAddressError,
    NotFoundError,
)
from bmi.service import allocation, images, nodes, operations, projects, snapshots
from bmi.service.core import OperationView
from bmi.service.image_sources import Told, check_import, import_file
from bmi.store import records
from tests.installation import SITE, Site


def test_projects_are_given_the_lowest_free_numbers(site: Site) -> None:
    networks = {view.project.name: view.network for view in projects.list_projects(site.core, SITE)}
    assert [(n.vlan, n.address) for n in networks.values() if n] == [
        (101, "10.96.1.1/24"),
        (100, "10.96.0.1/24"),
    ]
    small = site.core.settings.model_copy(update={"networks": NetworkSettings(vlans="100-102")})
    core = replace(site.core, settings=small)
    projects.create_project(core, SITE, "green")
    with pytest.raises(NoFreeAddressError, match="All VLANs from 100 to 102"):
        projects.create_project(core, SITE, "grey")
    with pytest.raises(NotFoundError):
        projects.get_project(core, SITE, "grey")


def test_a_project_that_holds_something_stays(site: Site, red: Actor) -> None:
    site.add_image("mine", "red")
    site.provision("n1", "red")
    snapshots.create_snapshot(site.core, red, "n1", "s")
    site.settle()
    with pytest.raises(InUseError) as caught:
        projects.delete_project(site.core, SITE, "red")
    assert caught.value.facts["users"] == ["node n1", "node n2", "image mine", "snapshot s"]


def test_nothing_is_provisioned_while_a_network_is_not_ready(site: Site) -> None:
    projects.create_project(site.core, SITE, "green")
    with pytest.raises(InvalidStateError, match="boot network of project 'green' is creating"):
        nodes.provision_node(site.core, SITE, "n1", nodes.Order(image="debian-12", project="green"))
    assert nodes.get_node(site.core, SITE, "n1").node.state is NodeState.FREE


def test_an_own_image_comes_before_a_public_one_of_the_same_name(site: Site, red: Actor, blue: Actor) -> None:
    own = site.add_image("debian-12", "red")
    assert images.get_image(site.core, red, "debian-12").image.id == own
    assert images.get_image(site.core, blue, "debian-12").image.public
    site.provision("n1", "red")
    volume = nodes.get_node(site.core, red, "n1").volume
    assert volume is not None
    assert volume.image_id == own


def test_an_image_that_is_not_ready_boots_nobody(site: Site, red: Actor) -> None:
    image_id = site.add_image("fresh", "red")
    with site.database.write() as tx:
        records.images.update(tx, id=image_id, values={"state": ObjectState.CREATING})
    with pytest.raises(InvalidStateError, match="is creating"):
        nodes.provision_node(site.core, red, "n1", nodes.Order(image="fresh"))


def came(
    site: Site, actor: Actor, name: str, told: Told, upload_id: str, key: str | None = None
) -> OperationView:
    return import_file(
        site.core,
        actor,
        name,
        told,
        upload_id=upload_id,
        file_name="disk",
        size_bytes=4096,
        sha256="0" * 64,
        key=key,
    )


def test_an_image_of_the_site_is_everybodys(site: Site, red: Actor) -> None:
    came(site, SITE, "of-the-site", Told(), "u1")
    came(site, SITE, "of-blue", Told(project="blue"), "u2")
    assert images.get_image(site.core, red, "of-the-site").image.public
    with pytest.raises(NotFoundError):
        images.get_image(site.core, red, "of-blue")


def test_an_import_is_checked_before_the_upload(site: Site, red: Actor) -> None:
    check_import(site.core, red, "debian-12", Told())
    with pytest.raises(ForbiddenError):
        check_import(site.core, red, "mine", Told(public=True))
    made = came(site, red, "new", Told(), "u1", key="k")
    assert check_import(site.core, red, "new", Told(), key="k") == made
    with pytest.raises(InvalidInputError, match="Idempotency-Key"):
        check_import(site.core, red, "newer", Told(), key="k")


def test_a_member_sees_a_timeline_from_when_the_node_came(site: Site, red: Actor, blue: Actor) -> None:
    site.provision("n1", "red")
    nodes.release_node(site.core, red, "n1")
    site.settle()
    site.provision("n1", "blue")
    assert len(nodes.list_events(site.core, blue, "n1")) == 4
    assert len(nodes.list_events(site.core, SITE, "n1")) == 8
    with pytest.raises(NotFoundError):
        nodes.list_events(site.core, red, "n1")


def test_a_freed_node_keeps_nothing_of_its_project(site: Site, red: Actor) -> None:
    site.give(None, "n1")
    before = nodes.get_node(site.core, SITE, "n1")
    site.provision("n1", "red")
    nodes.release_node(site.core, red, "n1")
    site.settle()
    allocation.free_node(site.core, red, "n1")
    site.settle()
    assert nodes.get_node(site.core, SITE, "n1") == before
    assert [stored.ref.kind for stored in site.fakes["storage"].list()] == ["image"]


def test_only_the_newest_operation_of_a_node_is_retried(site: Site, red: Actor) -> None:
    site.bmc.world.set_fault("power_on", error="It refuses.", retryable=False)
    failed = nodes.provision_node(site.core, red, "n1", nodes.Order(image="debian-12"))
    site.settle()
    nodes.release_node(site.core, red, "n1")
    site.settle()
    with pytest.raises(InvalidStateError, match="came after it"):
        operations.retry_operation(site.core, red, failed.operation.id)


def test_a_node_that_failed_to_register_is_retried_or_deleted(site: Site) -> None:
    site.bmc.world.set_fault("check", error="It refuses.", retryable=False)
    made = site.register("n3", 3)
    site.settle()
    assert nodes.get_node(site.core, SITE, "n3").node.state is NodeState.ERROR
    with pytest.raises(InvalidStateError, match="is error; only one that is allocated or free"):
        nodes.provision_node(site.core, SITE, "n3", nodes.Order(image="debian-12", project="red"))
    site.bmc.world.set_fault("check")
    operations.retry_operation(site.core, SITE, made.operation.id)
    site.settle()
    assert nodes.get_node(site.core, SITE, "n3").node.state is NodeState.FREE
    nodes.delete_node(site.core, SITE, "n3")
    site.settle()
    with pytest.raises(NotFoundError):
        nodes.get_node(site.core, SITE, "n3")


def test_secrets_rest_sealed(site: Site) -> None:
    site.provision("n1", "red")
    [chap_secret] = site.chap_secrets()
    rows = str(site.everything())
    assert chap_secret not in rows
    assert "bmc-pa55-word" not in rows


def test_members_steer_nothing_that_administrators_ask_for(site: Site) -> None:
    opened = projects.create_project(site.core, SITE, "green")
    green = site.actor("green-token", "green")
    assert operations.get_operation(site.core, green, opened.operation.id)
    with pytest.raises(ForbiddenError, match="open-network"):
        operations.cancel_operation(site.core, green, opened.operation.id)
    site.settle()
    site.fakes["export"].world.set_fault("remove_portal", error="It refuses.", retryable=False)
    closed = projects.delete_project(site.core, SITE, "green")
    site.settle()
    with pytest.raises(ForbiddenError, match="close-network"):
        operations.retry_operation(site.core, green, closed.operation.id)
    site.fakes["export"].world.set_fault("remove_portal")
    operations.retry_operation(site.core, SITE, closed.operation.id)
    site.settle()
    with pytest.raises(NotFoundError):
        projects.get_project(site.core, SITE, "green")
