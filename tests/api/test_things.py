"""Projects, tokens, switches, images, snapshots and operations over HTTP."""

from typing import Any

import pytest

from bmi.service import snapshots
from tests.api.conftest import Caller
from tests.asgi import AsgiTransport
from tests.installation import SITE, Site


def test_a_project_comes_and_goes(site: Site, admin: Caller) -> None:
    operation = admin.post("/projects", {"name": "green", "vlan": 150, "address": "10.1.1.1/24"})
    assert (operation["kind"], operation["subject_name"]) == ("open-network", "green")
    assert admin.get("/projects/green")["network"]["state"] == "creating"
    site.settle()
    assert admin.get("/projects/green")["network"] == {
        "vlan": 150,
        "address": "10.1.1.1/24",
        "state": "ready",
    }
    assert site.fakes["uplink"].list().count("bmi-150") == 1
    admin.delete("/projects/green")
    site.settle()
    admin.refused(404, "GET", "/projects/green")


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"name": "red"}, 409, "name"),
        ({"name": "Green"}, 422, "name"),
        ({"name": "green", "vlan": 1}, 422, "vlan"),
        ({"name": "green", "vlan": 4095}, 422, "vlan"),
        ({"name": "green", "vlan": 100}, 409, "VLAN"),
        ({"name": "green", "address": "10.1.1.300/24"}, 422, "address"),
        ({"name": "green", "address": "10.1.1.0/24"}, 422, "address"),
        ({"name": "green", "address": "10.1.1.1/31"}, 422, "address"),
        ({"name": "green", "address": "10.96.0.9/24"}, 422, "overlaps"),
        ({}, 422, "name"),
        ({"name": "green", "vlan": "many"}, 422, "vlan"),
    ],
)
def test_a_bad_project_is_refused(admin: Caller, body: dict[str, Any], status: int, word: str) -> None:
    assert word in admin.refused(status, "POST", "/projects", body)["detail"]


def test_a_token_is_shown_once(site: Site, admin: Caller) -> None:
    made = admin.post("/tokens", {"name": "ci", "project": "red", "lifetime_s": 3600})
    assert (made["role"], made["project"]) == ("member", "red")
    assert made["secret"].startswith("bmi_")
    listed = admin("GET", "/tokens")
    assert made["secret"] not in listed.text
    assert made["secret"].rpartition("_")[2] not in str(site.everything())
    assert {token["name"]: token["project"] for token in listed.json()["items"]} == {
        "ci": "red",
        "root": None,
    }


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"name": "root"}, 409, "name"),
        ({"name": "ci", "project": "green"}, 404, "green"),
        ({"name": "ci", "lifetime_s": 0}, 422, "lifetime_s"),
        ({"name": "ci", "lifetime_s": 1e300}, 422, "lifetime_s"),
        ({"name": ""}, 422, "name"),
    ],
)
def test_a_bad_token_is_refused(admin: Caller, body: dict[str, Any], status: int, word: str) -> None:
    assert word in admin.refused(status, "POST", "/tokens", body)["detail"]
    admin.refused(404, "DELETE", "/tokens/ci")


def test_a_switch_is_in_use_as_long_as_a_node_is_cabled_to_it(site: Site, admin: Caller) -> None:
    made = admin.post(
        "/switches", {"name": "sw2", "driver": "ovs", "options": {"bridge": "br0", "timeout_s": 5}}
    )
    assert made["options"] == {"bridge": "br0", "timeout_s": 5}
    assert [switch["name"] for switch in admin.get("/switches")["items"]] == ["sw1", "sw2"]
    changed = admin("PATCH", "/switches/sw2", {"options": {"timeout_s": None, "bridge": "br1"}})
    assert changed.json()["options"] == {"bridge": "br1"}
    admin.refused(422, "PATCH", "/switches/sw2", {"options": {"password": "calvin"}})
    admin.refused(404, "PATCH", "/switches/sw3", {"options": {}})
    admin("POST", "/switches/cables", {"cables": [{"switch": "sw2", "port": "spare"}]})
    assert admin.refused(409, "DELETE", "/switches/sw2")["users"] == ["spare"]
    admin.delete("/switches/sw2?force=true")
    admin.refused(409, "POST", "/switches", {"name": "sw1", "driver": "ovs"})
    admin.refused(422, "POST", "/switches", {"name": "sw3", "driver": "../ovs"})
    admin.refused(404, "DELETE", "/switches/sw2")
    assert admin.refused(409, "DELETE", "/switches/sw1")["users"] == ["port1", "port2", "port3"]


