"""Projects cannot see or touch each other's things: a walk over every route of the API."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from bmi.api.permissions import PERMISSIONS, PUBLIC
from bmi.domain.nouns import Role
from bmi.service import networks, snapshots, uploads, users, volumes
from tests.api.conftest import Caller
from tests.installation import SITE, Site

BODIES: dict[str, Any] = {
    "create_project": {"name": "green"},
    "create_token": {"name": "mine"},
    "log_in": {"user": "ghost", "password": "ghost"},
    "begin_oidc_login": {"challenge": "c" * 43},
    "redeem_oidc_login": {"code": "c", "verifier": "v"},
    "change_password": {"current": "c", "new": "n"},
    "create_user": {"name": "mallory"},
    "change_user": {"admin": True},
    "set_password": {"password": "correct horse battery"},
    "set_member": {"role": "member"},
    "register_switch": {"name": "sw9", "driver": "fake"},
    "change_switch": {"options": {}},
    "check_switch": {},
    "cable": {"cables": []},
    "register_node": {"name": "n9", "mac": "52:54:00:00:00:99", "bmc": "fake+https://bmc.example.net"},
    "provision_node": {"image": "debian-12"},
    "allocate_nodes": {"count": 1},
    "label_node": {"add": ["gpu"]},
    "create_network": {"name": "backend"},
    "publish_network": {"public": True},
    "attach_network": {"node": "n2", "tagged": True},
    "detach_network": {"node": "n2"},
    "power_node": {"action": "off"},
    "create_snapshot": {"name": "mine"},
    "change_image": {"description": "mine now"},
    "move_image": {"to": "red"},
    "publish_image": {"location": "pool/mine"},
    "prepare_download": {"format": "raw"},
    "rename_volume": {"name": "mine"},
    "rename_snapshot": {"name": "mine"},
    "roll_back_volume": {"snapshot": "blue-snap"},
    "roll_back_node": {"snapshot": "blue-snap"},
    "create_volume_snapshot": {"name": "mine"},
    "diff": {"older": "image:debian-12", "newer": "volume:n2"},
    "check_storage": {},
    "set_quota": {"volumes": 1},
}
HEADERS = {"append_upload": {"Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}}
# What is refused before it is looked at.
FOR_ADMINISTRATORS = {
    *("remove_switch", "change_switch", "get_switch", "list_ports", "check_switch"),
    "delete_project",
    "delete_node",
    "label_node",
    "move_image",
    "publish_image",
    "publish_network",
    "set_quota",
    *("get_user", "change_user", "set_password", "unlock_user", "set_member", "remove_member"),
}
# What a member may do at all, on things that are not the project's own.
OPEN_TO_MEMBERS = {
    *(name for name, needed in PERMISSIONS.items() if needed is PUBLIC),
    "whoami",
    "log_out",
    "list_tokens",
    "import_image",
    "make_image",
    "create_upload",
    "diff",
    "lineage",
    "show_pool",
    "allocate_nodes",
    "create_network",
    *(
        f"list_{nouns}"
        for nouns in ("projects", "nodes", "networks", "images", "volumes", "snapshots", "operations")
    ),
}


def routes(app: FastAPI) -> Iterator[tuple[str, str, str]]:
    """(method, path, name) of everything that the API describes."""
    for path, methods in app.openapi()["paths"].items():
        for method, described in methods.items():
            yield method.upper(), path.removeprefix("/v1"), described["operationId"]


@pytest.fixture
def of_blue(site: Site) -> dict[str, str]:
    """Something of every kind that belongs to blue: collection -> name."""
    site.add_image("blue-os", "blue")
    provision = site.provision("n2", "blue", "blue-os")
    snapshots.create_snapshot(site.core, SITE, "n2", "blue-snap")
    site.settle()
    volumes.rename_volume(site.core, SITE, "n2", "blue-volume", project="blue")
    networks.create_network(site.core, SITE, "blue-net", project="blue")
    site.token("blue-secret", "blue")
    users.create_user(site.core, SITE, "bluebird")
    users.set_member(site.core, SITE, "blue", "bluebird", Role.MEMBER)
    return {
        "users": "bluebird",
        "projects": "blue",
        "tokens": "blue-secret",
        "switches": "sw1",
        "nodes": "n2",
        "networks": "blue-net",
        "images": "blue-os",
        "volumes": "blue-volume",
        "snapshots": "blue-snap",
        "operations": provision.operation.id,
        "uploads": uploads.create_upload(site.core, site.actor("blue-upload", "blue"), 4096).id,
    }


def path_to(path: str, name: Callable[[str], str]) -> str:
    if "{" not in path:
        return path
    meant = name(path.split("/")[1])
    return (
        path.replace("{name}", meant)
        .replace("{operation_id}", meant)
        .replace("{upload_id}", meant)
        .replace("{other}", "red")
        .replace("{user}", "bluebird")
    )


def test_red_can_neither_see_nor_touch_what_is_blues(
    app: FastAPI, red: Caller, of_blue: dict[str, str]
) -> None:
    walked = 0
    for method, path, name in routes(app):
        if name in OPEN_TO_MEMBERS:
            continue
        body = BODIES.get(name)
        status = 404 if "{" in path and name not in FOR_ADMINISTRATORS else 403
        there = red.refused(
            status, method, path_to(path, of_blue.__getitem__), body, headers=HEADERS.get(name)
        )
        if "{" in path:
            # What exists and what does not are told apart by nothing.
            ghost = red(
                method, path_to(path, lambda _collection: "ghost"), body, headers=HEADERS.get(name)
            ).json()
            known = of_blue[path.split("/")[1]]
            assert json.loads(json.dumps(there).replace(known, "ghost")) == ghost, name
        walked += 1
    assert walked >= 20


def test_nothing_of_blues_is_on_reds_lists(app: FastAPI, red: Caller, of_blue: dict[str, str]) -> None:
    kinds = ("projects", "images", "volumes", "snapshots", "operations", "nodes")
    telling = [of_blue[kind] for kind in kinds]
    for method, path, name in routes(app):
        if (name.startswith("list_") or name == "lineage") and name in OPEN_TO_MEMBERS:
            text = red(method, path).text
            assert not any(f'"{word}"' in text for word in telling), path


def test_blue_sees_its_own(blue: Caller, of_blue: dict[str, str]) -> None:
    for collection in ("projects", "nodes", "images", "volumes", "snapshots", "operations"):
        assert blue.get(f"/{collection}/{of_blue[collection]}")
        assert any(
            of_blue[collection] in {item.get("name"), item.get("id")}
            for item in blue.get(f"/{collection}")["items"]
        )
    assert "bmc.example.net" not in json.dumps(blue.get("/nodes/n2"))


def test_members_do_nothing_that_is_the_administrators(site: Site, red: Caller) -> None:
    site.provision("n1", "red")
    for method, path, body in (
        ("POST", "/projects", {"name": "green"}),
        ("DELETE", "/projects/red", None),
        ("POST", "/tokens", {"name": "t", "project": "red"}),
        ("GET", "/switches", None),
        ("POST", "/nodes", BODIES["register_node"]),
        ("DELETE", "/nodes/n1", None),
        ("DELETE", "/nodes/n3", None),
        ("DELETE", "/images/debian-12", None),
        ("PATCH", "/nodes/n1/labels", {"add": ["gpu"]}),
        ("PATCH", "/projects/red/quota", {"volumes": 100}),
        ("POST", "/storage/check", {}),
    ):
        assert red.refused(403, method, path, body)["type"] == "urn:bmi:problem:forbidden"
    red.refused(403, "POST", "/images?name=mine&public=true", content=b"x")


def test_everything_but_health_and_the_description_wants_a_token(
    app: FastAPI, site: Site, nobody: Caller, of_blue: dict[str, str]
) -> None:
    for method, path, name in routes(app):
        if PERMISSIONS[name] is PUBLIC:
            continue
        response = nobody(method, path_to(path, of_blue.__getitem__), BODIES.get(name))
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer"), path
    assert nobody.get("/health")["status"] == "ok"
    assert nobody.get("/openapi.json")["info"]["title"] == "BMI"


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Bearer bmi_",
        "Bearer bmi_x_y",
        "Basic Zm9vOmJhcg==",
        "bmi_x_y",
        "Bearer \N{COPYRIGHT SIGN}",
    ],
)
def test_a_wrong_token_is_not_told_what_is_wrong_with_it(nobody: Caller, header: str) -> None:
    problem = nobody.refused(401, "GET", "/whoami", headers={"Authorization": header.encode("latin-1")})
    assert problem["type"] == "urn:bmi:problem:unauthenticated"


def test_a_token_says_who_it_is_until_it_is_revoked(admin: Caller, red: Caller) -> None:
    nobody = {"user": None, "expires_at": None}
    assert red.get("/whoami") == {"name": "red-token", "role": "member", "project": "red", **nobody}
    assert admin.get("/whoami") == {"name": "root", "role": "admin", "project": None, **nobody}
    admin.delete("/tokens/red-token")
    red.refused(401, "GET", "/whoami")
