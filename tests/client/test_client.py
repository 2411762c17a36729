"""The typed client against a real server, and against connections that break."""

import itertools
import os
import socket
from pathlib import Path
from typing import Any, get_args, get_type_hints

import httpx
import pytest

from bmi import errors
from bmi.api import image_models, models, people_models, storage_models
from bmi.client import Client, documents, succeeded
from bmi.errors import (
    BusyError,
    DriverError,
    InvalidInputError,
    NotFoundError,
    TimedOutError,
    UnauthenticatedError,
    UnavailableError,
)
from tests.installation import BMC_PASSWORD, Site


def test_every_call(site: Site, client: Client, tmp_path: Path) -> None:
    assert client.health()["status"] == "ok"
    assert client.whoami()["role"] == "admin"
    assert client.create_token("t", project="red", lifetime_s=60)["secret"].startswith("bmi_")
    assert len(client.list_tokens()) == 2
    client.revoke_token("t")
    assert client.register_switch("sw2", driver="fake")["name"] == "sw2"
    assert len(client.list_switches()) == 2
    assert client.get_switch("sw2")["driver"] == "fake"
    assert client.change_switch("sw2", options={"root": "x"})["options"] == {"root": "x"}
    assert client.cable([{"switch": "sw2", "port": "p1"}]) == 1
    assert client.list_ports("sw2")[0]["name"] == "p1"
    checked = client.check_switch("sw2", repair=True, widen=True)
    site.settle()
    compared = succeeded(client.get_operation(checked["id"]))["steps"][-1]["result"]
    assert (compared or {})["differences"] == []
    client.remove_switch("sw2")
    client.create_project("green", vlan=150)
    site.settle()
    assert client.get_project("green")["network"] is not None
    client.delete_project("green")
    client.register_node(
        "n9", mac="52:54:00:00:00:99", bmc="fake+https://bmc.example.net/n9", bmc_password=BMC_PASSWORD
    )
    site.settle()
    assert [project["name"] for project in client.list_projects()] == ["blue", "red"]
    assert client.get_node("n9")["state"] == "free"
    client.delete_node("n9")
    provision = client.provision_node("n1", image="debian-12", project="red")
    assert client.list_operations(live=True, subject="n1") == [provision]
    site.settle("n1")
    assert succeeded(client.get_operation(provision["id"]))["state"] == "succeeded"
    assert [node["name"] for node in client.list_nodes()] == ["n1", "n2", "n3"]
    stages = {event["stage"] for event in client.list_events("n1")}
    assert stages == {"allocated", "accepted", "power-on", "up"}
    client.power_node("n1", "off")
    site.settle()
    client.create_snapshot("n1", "s")
    site.settle()
    assert client.get_snapshot("s", project="red") == client.list_snapshots()[0]
    client.delete_snapshot("s", project="red")
    client.release_node("n1")
    site.settle()
    assert client.get_image("debian-12") == client.list_images()[0]
    client.delete_image("debian-12")
    assert len(client.list_operations(limit=3)) == 3
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(2_500_000))
    sent: list[tuple[int, int]] = []
    upload = client.import_image(
        "new", disk, public=True, on_progress=lambda now, total: sent.append((now, total))
    )
    assert upload["kind"] == "import-image"
    assert sent == [(1 << 20, 2_500_000), (2 << 20, 2_500_000), (2_500_000, 2_500_000)]
    client.cancel_operation(upload["id"])
    site.settle()
    assert client.get_operation(upload["id"])["state"] == "cancelled"