def test_an_image_in_use_is_not_deleted(site: Site, admin: Caller, red: Caller) -> None:
    site.add_image("mine", "red")
    site.provision("n1", "red", "mine")
    assert red.refused(409, "DELETE", "/images/mine")["users"] == ["node n1"]
    site.provision("n2", "red")
    assert admin.refused(409, "DELETE", "/images/debian-12")["users"] == ["node n2"]
    red.post("/nodes/n1/release")
    site.settle()
    red.delete("/images/mine")
    red.refused(409, "DELETE", "/images/mine")
    site.settle()
    red.refused(404, "GET", "/images/mine")


def test_who_else_uses_an_image_is_counted_and_not_named(site: Site, admin: Caller, red: Caller) -> None:
    image_id = site.add_image("shared", "red", public=True)
    site.provision("n1", "blue", "shared")
    site.provision("n2", "red", "shared")
    site.provision("n3", "blue", "shared")
    red.post("/nodes/n2/snapshots", {"name": "mine"})
    site.settle()
    assert red.get("/images/shared")["id"] == image_id
    problem = red.refused(409, "DELETE", "/images/shared")
    assert problem["users"] == ["node n2", "snapshot mine", "2 of other projects"]
    assert "n1" not in str(problem)
    everybody = ["node n1", "node n2", "node n3", "snapshot mine"]
    assert admin.refused(409, "DELETE", "/images/shared")["users"] == everybody


def test_to_an_administrator_a_name_means_one_image(site: Site, admin: Caller) -> None:
    red_id, blue_id = site.add_image("os", "red"), site.add_image("os", "blue")
    assert "blue, red" in admin.refused(422, "GET", "/images/os")["detail"]
    admin.refused(422, "DELETE", "/images/os")
    assert admin.get("/images/os", project="blue")["id"] == blue_id
    admin.delete("/images/os?project=blue")
    site.settle()
    assert admin.get("/images/os")["id"] == red_id
    of_the_site = site.add_image("os")
    assert admin.get("/images/os")["id"] == of_the_site
    admin.refused(404, "GET", "/images/os?project=green")


def test_snapshots(site: Site, admin: Caller, red: Caller) -> None:
    site.provision("n1", "red")
    operation = red.post("/nodes/n1/snapshots", {"name": "s1"})
    assert operation["args"]["snapshot"] == "s1"
    red.refused(409, "DELETE", "/snapshots/s1")
    site.settle()
    red.refused(409, "POST", "/nodes/n1/snapshots", {"name": "s1"})
    shown = red.get("/snapshots/s1")
    assert (shown["node"], shown["image"], shown["project"]) == ("n1", "debian-12", "red")
    admin.refused(422, "GET", "/snapshots/s1")
    assert admin.get("/snapshots/s1", project="red") == shown
    assert admin.get("/snapshots")["items"] == [shown]
    red.refused(403, "GET", "/snapshots/s1?project=blue")
    snapshots.create_snapshot(site.core, SITE, "n1", "s2")
    site.settle()
    red.delete("/snapshots/s1")
    site.settle()
    assert [snapshot["name"] for snapshot in red.get("/snapshots")["items"]] == ["s2"]


def test_an_operation_is_cancelled(site: Site, red: Caller) -> None:
    operation = red.post("/nodes/n1/provision", {"image": "debian-12"})
    assert red.post(f"/operations/{operation['id']}/cancel")["cancel_requested"]
    site.settle()
    assert red.get(f"/operations/{operation['id']}")["state"] == "cancelled"
    assert red.get("/nodes/n1")["state"] == "allocated"
    red.refused(409, "POST", f"/operations/{operation['id']}/cancel")
    red.refused(409, "POST", f"/operations/{operation['id']}/retry")


def test_a_failed_operation_is_retried(site: Site, red: Caller) -> None:
    site.bmc.world.set_fault("power_on", error="It refuses.", retryable=False)
    operation = red.post("/nodes/n1/provision", {"image": "debian-12"})
    site.settle()
    assert red.get("/nodes/n1")["state"] == "error"
    site.bmc.world.set_fault("power_on")
    assert red.post(f"/operations/{operation['id']}/retry")["state"] == "queued"
    site.settle("n1")
    assert red.get("/nodes/n1")["state"] == "active"
    released = red.post("/nodes/n1/release")
    red.refused(409, "POST", f"/operations/{released['id']}/cancel")


