"""Users, members and logins over the API, and what the audit log has of it."""

from typing import Any

import pytest

from bmi.domain.nouns import Role
from bmi.service import audit
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
    site: Site, admin: Caller, nobody: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bmi.api.audit._REFUSALS_A_MINUTE", 10)
    monkeypatch.setattr("bmi.api.audit.time.monotonic", lambda: 0.0)
    for _ in range(30):
        nobody.refused(401, "GET", "/nodes")
    refused = audit.list_entries(site.core, SITE, by=None, refused=True, before=(1 << 31) - 1)
    assert len(refused) == 10


def test_a_log_that_cannot_be_written_is_told_in_the_servers(
    admin: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_said: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(audit, "write", fails)
    admin.post("/users", {"name": "bob"})
    assert "The audit log cannot be written" in caplog.text
    assert "users/bob" in caplog.text
