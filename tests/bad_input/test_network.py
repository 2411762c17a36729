"""Networks that cannot be opened: what failed waits for a retry or its end, what was cancelled never was."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bmi.api.app import create_app
from bmi.client import Client
from bmi.config import NetworkSettings
from bmi.drivers.export import tgt
from bmi.errors import AlreadyExistsError, DriverError, InvalidStateError, NoFreeAddressError
from tests.bad_input.conftest import Place
from tests.drivers.export.iscsi import ADDRESS, namespace
from tests.live import serving


def listeners(netns: str) -> str:
    """Who listens on the port of iSCSI there."""
    command = ["ip", "netns", "exec", netns, "ss", "-Hltn", "sport = :3260"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def refuse_portals(place: Place, error: str = "") -> None:
    world = place.site.fakes["export"].world
    if error:
        world.set_fault("ensure_portal", error=error, retryable=False)
    else:
        world.set_fault("ensure_portal")


def network_state(place: Place, project: str) -> str:
    network = place.client.get_project(project)["network"]
    assert network
    return network["state"]


def test_a_project_whose_network_failed_goes_on_when_it_is_retried(place: Place) -> None:
    before, outside = place.everything(), place.outside()
    refuse_portals(place, "The exporter is not installed.")

    failed = place.client.create_project("green")
    assert "not installed" in place.ended(failed)["problem"]["detail"]  # type: ignore[index]  # it has one

    assert place.outside() == outside
    assert network_state(place, "green") == "error"
    with pytest.raises(InvalidStateError, match="network of project 'green' is error"):
        place.client.provision_node("n1", image="debian-12", project="green")
    with pytest.raises(AlreadyExistsError):
        place.client.create_project("green")

    refuse_portals(place)
    place.client.retry_operation(failed["id"])
    assert network_state(place, "green") == "creating"
    place.site.settle()
    assert network_state(place, "green") == "ready"
    place.succeeds(place.client.provision_node("n1", image="debian-12", project="green"), "n1")
    place.succeeds(place.client.release_node("n1"))
    place.succeeds(place.client.free_node("n1"))
    place.succeeds(place.client.delete_project("green"))
    assert place.everything() == before


def test_a_project_whose_network_failed_can_be_deleted_and_asked_for_again(place: Place) -> None:
    before = place.everything()
    refuse_portals(place, "The exporter is not installed.")
    failed = place.client.create_project("green")
    place.ended(failed)
    place.succeeds(place.client.delete_project("green"))
    assert place.everything() == before

    with pytest.raises(InvalidStateError, match="came after it"):
        place.client.retry_operation(failed["id"])
    refuse_portals(place)
    place.succeeds(place.client.create_project("green"))


def test_a_project_that_cannot_be_deleted_is_retried(place: Place) -> None:
    before = place.everything()
    place.succeeds(place.client.create_project("green"))
    uplink = place.site.fakes["uplink"].world
    uplink.set_fault("remove", error="The switch is away.", retryable=False)
    failed = place.client.delete_project("green")
    assert place.ended(failed)["state"] == "failed"
    assert network_state(place, "green") == "error"

    uplink.set_fault("remove")
    place.client.retry_operation(failed["id"])
    assert network_state(place, "green") == "deleting"
    place.site.settle()
    assert place.everything() == before


def test_a_project_that_is_cancelled_while_it_is_made_never_was(place: Place) -> None:
    before = place.everything()
    asked = place.client.create_project("green")
    place.client.cancel_operation(asked["id"])
    assert place.ended(asked)["state"] == "cancelled"
    assert place.everything() == before
    place.succeeds(place.client.create_project("green"))


def test_a_cancelled_project_that_has_something_already_stays_to_be_deleted(
    place: Place, tmp_path: Path
) -> None:
    asked = place.client.create_project("green")
    disk = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
    place.client.import_image("rocky-9", disk, project="green")
    place.client.cancel_operation(asked["id"])
    ended = place.ended(asked)
    assert ended["state"] == "failed"
    assert ended["problem"]
    assert ended["problem"]["type"] == "urn:bmi:problem:in-use"
    assert network_state(place, "green") == "error"
    place.succeeds(place.client.delete_image("rocky-9", project="green"))
    place.succeeds(place.client.delete_project("green"))


@contextmanager
def with_pools(place: Place, pools: NetworkSettings) -> Iterator[Client]:
    """A client of a server that takes networks from these pools."""
    settings = place.site.core.settings.model_copy(update={"networks": pools})
    app = create_app(replace(place.site.core, settings=settings), uploads_dir=place.site.uploads)
    with serving(app) as url, Client(url, place.site.token("other")) as client:
        yield client


@pytest.mark.parametrize(
    ("pools", "said"),
    [
        ({"vlans": "100-101"}, "All VLANs from 100 to 101 are in use"),
        ({"subnets": "10.96.0.0/23"}, "All /24 networks of 10.96.0.0/23 are in use"),
    ],
)
def test_a_pool_that_is_used_up(place: Place, pools: dict[str, str], said: str) -> None:
    before = place.everything()
    with with_pools(place, NetworkSettings.model_validate(pools)) as client:
        with pytest.raises(NoFreeAddressError, match=said) as caught:
            client.create_project("green")
        assert "Enlarge networks." in caught.value.remedy
        assert place.everything() == before
        place.succeeds(client.delete_project("blue"))
        place.succeeds(client.create_project("green"))


@contextmanager
def listening(netns: str) -> Iterator[None]:
    """Another program on port 3260."""
    program = f"import socket, time; s = socket.create_server(('{ADDRESS}', 3260)); print(flush=True); time.sleep(600)"
    command = ["nsenter", f"--net=/run/netns/{netns}", "--", sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        try:
            yield
        finally:
            other.kill()


@pytest.mark.real
@pytest.mark.parametrize("way_out", ["retry", "again"])
def test_port_3260_taken(place: Place, tmp_path: Path, way_out: str) -> None:
    run_dir = tmp_path / "run"
    place.equip(export=tgt.create(run_dir=str(run_dir)))
    before = place.everything()
    prefix = f"bmi-bad-{os.getpid()}"
    with (
        namespace(f"{prefix}-150") as netns,
        with_pools(place, NetworkSettings(netns_prefix=prefix)) as client,
    ):
        with listening(netns):
            failed = client.create_project("green", vlan=150, address=f"{ADDRESS}/24")
            problem = place.fails(failed)
        assert isinstance(problem, DriverError)
        assert f"cannot listen on {ADDRESS} port 3260 in the network namespace {netns}" in problem.detail
        assert "python" in problem.detail
        assert "[export] port" in problem.remedy
        assert not listeners(netns)
        assert list(run_dir.iterdir()) == []
        assert place.outside() == {name: before[name] for name in place.outside()}

        try:
            if way_out == "retry":
                place.succeeds(client.retry_operation(failed["id"]))
            else:
                place.succeeds(client.delete_project("green"))
                assert place.everything() == before
                place.succeeds(client.create_project("green", vlan=150, address=f"{ADDRESS}/24"))
            assert listeners(netns)
        finally:
            place.succeeds(client.delete_project("green"))
    assert place.everything() == before
