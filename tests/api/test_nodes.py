"""Nodes over HTTP: registered, provisioned, powered, released, and every refusal."""

from typing import Any

import pytest

from bmi.errors import BmiError, InsufficientSpaceError, UnavailableError
from bmi.store import operations as journal
from tests.api.conftest import Caller
from tests.installation import BMC_HOST, BMC_PASSWORD, Site

NEW = {
    "name": "n9",
    "mac": "52:54:00:00:00:99",
    "bmc": f"fake+https://{BMC_HOST}/n9",
    "bmc_username": "root",
    "bmc_password": BMC_PASSWORD,
}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@example.net"


def test_a_node_lives_from_registration_to_removal(site: Site, admin: Caller) -> None:
    operation = admin.post("/nodes", NEW | {"switch": "sw1", "port": "port9"})
    assert (operation["kind"], operation["subject_name"]) == ("register", "n9")
    site.settle()
    node = admin.get("/nodes/n9")
    assert (node["state"], node["mac"], node["port"]) == ("free", "52:54:00:00:00:99", "port9")
    nic = {"name": "boot", "mac": "52:54:00:00:00:99", "networks": [], "switch": "sw1", "port": "port9"}
    assert node["nics"] == [nic]
    assert node["bmc"] == {
        "driver": "fake",
        "address": f"https://{BMC_HOST}/n9",
        "username": "root",
        "verify_tls": True,
    }
    admin.delete("/nodes/n9")
    site.settle()
    admin.refused(404, "GET", "/nodes/n9")


def test_a_node_is_provisioned_powered_frozen_and_released(site: Site, red: Caller) -> None:
    order = {"image": "debian-12", "hostname": "web", "ssh_keys": [KEY], "user_data": "#cloud-config\n"}
    operation = red.post("/nodes/n1/provision", order)
    assert operation["state"] == "queued"
    assert red.get("/nodes/n1")["operation"] == {k: operation[k] for k in ("id", "kind", "state")}
    site.settle("n1")
    node = red.get("/nodes/n1")
    assert (node["state"], node["project"], node["image"]) == ("active", "red", "debian-12")
    assert node["address"].startswith("10.96.0.")
    assert node["operation"] is None
    ended = red.get(f"/operations/{operation['id']}")
    assert ended["state"] == "succeeded"
    assert {step["state"] for step in ended["steps"]} == {"done"}
    assert ended["created_at"].endswith("Z")
    stages = [event["stage"] for event in red.get("/nodes/n1/events")["items"]]
    assert sorted(stages) == ["accepted", "allocated", "power-on", "up"]

    assert red.post("/nodes/n1/power", {"action": "off"})["kind"] == "power-off"
    site.settle()
    red.post("/nodes/n1/snapshots", {"name": "before-upgrade"})
    site.settle()
    assert red.get("/snapshots/before-upgrade")["state"] == "ready"
    site.give("red", "n2")
    red.post("/nodes/n2/provision", {"snapshot": "before-upgrade"})
    site.settle("n2")
    assert red.get("/nodes/n2")["snapshot"] == "before-upgrade"

    red.post("/nodes/n1/release")
    site.settle()
    shown = red.get("/nodes/n1")
    assert (shown["state"], shown["volume"], shown["address"]) == ("allocated", None, None)
    assert red.post("/nodes/n1/free")["kind"] == "free"
    site.settle()
    red.refused(404, "GET", "/nodes/n1")