def test_a_repeated_request_gets_the_first_ones_operation(site: Site, red: Caller, blue: Caller) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = red.post("/nodes/n1/provision", {"image": "debian-12"}, headers=key)
    again = red.post("/nodes/n1/provision", {"image": "debian-12"}, headers=key)
    assert again == first
    site.settle("n1")
    assert red.post("/nodes/n1/provision", {"image": "debian-12"}, headers=key)["id"] == first["id"]
    assert len(red.get("/operations", subject="n1")["items"]) == 1
    for method, path, body in (
        ("POST", "/nodes/n2/provision", {"image": "debian-12"}),
        ("POST", "/nodes/n1/release", None),
    ):
        assert red.refused(422, method, path, body, headers=key)["field"] == "Idempotency-Key"
    assert blue.post("/nodes/n2/provision", {"image": "debian-12"}, headers=key)["id"] != first["id"]
    red.refused(
        422, "POST", "/nodes/n3/provision", {"image": "debian-12"}, headers={"Idempotency-Key": "x" * 129}
    )


def test_a_key_is_forgotten_with_its_token(
    site: Site, transport: AsgiTransport, admin: Caller, red: Caller
) -> None:
    key = {"Idempotency-Key": "k-1"}
    reds = red.post("/nodes/n1/provision", {"image": "debian-12"}, headers=key)
    admin.delete("/tokens/red-token")
    namesake = Caller(site, transport, site.token("red-token", "blue"))
    site.give("blue", "n2")
    assert namesake.refused(404, "POST", "/nodes/n1/provision", {"image": "debian-12"}, headers=key)
    made = namesake.post("/nodes/n2/provision", {"image": "debian-12"}, headers=key)
    assert made["id"] != reds["id"]


def test_every_kind_of_request_is_repeatable(site: Site, admin: Caller) -> None:
    node = {
        "name": "n9",
        "mac": "52:54:00:00:00:99",
        "bmc": "fake+https://bmc.example.net",
        "bmc_password": "x",
    }
    for number, (method, path, body) in enumerate(
        (
            ("POST", "/projects", {"name": "green"}),
            ("DELETE", "/projects/green", None),
            ("POST", "/nodes", node),
            ("POST", "/nodes/n1/provision", {"image": "debian-12", "project": "red"}),
            ("POST", "/nodes/n1/power", {"action": "off"}),
            ("POST", "/nodes/n1/snapshots", {"name": "s"}),
            ("DELETE", "/snapshots/s?project=red", None),
            ("POST", "/nodes/n1/release", None),
            ("POST", "/nodes/n1/free", None),
            ("DELETE", "/nodes/n1", None),
            ("DELETE", "/images/debian-12", None),
        )
    ):
        key = {"Idempotency-Key": f"key-{number}"}
        first = admin(method, path, body, headers=key)
        site.settle("n1")
        again = admin(method, path, body, headers=key)
        assert (first.status_code, again.status_code) == (202, 202), (path, first.text, again.text)
        assert again.json()["id"] == first.json()["id"]


def test_lists_come_in_pages(site: Site, admin: Caller) -> None:
    site.add_nodes("a1", "a2", "a3", "a4")
    site.provision("a1", "red")
    for number in range(4):
        site.add_image(f"image-{number}")
    for path in (
        "/nodes",
        "/projects",
        "/tokens",
        "/switches",
        "/images",
        "/snapshots",
        "/operations",
        "/nodes/a1/events",
    ):
        everything = admin.get(path)
        assert everything["next"] is None
        page = admin.get(path, limit=2)
        collected = page["items"]
        while page["next"]:
            page = admin.get(path, limit=2, after=page["next"])
            assert 1 <= len(page["items"]) <= 2
            collected += page["items"]
        assert collected == everything["items"]
        for query in ("limit=0", "limit=1001", "limit=many", "after=" + "x" * 201):
            admin.refused(422, "GET", f"{path}?{query}")
    admin.refused(422, "GET", "/nodes/a1/events?after=yesterday")
    admin.refused(422, "GET", "/nodes/a1/events?after=99999999999999999999")


def test_operations_are_listed_newest_first_and_by_subject(site: Site, admin: Caller) -> None:
    admin.post("/nodes/n1/provision", {"image": "debian-12", "project": "red"})
    newest = admin.get("/operations")["items"][0]
    assert newest["kind"] == "provision"
    assert admin.get("/operations", live=True)["items"] == [newest]
    assert [found["kind"] for found in admin.get("/operations", subject="n1")["items"]] == [
        "provision",
        "register",
    ]
