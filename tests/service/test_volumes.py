"""Volumes that outlive their nodes: sized, named, detached, attached, rolled back, compared, deleted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bmi.domain.nouns import Actor, NodeState, ObjectState, Volume
from bmi.domain.operations import OperationState
from bmi.drivers.bmc import BmcAccess
from bmi.errors import (
    AlreadyExistsError,
    BmiError,
    BusyError,
    InUseError,
    InvalidInputError,
    InvalidStateError,
    NotFoundError,
)
from bmi.service import nodes, operations, projects, snapshots, volumes
from bmi.service.core import OperationView
from bmi.service.nodes import Order
from bmi.store import operations as journal
from bmi.store import records
from tests.installation import BMC_HOST, BMC_PASSWORD, SITE, Site

GIB = 1 << 30


def done(site: Site, view: OperationView, *came_up: str) -> dict[str, Any]:
    """Lets the operation end well; returns the results of its steps."""
    site.settle(*came_up)
    assert site.operation(view.operation.id).state is OperationState.SUCCEEDED
    with site.database.read() as tx:
        return {step.name: step.result for step in journal.steps_of(tx, view.operation.id)}


def failed(site: Site, view: OperationView) -> str:
    """Lets the operation fail; returns why."""
    site.settle()
    operation = site.operation(view.operation.id)
    assert operation.state is OperationState.FAILED
    return str((operation.problem or {})["detail"])


def volume_of(site: Site, node: str) -> Volume:
    found = nodes.get_node(site.core, SITE, node).volume
    assert found is not None
    return found


def disk(site: Site, volume: Volume) -> Path:
    return Path(site.fakes["storage"].backing(volume.id).location)


def power_off(site: Site, node: str) -> None:
    site.bmc.power_off(BmcAccess(f"https://{BMC_HOST}/{node}", "root", BMC_PASSWORD))


def detached(site: Site, actor: Actor, node: str = "n1", keep_as: str | None = None) -> Volume:
    """The volume that an active node has left behind."""
    site.provision(node, "red")
    volume = volume_of(site, node)
    done(site, nodes.release_node(site.core, actor, node, keep_volume=True, keep_as=keep_as))
    return volume


# ---- size and name ----------------------------------------------------------------------------------


def test_a_clone_can_be_larger_than_its_image(site: Site, red: Actor) -> None:
    order = Order(image="debian-12", size_bytes=GIB + 1)
    done(site, nodes.provision_node(site.core, red, "n1", order), "n1")
    volume = volume_of(site, "n1")
    assert volume.size_bytes == GIB + 4096
    assert disk(site, volume).stat().st_size == GIB + 4096


@pytest.mark.parametrize("size_bytes", [-1, 0, 100, 1 << 51])
def test_a_clone_is_never_smaller_than_its_image_nor_absurd(site: Site, red: Actor, size_bytes: int) -> None:
    with pytest.raises(InvalidInputError, match="size_bytes"):
        nodes.provision_node(site.core, red, "n1", Order(image="debian-12", size_bytes=size_bytes))


def test_a_volume_is_called_as_its_node_or_almost(site: Site, red: Actor) -> None:
    detached(site, red)
    site.provision("n1", "red")
    assert [view.volume.name for view in volumes.list_volumes(site.core, red)] == ["n1", "n1-2"]


def test_a_volume_is_renamed_but_never_like_another(site: Site, red: Actor, blue: Actor) -> None:
    detached(site, red)
    site.provision("n1", "red")
    site.provision("n2", "blue")
    assert volumes.rename_volume(site.core, red, "n1-2", "n2").volume.name == "n2"  # blue's is another
    with pytest.raises(AlreadyExistsError):
        volumes.rename_volume(site.core, red, "n2", "n1")
    with pytest.raises(InvalidInputError):
        volumes.rename_volume(site.core, red, "n2", "Not a name")
    with pytest.raises(NotFoundError):
        volumes.rename_volume(site.core, blue, "n1", "mine")


# ---- detached and attached --------------------------------------------------------------------------


def test_a_detached_volume_keeps_its_data_and_its_identity(site: Site, red: Actor) -> None:
    order = Order(image="debian-12", hostname="web", user_data="#cloud-config\n")
    done(site, nodes.provision_node(site.core, red, "n1", order), "n1")
    before = volume_of(site, "n1")
    disk(site, before).write_bytes(b"written by n1")
    done(site, nodes.release_node(site.core, red, "n1", keep_volume=True, keep_as="web"))

    view = volumes.get_volume(site.core, red, "web")
    assert (view.node, view.volume.state, view.volume.exported) == (None, ObjectState.READY, False)
    empty = nodes.get_node(site.core, red, "n1")
    assert (empty.node.state, empty.volume, empty.address) == (NodeState.ALLOCATED, None, None)
    done(site, nodes.provision_node(site.core, red, "n2", Order(volume="web")), "n2")
    after = volume_of(site, "n2")
    assert (after.id, after.seed) == (before.id, before.seed)
    assert after.chap_secret != before.chap_secret
    assert disk(site, after).read_bytes() == b"written by n1"
    [targets] = [found for found in site.fakes["export"].world.read("portals").values() if found]
    assert len(targets) == 1


def test_a_volume_is_fenced_before_it_is_free_for_another(site: Site, red: Actor) -> None:
    site.provision("n1", "red")
    volume = volume_of(site, "n1")
    before = site.fakes["storage"].world.read("fenced").get(volume.id, 0)
    results = done(site, nodes.release_node(site.core, red, "n1", keep_volume=True))
    assert list(results) == ["close_port", "power_off", "unexport_volume"]
    assert site.fakes["storage"].world.read("fenced")[volume.id] > before


@pytest.mark.parametrize("fault", ["power_off", "remove", "fence"])
def test_a_volume_stays_with_a_node_that_may_still_write(site: Site, red: Actor, fault: str) -> None:
    site.provision("n1", "red")
    worlds = {
        "power_off": site.bmc.world,
        "remove": site.fakes["export"].world,
        "fence": site.fakes["storage"].world,
    }
    worlds[fault].set_fault(fault, error="Nobody knows.", retryable=False)
    assert failed(site, nodes.release_node(site.core, red, "n1", keep_volume=True)) == "Nobody knows."
    view = nodes.get_node(site.core, red, "n1")
    assert view.node.state is NodeState.ERROR
    assert view.volume is not None
    with pytest.raises(InvalidStateError, match="node 'n1' has the volume"):
        nodes.provision_node(site.core, red, "n2", Order(volume="n1"))
    worlds[fault].set_fault(fault)
    done(site, nodes.release_node(site.core, red, "n1", keep_volume=True))
    done(site, nodes.provision_node(site.core, red, "n2", Order(volume="n1")), "n2")


def test_a_disk_that_is_lost_does_not_keep_its_node(site: Site, red: Actor) -> None:
    site.provision("n1", "red")
    site.fakes["storage"].world.set_fault("fence", error="There is no such disk.", retryable=False)
    done(site, nodes.release_node(site.core, red, "n1"))
    assert nodes.get_node(site.core, SITE, "n1").node.state is NodeState.ALLOCATED


def test_what_was_told_a_volume_stays_told(site: Site, red: Actor) -> None:
    detached(site, red)
    for told in (
        {"hostname": "other"},
        {"user_data": "#cloud-config\n"},
        {"ssh_keys": ("ssh-ed25519 AAAA",)},
        {"size_bytes": GIB},
    ):
        with pytest.raises(InvalidInputError, match="keeps its own"):
            nodes.provision_node(site.core, red, "n1", Order(volume="n1", **told))
    with pytest.raises(InvalidInputError, match="exactly one"):
        nodes.provision_node(site.core, red, "n1", Order(volume="n1", image="debian-12"))


def test_an_attachment_that_is_cancelled_leaves_the_volume(site: Site, red: Actor) -> None:
    volume = detached(site, red)
    disk(site, volume).write_bytes(b"precious")
    view = nodes.provision_node(site.core, red, "n2", Order(volume="n1"))
    operations.cancel_operation(site.core, red, view.operation.id)
    site.settle()
    assert site.operation(view.operation.id).state is OperationState.CANCELLED
    assert volumes.get_volume(site.core, red, "n1").node is None
    assert nodes.get_node(site.core, SITE, "n2").node.state is NodeState.ALLOCATED
    assert disk(site, volume).read_bytes() == b"precious"


def test_an_attachment_that_fails_keeps_the_volume_and_can_be_retried(site: Site, red: Actor) -> None:
    volume = detached(site, red)
    disk(site, volume).write_bytes(b"precious")
    site.bmc.world.set_fault("power_on", error="It refuses.", retryable=False)
    view = nodes.provision_node(site.core, red, "n2", Order(volume="n1"))
    assert failed(site, view) == "It refuses."
    assert nodes.get_node(site.core, red, "n2").node.state is NodeState.ERROR
    site.bmc.world.set_fault("power_on")
    operations.retry_operation(site.core, red, view.operation.id)
    done(site, view, "n2")
    assert disk(site, volume).read_bytes() == b"precious"


def test_a_volume_is_its_projects_alone(site: Site, red: Actor, blue: Actor) -> None:
    detached(site, red)
    assert volumes.list_volumes(site.core, blue) == []
    for refused in (
        lambda: volumes.get_volume(site.core, blue, "n1"),
        lambda: volumes.delete_volume(site.core, blue, "n1"),
        lambda: volumes.flatten_volume(site.core, blue, "n1"),
        lambda: snapshots.create_volume_snapshot(site.core, blue, "n1", "s"),
        lambda: nodes.provision_node(site.core, blue, "n2", Order(volume="n1")),
    ):
        with pytest.raises(NotFoundError):
            refused()
    with pytest.raises(InUseError, match="volume n1"):
        projects.delete_project(site.core, SITE, "red")


def test_a_member_does_not_see_what_happened_before_the_volume_came(
    site: Site, red: Actor, blue: Actor
) -> None:
    """The volume is older than the node's time with blue, which is none of red's business."""
    detached(site, red)
    site.provision("n2", "blue")
    nodes.release_node(site.core, blue, "n2")
    site.settle()
    site.give("red", "n2")
    done(site, nodes.provision_node(site.core, red, "n2", Order(volume="n1")), "n2")
    assert [event.stage for event in nodes.list_events(site.core, red, "n2")] == [
        "allocated",
        "accepted",
        "up",
        "power-on",
    ]


# ---- deleted ----------------------------------------------------------------------------------------


def test_only_a_detached_volume_is_deleted(site: Site, red: Actor) -> None:
    site.provision("n1", "red")
    with pytest.raises(InvalidStateError, match="The node 'n1' has the volume"):
        volumes.delete_volume(site.core, red, "n1")
    done(site, nodes.release_node(site.core, red, "n1", keep_volume=True))
    done(site, volumes.delete_volume(site.core, red, "n1"))
    assert volumes.list_volumes(site.core, red) == []
    assert [stored.ref.kind for stored in site.fakes["storage"].list()] == ["image"]


def test_a_deletion_that_failed_is_retried(site: Site, red: Actor) -> None:
    detached(site, red)
    site.fakes["storage"].world.set_fault("delete", error="It refuses.", retryable=False)
    view = volumes.delete_volume(site.core, red, "n1")
    failed(site, view)
    with pytest.raises(InvalidStateError, match="is deleting"):
        nodes.provision_node(site.core, red, "n2", Order(volume="n1"))
    site.fakes["storage"].world.set_fault("delete")
    operations.retry_operation(site.core, red, view.operation.id)
    done(site, view)


def test_one_thing_at_a_time_is_done_to_a_volume(site: Site, red: Actor) -> None:
    detached(site, red)
    volumes.delete_volume(site.core, red, "n1")
    refusals: list[Callable[[], OperationView]] = [
        lambda: volumes.delete_volume(site.core, red, "n1"),
        lambda: volumes.flatten_volume(site.core, red, "n1"),
        lambda: snapshots.create_volume_snapshot(site.core, red, "n1", "s"),
        lambda: nodes.provision_node(site.core, red, "n2", Order(volume="n1")),
    ]
    for refused in refusals:
        with pytest.raises(BusyError):
            refused()


def test_a_node_is_not_released_while_its_volume_is_flattened(site: Site, red: Actor) -> None:
    site.provision("n1", "red")
    view = volumes.flatten_volume(site.core, red, "n1")
    for keep in (True, False):
        with pytest.raises(BusyError):
            nodes.release_node(site.core, red, "n1", keep_volume=keep)
    done(site, view)
    nodes.release_node(site.core, red, "n1", keep_volume=True)
    with pytest.raises(BusyError):
        volumes.flatten_volume(site.core, red, "n1")


# ---- snapshots --------------------------------------------------------------------------------------


def test_a_detached_volume_is_frozen(site: Site, red: Actor) -> None:
    detached(site, red)
    done(site, snapshots.create_volume_snapshot(site.core, red, "n1", "s"))
    view = snapshots.get_snapshot(site.core, red, "s")
    assert (view.volume, view.snapshot.node_name, view.snapshot.state) == ("n1", "", ObjectState.READY)
    assert snapshots.rename_snapshot(site.core, red, "s", "t").snapshot.name == "t"
    done(site, volumes.delete_volume(site.core, red, "n1"))
    assert snapshots.get_snapshot(site.core, red, "t").volume is None
    done(site, nodes.provision_node(site.core, red, "n2", Order(snapshot="t")), "n2")


def test_a_snapshot_stays_while_a_volume_depends_on_it(site: Site, red: Actor) -> None:
    site.provision("n1", "red")
    done(site, snapshots.create_snapshot(site.core, red, "n1", "s"))
    done(site, nodes.provision_node(site.core, red, "n2", Order(snapshot="s")), "n2")
    done(site, nodes.release_node(site.core, red, "n2", keep_volume=True))
    with pytest.raises(InUseError) as caught:
        snapshots.delete_snapshot(site.core, red, "s")
    assert caught.value.facts["users"] == ["volume n2"]
    done(site, volumes.flatten_volume(site.core, red, "n2"))
    done(site, snapshots.delete_snapshot(site.core, red, "s"))


def test_a_snapshot_stays_while_an_image_depends_on_it(site: Site, red: Actor) -> None:
    site.provision("n1", "red")
    done(site, snapshots.create_snapshot(site.core, red, "n1", "s"))
    snapshot = snapshots.get_snapshot(site.core, red, "s").snapshot
    image_id = site.add_image("web", "red")
    origin = {"kind": "snapshot", "name": "s", "id": snapshot.id}
    for depends in (True, False):
        with site.database.write() as tx:
            values = {"origin": {**origin, "depends": depends}}
            records.images.update(tx, id=image_id, values=values)
        if depends:
            with pytest.raises(InUseError, match="image web"):
                snapshots.delete_snapshot(site.core, red, "s")
    done(site, snapshots.delete_snapshot(site.core, red, "s"))


# ---- rolled back ------------------------------------------------------------------------------------


@pytest.fixture
def frozen(site: Site, red: Actor) -> Volume:
    """The volume of n1, which wrote `new` after the snapshot `s` of `old`; n1 is off."""
    site.provision("n1", "red")
    volume = volume_of(site, "n1")
    disk(site, volume).write_bytes(b"old")
    done(site, snapshots.create_snapshot(site.core, red, "n1", "s"))
    disk(site, volume).write_bytes(b"new")
    power_off(site, "n1")
    return volume


def test_a_node_that_is_off_is_rolled_back(site: Site, red: Actor, frozen: Volume) -> None:
    done(site, volumes.roll_back_node(site.core, red, "n1", "s"))
    assert disk(site, frozen).read_bytes() == b"old"
    assert volume_of(site, "n1").exported
    assert nodes.get_node(site.core, red, "n1").node.state is NodeState.ACTIVE
    done(site, nodes.power_node(site.core, red, "n1", "on"))


def test_a_node_that_is_on_is_not_rolled_back(site: Site, red: Actor, frozen: Volume) -> None:
    done(site, nodes.power_node(site.core, red, "n1", "on"))
    view = volumes.roll_back_node(site.core, red, "n1", "s")
    assert failed(site, view) == "The node 'n1' is on."
    assert disk(site, frozen).read_bytes() == b"new"
    assert volume_of(site, "n1").exported
    assert nodes.get_node(site.core, red, "n1").node.state is NodeState.ACTIVE


@pytest.mark.parametrize("fault", ["power_state", "roll_back"])
def test_a_roll_back_that_fails_serves_the_volume_as_it_was(
    site: Site, red: Actor, frozen: Volume, fault: str
) -> None:
    world = site.bmc.world if fault == "power_state" else site.fakes["storage"].world
    world.set_fault(fault, error="Nobody knows.", retryable=False)
    assert failed(site, volumes.roll_back_node(site.core, red, "n1", "s")) == "Nobody knows."
    assert disk(site, frozen).read_bytes() == b"new"
    assert volume_of(site, "n1").exported
    assert any(site.fakes["export"].world.read("portals").values())


def test_a_node_that_is_turned_on_meanwhile_is_not_rolled_back(
    site: Site, red: Actor, frozen: Volume
) -> None:
    """Between the first look and the moment when its disk is withdrawn: it has parts of the old one in memory."""
    withdraw = site.fakes["export"].remove

    def turned_on(portal: Any, iqn: str) -> None:
        site.bmc.power_on(BmcAccess(f"https://{BMC_HOST}/n1", "root", BMC_PASSWORD))
        withdraw(portal, iqn)

    site.fakes["export"].remove = turned_on
    assert failed(site, volumes.roll_back_node(site.core, red, "n1", "s")) == "The node 'n1' is on."
    assert disk(site, frozen).read_bytes() == b"new"


def test_another_volumes_snapshot_needs_force(site: Site, red: Actor, frozen: Volume) -> None:
    own_image = site.add_image("own", "red")
    done(site, nodes.provision_node(site.core, red, "n2", Order(image="own")), "n2")
    done(site, nodes.release_node(site.core, red, "n2", keep_volume=True))
    with pytest.raises(InvalidStateError, match="not one of the volume"):
        volumes.roll_back_volume(site.core, red, "n2", "s")
    with site.database.read() as tx:
        assert records.volumes.list(tx, name="n2")[0].image_id == own_image
    done(site, volumes.roll_back_volume(site.core, red, "n2", "s", force=True))
    view = volumes.get_volume(site.core, red, "n2")
    assert disk(site, view.volume).read_bytes() == b"old"
    assert (view.image, view.snapshot) == ("debian-12", "s")


def test_a_volume_is_rolled_back_through_the_node_that_has_it(site: Site, red: Actor, frozen: Volume) -> None:
    with pytest.raises(InvalidStateError, match="The node 'n1' has the volume"):
        volumes.roll_back_volume(site.core, red, "n1", "s")
    with pytest.raises(NotFoundError):
        volumes.roll_back_node(site.core, red, "n1", "nothing")


# ---- compared ---------------------------------------------------------------------------------------


def test_two_points_are_compared(site: Site, red: Actor, blue: Actor, frozen: Volume) -> None:
    found = done(site, volumes.diff(site.core, red, "s", "volume:n1"))["compare"]
    assert found == {"bytes": 3, "extents": 1, "first_extents": [[0, 3]]}
    same = done(site, volumes.diff(site.core, red, "snapshot:s", "snapshot:s"))["compare"]
    assert (same["bytes"], same["extents"]) == (0, 0)
    done(site, volumes.diff(site.core, red, "image:debian-12", "n1"))
    with pytest.raises(InvalidInputError, match="newer: 'n1' names nothing"):
        volumes.diff(site.core, blue, "debian-12", "n1")
    with pytest.raises(InvalidInputError, match="no kind"):
        volumes.diff(site.core, red, "node:n1", "n1")


def test_a_name_that_two_things_have_is_not_guessed(site: Site, red: Actor, frozen: Volume) -> None:
    snapshots.rename_snapshot(site.core, red, "s", "n1")
    with pytest.raises(InvalidInputError, match="more than one"):
        volumes.diff(site.core, red, "n1", "debian-12")
    volumes.diff(site.core, red, "snapshot:n1", "volume:n1")


def test_a_comparison_holds_nothing(site: Site, red: Actor, frozen: Volume) -> None:
    volumes.diff(site.core, red, "s", "n1")
    volumes.diff(site.core, red, "s", "n1")
    snapshots.delete_snapshot(site.core, red, "s")


def test_a_refusal_is_a_sentence_with_a_remedy(site: Site, red: Actor) -> None:
    detached(site, red)
    with pytest.raises(BmiError) as caught:
        nodes.release_node(site.core, red, "n2", keep_volume=True)
    assert caught.value.remedy