def test_nodes_are_labelled_counted_and_allocated(site: Site, admin: Caller, blue: Caller) -> None:
    assert admin("PATCH", "/nodes/n1/labels", {"add": ["gpu"]}).json()["labels"] == ["gpu"]
    assert blue.get("/pool") == {"items": [{"labels": [], "free": 1}, {"labels": ["gpu"], "free": 1}]}
    problem = blue.refused(409, "POST", "/pool/allocate", {"count": 2, "labels": ["gpu"]})
    assert (problem["type"], problem["free"]) == ("urn:bmi:problem:not-enough-nodes", 1)
    key, asked = {"Idempotency-Key": "k-1"}, {"count": 1, "labels": ["gpu"]}
    for _ in range(2):
        made = blue.post("/pool/allocate", asked, headers=key)
        assert made == {"nodes": ["n1"], "operations": []}
    blue.refused(422, "POST", "/pool/allocate", {"count": 1}, headers=key)
    assert [node["name"] for node in blue.get("/nodes")["items"]] == ["n1", "n2"]
    assert admin.refused(422, "POST", "/pool/allocate", {"count": 1})["field"] == "project"
    blue.refused(403, "POST", "/pool/allocate", {"count": 1, "project": "red"})


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"mac": "52:54:00:00:00:01"}, 409, "mac"),
        ({"mac": "52:54:00:00:00"}, 422, "mac"),
        ({"mac": "53:54:00:00:00:01"}, 422, "mac"),
        ({"name": "n1"}, 409, "name"),
        ({"name": "N_1"}, 422, "name"),
        ({"name": "x" * 64}, 422, "name"),
        ({"name": "a\0b"}, 422, "name"),
        ({"bmc": "https://10.0.0.5"}, 422, "bmc"),
        ({"bmc": "fake+ftp://10.0.0.5"}, 422, "bmc"),
        ({"bmc": "fake+https://me:secret@10.0.0.5"}, 422, "bmc"),
        ({"switch": "sw1"}, 422, "port"),
        ({"port": "port9"}, 422, "switch"),
        ({"switch": "sw1", "port": "port1"}, 409, "port"),
        ({"switch": "sw7", "port": "port1"}, 404, "sw7"),
        ({"colour": "green"}, 422, "colour"),
        ({"bmc_verify_tls": "perhaps"}, 422, "bmc_verify_tls"),
    ],
)
def test_a_bad_registration_is_refused(admin: Caller, change: dict[str, Any], status: int, word: str) -> None:
    problem = admin.refused(status, "POST", "/nodes", NEW | change)
    assert word in problem["detail"]
    if status == 422:
        assert problem["field"] == word


@pytest.mark.parametrize(
    ("order", "status", "word"),
    [
        ({"image": "debian-13"}, 404, "debian-13"),
        ({"snapshot": "yesterday"}, 404, "yesterday"),
        ({"image": "debian-12", "snapshot": "yesterday"}, 422, "image"),
        ({}, 422, "image"),
        ({"image": "debian-12", "project": "blue"}, 403, "red"),
        ({"image": "debian-12", "hostname": "-"}, 422, "hostname"),
        ({"image": "debian-12", "ssh_keys": ["not a key"]}, 422, "ssh_keys"),
        ({"image": "debian-12", "ssh_keys": ["ssh-ed25519 AAAA\nssh-rsa BBBB"]}, 422, "ssh_keys"),
        ({"image": "debian-12", "ssh_keys": ["k"] * 101}, 422, "ssh_keys"),
        ({"image": "debian-12", "user_data": "x" * 65537}, 422, "user_data"),
        ({"image": 12}, 422, "image"),
        (["image"], 422, "body"),
    ],
)
def test_a_bad_order_is_refused(red: Caller, order: Any, status: int, word: str) -> None:
    assert word in red.refused(status, "POST", "/nodes/n1/provision", order)["detail"]


def test_an_administrator_must_say_for_which_project(admin: Caller) -> None:
    assert admin.refused(422, "POST", "/nodes/n1/provision", {"image": "debian-12"})["field"] == "project"
    admin.refused(404, "POST", "/nodes/n1/provision", {"image": "debian-12", "project": "green"})


def test_a_busy_node_says_what_it_is_busy_with(red: Caller) -> None:
    operation = red.post("/nodes/n1/provision", {"image": "debian-12"})
    problem = red.refused(409, "POST", "/nodes/n1/provision", {"image": "debian-12"})
    assert problem["type"] == "urn:bmi:problem:busy"
    assert problem["operation"] == operation["id"]
    assert problem["retryable"]
    red.refused(409, "POST", "/nodes/n1/release")
    red.refused(409, "POST", "/nodes/n1/power", {"action": "on"})