def test_a_long_list_is_read_page_by_page(
    site: Site, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bmi.client.transport._PAGE_SIZE", 2)
    site.add_nodes("a", "b", "c")
    assert [node["name"] for node in client.list_nodes()] == ["a", "b", "c", "n1", "n2", "n3"]
    assert len(client.list_operations(limit=3)) == 3


def test_problems_come_back_as_errors(site: Site, url: str, client: Client, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"There is no node 'a\?b#c d'"):
        client.get_node("a?b#c d")
    with pytest.raises(InvalidInputError, match="mac"):
        client.register_node("n9", mac="x", bmc="fake+https://bmc.example.net")
    client.provision_node("n1", image="debian-12", project="red")
    with pytest.raises(BusyError) as caught:
        client.provision_node("n1", image="debian-12", project="red")
    assert caught.value.facts["operation"] == client.list_operations(live=True)[0]["id"]
    with pytest.raises(UnauthenticatedError), Client(url) as anonymous:
        anonymous.whoami()
    with pytest.raises(InvalidInputError, match="file"):
        client.import_image("x", tmp_path / "missing")
    with pytest.raises(InvalidInputError, match="url"):
        Client("localhost:7550")


def test_a_refused_upload_says_why_however_large_it_is(site: Site, client: Client, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(NotFoundError):
        client.import_image("new", disk, project="green")
    with pytest.raises(errors.TooLargeError):
        client.import_image("new", disk)


def test_waiting_shows_every_change_and_the_end(site: Site, client: Client) -> None:
    site.will_boot("n1")
    operation = client.provision_node("n1", image="debian-12", project="red")
    seen: list[documents.Operation] = []
    with site.working():
        ended = client.wait(operation["id"], seen.append, timeout_s=30, poll_s=0.01)
    assert ended["state"] == "succeeded"
    assert seen[-1] == ended
    assert all(before != after for before, after in itertools.pairwise(seen))


def test_a_failure_is_the_very_error(site: Site, client: Client) -> None:
    site.bmc.world.set_fault("power_on", error="It refuses.", retryable=False)
    operation = client.provision_node("n1", image="debian-12", project="red")
    site.settle()
    with pytest.raises(DriverError, match=r"It refuses\.") as caught:
        succeeded(client.wait(operation["id"]))
    assert not caught.value.retryable


def test_waiting_ends(client: Client) -> None:
    operation = client.provision_node("n1", image="debian-12", project="red")
    with pytest.raises(TimedOutError, match="has not ended"):
        client.wait(operation["id"], timeout_s=0, poll_s=0.01)


def test_nobody_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with Client(address) as client, pytest.raises(UnavailableError, match="cannot be reached") as caught:
            client.health()
    assert "bmi server run" in caught.value.remedy


def answering(*answers: httpx.Response | Exception) -> tuple[Client, list[httpx.Request]]:
    """A client whose requests meet these answers, one after the other; and the requests."""
    queue, seen = list(answers), []

    def answer(request: httpx.Request) -> httpx.Response:
        request.read()
        seen.append(request)
        found = queue.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    return Client("http://bmi.test", transport=httpx.MockTransport(answer)), seen


@pytest.mark.parametrize(
    "broken", [httpx.ReadError("reset"), httpx.RemoteProtocolError("gone"), httpx.ConnectError("no")]
)
def test_an_operation_is_asked_for_once_more_with_the_same_key(broken: Exception) -> None:
    client, seen = answering(broken, httpx.Response(202, json={"id": "o1"}))
    assert client.release_node("n1")["id"] == "o1"
    first, second = (request.headers["idempotency-key"] for request in seen)
    assert first == second
    client, seen = answering(httpx.Response(202, json={}), httpx.Response(202, json={}))
    client.release_node("n1")
    client.release_node("n1")
    assert seen[0].headers["idempotency-key"] != seen[1].headers["idempotency-key"]


def test_what_cannot_be_repeated_is_not() -> None:
    client, seen = answering(httpx.ReadError("reset"), httpx.Response(201, json={}))
    with pytest.raises(UnavailableError):
        client.create_token("t")
    assert len(seen) == 1


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(502, text="<html>"), httpx.Response(404, json={"error": "?"}), httpx.ReadTimeout("slow")],
)
def test_what_is_no_bmi_server_is_unavailable(answer: Any) -> None:
    client, _ = answering(answer)
    with pytest.raises(UnavailableError):
        client.health()


def test_a_server_that_restarts_is_waited_for() -> None:
    running = {"id": "o1", "state": "running", "kind": "release", "subject_name": "n1"}
    gone = httpx.ConnectError("restarting")
    client, _ = answering(
        httpx.Response(200, json=running),
        gone,
        gone,
        httpx.Response(200, json=running | {"state": "succeeded"}),
    )
    states = [operation["state"] for operation in client.follow("o1", poll_s=0)]
    assert states == ["running", "succeeded"]


@pytest.mark.parametrize(
    ("shown", "document"),
    [
        (people_models.Whoami, documents.Whoami),
        (people_models.UserShown, documents.User),
        (people_models.MemberShown, documents.Member),
        (people_models.AuditEntryShown, documents.AuditEntry),
        (models.ProjectShown, documents.Project),
        (models.NetworkShown, documents.Network),
        (people_models.TokenShown, documents.Token),
        (people_models.NewTokenShown, documents.NewToken),
        (models.SwitchShown, documents.Switch),
        (models.PortShown, documents.Port),
        (models.StepShown, documents.Step),
        (models.OperationShown, documents.Operation),
        (models.LiveOperation, documents.LiveOperation),
        (models.NodeVolume, documents.NodeVolume),
        (storage_models.VolumeShown, documents.Volume),
        (storage_models.UsageShown, documents.Usage),
        (storage_models.KinShown, documents.Kin),
        (models.BmcShown, documents.Bmc),
        (models.NodeShown, documents.Node),
        (models.TenantNetworkShown, documents.TenantNetwork),
        (models.NetworkMemberShown, documents.NetworkMember),
        (models.PoolPart, documents.Pool),
        (models.AllocationShown, documents.Allocation),
        (models.EventShown, documents.Event),
        (image_models.ImageShown, documents.Image),
        (image_models.UploadShown, documents.Upload),
        (storage_models.SnapshotShown, documents.Snapshot),
    ],
)
def test_the_clients_documents_are_the_apis_models(shown: Any, document: Any) -> None:
    hints = get_type_hints(document)
    assert set(hints) == set(shown.model_fields)
    optional = {name for name, hint in hints.items() if type(None) in get_args(hint)}
    assert optional == {
        name for name, field in shown.model_fields.items() if type(None) in get_args(field.annotation)
    }
