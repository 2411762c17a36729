"""Volumes, snapshots, usage and the store over HTTP."""

from tests.api.conftest import Caller
from tests.installation import Site

GIB = 1 << 30


def test_a_volume_goes_from_node_to_node(site: Site, admin: Caller, red: Caller) -> None:
    red.post("/nodes/n1/provision", {"image": "debian-12", "size_bytes": GIB})
    site.settle("n1")
    red.post("/nodes/n1/release", {"keep_volume": True, "keep_as": "web"})
    site.settle()
    shown = red.get("/volumes/web")
    assert (shown["node"], shown["image"], shown["size_bytes"]) == (None, "debian-12", GIB)
    assert admin.get("/volumes")["items"] == [shown]
    assert admin.get("/volumes/web", project="red") == shown
    admin.refused(422, "GET", "/volumes/web")
    site.give("red", "n2")
    red.post("/nodes/n2/provision", {"volume": "web"})
    site.settle("n2")
    assert red.get("/volumes/web")["node"] == "n2"
    assert red.get("/nodes/n2")["volume"]["name"] == "web"
    red.refused(409, "DELETE", "/volumes/web")
    red.refused(422, "POST", "/nodes/n3/provision", {"volume": "web", "hostname": "x"})
    site.give("red", "n3")
    red.refused(409, "POST", "/nodes/n3/provision", {"volume": "web"})
    red.refused(422, "POST", "/nodes/n2/release", {"keep_as": "x"})
    red.post("/nodes/n2/release")
    site.settle()
    assert red.get("/volumes")["items"] == []


def test_a_node_that_is_off_is_rolled_back(site: Site, red: Caller) -> None:
    site.provision("n1", "red")
    red.post("/nodes/n1/snapshots", {"name": "s"})
    site.settle()
    refused = red.post("/nodes/n1/roll-back", {"snapshot": "s"})
    site.settle()
    problem = red.get(f"/operations/{refused['id']}")["problem"]
    assert problem["type"] == "urn:bmi:problem:invalid-state"
    assert "bmi node power n1 off" in problem["remedy"]
    red.post("/nodes/n1/power", {"action": "off"})
    site.settle()
    made = red.post("/nodes/n1/roll-back", {"snapshot": "s"})
    site.settle()
    assert red.get(f"/operations/{made['id']}")["state"] == "succeeded"
    red.refused(409, "POST", "/volumes/n1/roll-back", {"snapshot": "s"})


def test_a_detached_volume_is_frozen_renamed_rolled_back_flattened_and_deleted(
    site: Site, red: Caller
) -> None:
    site.provision("n1", "red")
    red.post("/nodes/n1/release", {"keep_volume": True})
    site.settle()
    assert red("PATCH", "/volumes/n1", {"name": "web"}).json()["name"] == "web"
    red.post("/volumes/web/snapshots", {"name": "s"})
    site.settle()
    assert red("PATCH", "/snapshots/s", {"name": "t"}).json()["volume"] == "web"
    for path, body in (("roll-back", {"snapshot": "t"}), ("flatten", None)):
        made = red.post(f"/volumes/web/{path}", body)
        site.settle()
        assert red.get(f"/operations/{made['id']}")["state"] == "succeeded"
    red.delete("/volumes/web")
    site.settle()
    red.delete("/snapshots/t")
    site.settle()
    red.refused(404, "GET", "/volumes/web")


def test_who_compares_sees_what_was_found(site: Site, red: Caller) -> None:
    site.provision("n1", "red")
    made = red.post("/volumes/diff", {"older": "image:debian-12", "newer": "volume:n1"})
    site.settle()
    [step] = red.get(f"/operations/{made['id']}")["steps"]
    assert step["result"] == {"bytes": 0, "extents": 0, "first_extents": []}
    red.refused(422, "POST", "/volumes/diff", {"older": "nothing", "newer": "n1"})


def test_quotas_are_set_and_kept(site: Site, admin: Caller, red: Caller) -> None:
    shown = admin("PATCH", "/projects/red/quota", {"volumes": 1, "volume_bytes": GIB}).json()
    assert shown["quota"] == {"volumes": 1, "volume_bytes": GIB}
    problem = red.refused(409, "POST", "/nodes/n1/provision", {"image": "debian-12", "size_bytes": 2 * GIB})
    assert problem["type"] == "urn:bmi:problem:over-quota"
    assert (problem["limit"], problem["allowed"], problem["used"], problem["asked"]) == (
        "volume_bytes",
        GIB,
        0,
        2 * GIB,
    )
    site.provision("n1", "red")
    assert red.get("/projects/red/usage")["held"]["volumes"] == 1
    assert admin("PATCH", "/projects/red/quota", {"volumes": None}).json()["quota"] == {"volume_bytes": GIB}
    admin.refused(422, "PATCH", "/projects/red/quota", {"colours": 1})


def test_the_family_is_told(site: Site, admin: Caller, red: Caller, blue: Caller) -> None:
    site.provision("n1", "red")
    [image, volume] = red.get("/lineage", image="debian-12")["items"]
    assert (volume["parent"], volume["node"], image["kind"]) == (image["id"], "n1", "image")
    assert len(admin.get("/lineage")["items"]) == 2
    assert len(blue.get("/lineage")["items"]) == 1
    red.refused(404, "GET", "/lineage?image=nothing")


def test_the_store_is_checked(site: Site, admin: Caller) -> None:
    made = admin.post("/storage/check", {"repair": False})
    admin.refused(409, "POST", "/storage/check", {})
    site.settle()
    steps = {step["name"]: step for step in admin.get(f"/operations/{made['id']}")["steps"]}
    assert steps["check_storage"]["result"]["different"] == 0
    assert steps["measure_usage"]["result"] == {"measured": 1}