def test_what_a_state_does_not_allow_is_refused(site: Site, red: Caller, admin: Caller) -> None:
    site.provision("n1", "red")
    assert (
        "bmi release n1" in red.refused(409, "POST", "/nodes/n1/provision", {"image": "debian-12"})["remedy"]
    )
    admin.refused(409, "DELETE", "/nodes/n1")
    admin.refused(409, "POST", "/nodes/n2/release")
    admin.refused(409, "POST", "/nodes/n2/power", {"action": "on"})
    admin.refused(409, "POST", "/nodes/n2/snapshots", {"name": "s"})
    assert red.refused(422, "POST", "/nodes/n1/power", {"action": "explode"})["field"] == "action"
    assert red.refused(422, "POST", "/nodes/n1/snapshots", {"name": "../s"})["field"] == "name"
    admin.refused(409, "DELETE", "/projects/red")


def test_a_node_that_is_not_there_is_not_found(red: Caller) -> None:
    for method, path, body in (
        ("GET", "/nodes/n7", None),
        ("GET", "/nodes/..%2Fprojects", None),
        ("GET", "/nodes/n7/events", None),
        ("POST", "/nodes/n7/provision", {"image": "debian-12"}),
        ("POST", "/nodes/n7/release", None),
        ("POST", "/nodes/n7/power", {"action": "on"}),
        ("POST", "/nodes/n7/snapshots", {"name": "s"}),
    ):
        assert red.refused(404, method, path, body)["type"] == "urn:bmi:problem:not-found"


def test_no_free_address(site: Site, admin: Caller, red: Caller) -> None:
    admin.post("/projects", {"name": "tiny", "address": "10.1.1.1/30"})
    site.settle()
    site.provision("n1", "tiny")
    problem = admin.refused(409, "POST", "/nodes/n2/provision", {"image": "debian-12", "project": "tiny"})
    assert problem["type"] == "urn:bmi:problem:no-free-address"


def test_a_member_sees_own_nodes_only(red: Caller) -> None:
    assert [node["name"] for node in red.get("/nodes")["items"]] == ["n1"]
    red.refused(404, "GET", "/nodes/n3")


def test_a_refusing_bmc_is_told_to_members_without_the_sites_addresses(
    site: Site, admin: Caller, red: Caller
) -> None:
    site.bmc.world.set_fault("power_on", error=f"The BMC at {BMC_HOST} refuses.", retryable=False)
    operation = red.post("/nodes/n1/provision", {"image": "debian-12"})
    site.settle()
    as_member = [
        red("GET", path).text for path in ("/nodes/n1", f"/operations/{operation['id']}", "/operations")
    ]
    assert not any(BMC_HOST in text for text in as_member)
    assert red.get("/nodes/n1")["problem"]["step"] == "power_on"
    assert BMC_HOST in admin.get("/nodes/n1")["problem"]["detail"]
    assert BMC_HOST in admin.get(f"/operations/{operation['id']}")["problem"]["detail"]


@pytest.mark.parametrize("kind", [InsufficientSpaceError, UnavailableError])
def test_the_sites_paths_and_database_are_not_told_to_members(
    site: Site, admin: Caller, red: Caller, kind: type[BmiError]
) -> None:
    made = red.post("/nodes/n1/provision", {"image": "debian-12"})
    with site.database.write() as tx:
        problem = kind("It is at /srv/bmi.").problem()
        journal.operations.update(tx, id=made["id"], values={"problem": problem})
    shown = red.get(f"/operations/{made['id']}")["problem"]
    assert shown["type"] == problem["type"]
    assert "/srv/bmi" not in str(shown)
    assert admin.get(f"/operations/{made['id']}")["problem"]["detail"] == "It is at /srv/bmi."
