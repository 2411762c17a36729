"""Users, members and logins over the API, and what the audit log has of it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI

from bmi.api import turns
from bmi.domain.nouns import Role, User
from bmi.service import audit, login
from tests.api.conftest import Caller
from tests.asgi import AsgiTransport
from tests.installation import SITE, Site

PASSWORD = "correct horse battery"


@pytest.fixture
def alice(site: Site, transport: AsgiTransport, admin: Caller, nobody: Caller) -> Caller:
    """A member of red who has logged in."""
    admin.post("/users", {"name": "alice", "password": PASSWORD})
    assert admin("PUT", "/projects/red/members/alice", {"role": "member"}).status_code == 200
    secret = nobody.post("/login", {"user": "alice", "password": PASSWORD})["secret"]
    return Caller(site, transport, secret)


def newest(admin: Caller) -> dict[str, Any]:
    entry: dict[str, Any] = admin.get("/audit", limit=1)["items"][0]
    return entry


def test_a_person_logs_in_works_and_logs_out(admin: Caller, alice: Caller) -> None:
    me = alice.get("/whoami")
    assert (me["name"], me["user"], me["role"], me["project"]) == ("alice", "alice", "member", "red")
    assert me["expires_at"]
    assert admin.get("/users/alice")["projects"] == {"red": "member"}
    assert alice.get("/projects/red/members")["items"] == [{"user": "alice", "role": "member"}]
    alice.refused(404, "GET", "/projects/blue/members")
    made = alice.post("/tokens", {"name": "ci", "role": "reader"})
    assert (made["user"], made["role"], made["session"]) == ("alice", "reader", False)
    assert {token["user"] for token in alice.get("/tokens")["items"]} == {"alice"}
    alice.refused(403, "PUT", "/password", {"current": "wrong", "new": PASSWORD + "!"})
    assert alice("PUT", "/password", {"current": PASSWORD, "new": PASSWORD + "!"}).status_code == 204
    alice.delete("/login")
    alice.refused(401, "GET", "/whoami")


def test_a_reader_looks_and_no_more(site: Site, transport: AsgiTransport) -> None:
    reader = Caller(site, transport, site.token("viewer", "red", Role.READER))
    assert reader.get("/nodes")
    problem = reader.refused(403, "POST", "/nodes/n1/provision", {"image": "debian-12"})
    assert problem["needs"] == "member"


def test_a_lock_out_says_how_long(admin: Caller, alice: Caller, nobody: Caller, site: Site) -> None:
    for _ in range(site.core.settings.login.user_failures):
        nobody.refused(401, "POST", "/login", {"user": "alice", "password": "wrong"})
    locked = nobody("POST", "/login", {"user": "alice", "password": PASSWORD})
    assert locked.status_code == 429
    assert int(locked.headers["retry-after"]) == locked.json()["retry_after_s"]
    assert newest(admin)["problem"] == "too-many-attempts"
    admin.refused(404, "DELETE", "/users/nobody/lock")
    admin.delete("/users/alice/lock")
    nobody.post("/login", {"user": "alice", "password": PASSWORD})


def test_logins_take_no_more_than_their_own_threads(
    app: FastAPI,
    alice: Caller,
    nobody: Caller,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bmi.api.turns._AT_ONCE", 1)
    monkeypatch.setattr("bmi.api.turns._INSIDE", 2)
    app.state.login_turns = turns.LoginTurns()
    goes_on = threading.Event()
    right = login._is_right

    def slow(user: User | None, password: str) -> bool:
        assert goes_on.wait(20)
        return right(user, password)

    monkeypatch.setattr(login, "_is_right", slow)
    body = {"user": "alice", "password": PASSWORD}
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(nobody.post, "/login", body) for _ in range(2)]
        while app.state.login_turns._inside < 2:
            time.sleep(0.005)
        try:
            assert nobody("POST", "/login", body).status_code == 503
            change = {"current": PASSWORD, "new": PASSWORD + "!"}
            assert alice("PUT", "/password", change).status_code == 503
            assert alice.get("/whoami")["user"] == "alice"
        finally:
            goes_on.set()
        assert {made.result()["user"] for made in waiting} == {"alice"}
    nobody.post("/login", body)


def test_the_log_says_who_did_what_to_which_object(
    site: Site, admin: Caller, alice: Caller, nobody: Caller
) -> None:
    site.give("red", "n1")
    logged_in = newest(admin)
    assert (logged_in["action"], logged_in["actor"], logged_in["status"]) == ("log_in", "alice", 201)
    assert logged_in["address"]
    alice.post("/nodes/n1/provision", {"image": "debian-12"})
    entry = newest(admin)
    assert {name: entry[name] for name in ("actor", "action", "object", "project", "status", "problem")} == {
        "actor": "alice",
        "action": "provision_node",
        "object": "nodes/n1/provision",
        "project": "red",
        "status": 202,
        "problem": None,
    }
    assert entry["user_id"]
    assert entry["token_id"]
    alice.refused(403, "POST", "/projects", {"name": "green"})
    entry = newest(admin)
    assert (entry["action"], entry["object"], entry["problem"]) == (
        "create_project",
        "projects/green",
        "forbidden",
    )
    alice.refused(409, "POST", "/nodes/n1/provision", {"image": "debian-12"})
    assert newest(admin)["problem"] == "busy"
    nobody.refused(401, "GET", "/nodes")
    entry = newest(admin)
    assert (entry["actor"], entry["action"], entry["status"]) == (audit.NOBODY, "list_nodes", 401)
    before = newest(admin)["id"]
    alice.get("/nodes")
    alice.refused(404, "GET", "/nodes/ghost")
    assert newest(admin)["id"] == before


def test_no_secret_is_in_the_log(admin: Caller, alice: Caller, nobody: Caller) -> None:
    nobody.refused(401, "POST", "/login", {"user": "hunter2hunter2", "password": "typed-as-a-name"})
    entry = newest(admin)
    assert (entry["actor"], entry["object"]) == (audit.NOBODY, "login")
    secret = alice.post("/tokens", {"name": "ci"})["secret"]
    assert newest(admin)["object"] == "tokens/ci"
    log = admin("GET", "/audit").text
    alice.refused(404, "DELETE", f"/tokens/{secret}")
    log += admin("GET", "/audit").text
    for told in ("hunter2", "typed-as", PASSWORD, secret, secret.split("_", 2)[2]):
        assert told not in log


def test_the_log_says_what_somebody_was_given(admin: Caller, alice: Caller) -> None:
    def detail(*call: Any) -> str | None:
        admin(*call)
        told: str | None = newest(admin)["detail"]
        return told

    assert detail("PATCH", "/users/alice", {"admin": True}) == "admin=true"
    linked = {"disabled": False, "link": {"issuer": "https://idp", "subject": "7"}}
    assert detail("PATCH", "/users/alice", linked) == (
        'disabled=false link={"issuer": "https://idp", "subject": "7"}'
    )
    assert detail("PUT", "/projects/red/members/alice", {"role": "reader"}) == "role=reader"
    assert detail("PATCH", "/projects/red/quota", {"volumes": 3, "nodes": None}) == "nodes=null volumes=3"
    assert detail("POST", "/networks", {"name": "data", "public": True}) == "public=true"
    assert detail("PATCH", "/networks/data", {"public": False}) == "public=false"
    assert detail("PATCH", "/images/debian-12", {"public": False, "description": "x"}) == "public=false"
    assert detail("POST", "/tokens", {"name": "ci", "project": "red", "role": "reader"}) == "role=reader"
    assert detail("PUT", "/users/alice/password", {"password": PASSWORD, "end_tokens": True}) == (
        "end_tokens=true"
    )
    # What was not accepted may be a secret in the wrong place.
    assert detail("PATCH", "/users/alice", {"admin": "hunter2"}) is None
    assert detail("PATCH", "/users/alice", {"link": {"issuer": "hunter2"}}) is None


def test_the_log_is_read_page_by_page_and_by_actor(admin: Caller, alice: Caller) -> None:
    for number in range(5):
        alice.refused(403, "POST", "/projects", {"name": f"green-{number}"})
    first = admin.get("/audit", by="alice", refused=True, limit=2)
    second = admin.get("/audit", by="alice", refused=True, limit=100, after=first["next"])
    objects = [entry["object"] for entry in [*first["items"], *second["items"]]]
    assert objects == [f"projects/green-{number}" for number in (4, 3, 2, 1, 0)]
    assert second["next"] is None
    admin.refused(422, "GET", "/audit?after=x")


def test_a_flood_of_refusals_does_not_fill_the_disk(
    site: Site, admin: Caller, red: Caller, nobody: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bmi.api.audit._REFUSALS_A_MINUTE", 10)
    monkeypatch.setattr("bmi.api.audit.time.monotonic", lambda: 0.0)
    for _ in range(30):
        nobody.refused(401, "GET", "/nodes")
    entries = audit.list_entries(site.core, SITE, by=None, refused=True, before=(1 << 31) - 1)
    assert [entry.action for entry in entries] == ["flood"] + ["list_nodes"] * 10
    assert (entries[0].actor, entries[0].status, entries[0].object) == (audit.NOBODY, 401, "nodes")
    # Nor does somebody known, whose token alone it is that is not listened to any more.
    for _ in range(30):
        red.refused(403, "POST", "/projects", {"name": "green"})
        red.refused(404, "DELETE", "/tokens/ghost")
    entries = audit.list_entries(site.core, SITE, by="red-token", refused=True, before=(1 << 31) - 1)
    assert (len(entries), entries[0].action, entries[0].token_id is not None) == (11, "flood", True)
    admin.refused(404, "DELETE", "/tokens/ghost")
    assert newest(admin)["actor"] == "root"
    red.post("/networks", {"name": "data"})
    assert newest(admin)["object"] == "networks/data"


def test_a_log_that_cannot_be_written_is_told_in_the_servers(
    admin: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_said: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(audit, "write", fails)
    admin.post("/users", {"name": "bob"})
    assert "The audit log cannot be written" in caplog.text
    assert "users/bob" in caplog.text
