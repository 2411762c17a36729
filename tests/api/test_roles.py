"""The permission table against what the API does: every route, every role, own and other projects."""

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI

from bmi.api import permissions
from bmi.api.permissions import PERMISSIONS, Permission, allows
from bmi.domain.nouns import Role
from bmi.service import access, uploads
from tests.api.conftest import Caller
from tests.api.test_walls import BODIES, HEADERS, of_blue, path_to, routes
from tests.asgi import AsgiTransport
from tests.installation import Site

__all__ = ["of_blue"]

# Where the bodies of test_walls would take from a later route what it is about.
_SAME_NAME: dict[str, Any] = {
    "rename_volume": {"name": "blue-volume"},
    "rename_snapshot": {"name": "blue-snap"},
}
# What needs no project of one's own, or whose answer depends on more than a name in the address.
_WITHOUT_OBJECT = {"get_content"}
_ORDER = ("GET", "POST", "PUT", "PATCH", "DELETE")


def walk(app: FastAPI) -> list[tuple[str, str, str]]:
    """Every route; what removes things comes last, so that everything is there when it is asked for."""
    return sorted(routes(app), key=lambda route: _ORDER.index(route[0]))


@pytest.mark.parametrize("project", ["blue", "red"])
@pytest.mark.parametrize("role", [None, *Role])
def test_every_route_lets_in_whom_its_line_names(
    app: FastAPI,
    site: Site,
    transport: AsgiTransport,
    of_blue: dict[str, str],
    role: Role | None,
    project: str,
) -> None:
    token = site.token("walker", *((None,) if role is Role.ADMIN else (project, role))) if role else None
    if token and project == "blue":
        # An upload belongs to a token.
        walker = access.authenticate(site.core, token)
        of_blue["uploads"] = uploads.create_upload(site.core, walker, 4096).id
    caller = Caller(site, transport, token)
    for method, path, name in walk(app):
        needed = PERMISSIONS[name]
        body = {**BODIES, **_SAME_NAME}.get(name)
        answer = caller(method, path_to(path, of_blue.__getitem__), body, headers=HEADERS.get(name))
        problem = answer.json() if answer.content and not answer.is_success else {}
        if needed is Permission.PUBLIC:
            assert "needs" not in problem, name
            assert answer.status_code < 500, name
        elif role is None:
            assert answer.status_code == 401, (name, problem)
        elif not allows(role, needed):
            assert (answer.status_code, problem["needs"]) == (403, needed), name
        else:
            assert answer.status_code not in {401, 405, 500}, (name, problem)
            assert "needs" not in problem, name
            foreign = project == "red" and role is not Role.ADMIN
            if "{" in path and name not in _WITHOUT_OBJECT:
                unseen = (
                    foreign
                    or (project == "red" and "upload" in name)
                    or (name == "revoke_token" and role is not Role.ADMIN)
                )
                assert (answer.status_code == 404) == unseen, (name, problem)


def test_only_those_who_may_change_things_may_call_what_changes_them(app: FastAPI) -> None:
    for method, _path, name in routes(app):
        if method != "GET":
            assert not allows(Role.READER, PERMISSIONS[name]) or PERMISSIONS[name] in {
                Permission.PUBLIC,
                Permission.AUTHENTICATED,
            }, name


def test_the_description_says_who_may_call_what(app: FastAPI) -> None:
    for methods in app.openapi()["paths"].values():
        for described in methods.values():
            needed = PERMISSIONS[described["operationId"]]
            assert described["x-permission"] == needed
            assert ("security" in described) == (needed is not Permission.PUBLIC)


def test_a_route_without_a_line_and_a_line_without_a_route_are_refused() -> None:
    router = APIRouter()

    @router.get("/secrets")
    def list_secrets() -> None: ...

    with pytest.raises(LookupError, match="list_secrets"):
        permissions.check([router])
    with pytest.raises(LookupError, match="whoami"):
        permissions.check([])
