"""Logging in through a real OpenID provider."""

import dataclasses
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import FastAPI

from bmi.api.app import create_app
from bmi.config import OidcSettings
from bmi.domain.nouns import Role, User
from bmi.errors import AlreadyExistsError
from bmi.service import oidc, users
from bmi.service.core import Core
from bmi.service.oidc import challenge_of
from tests.api.conftest import Caller
from tests.asgi import AsgiTransport, running_loop
from tests.installation import SITE, Site
from tests.provider import let_in, openid_provider

CALLBACK = "http://bmi.test/v1/login/oidc/callback"
LOOPBACK = "http://127.0.0.1:9/path"
PEOPLE: dict[str, dict[str, Any]] = {
    "s-alice": {"preferred_username": "Alice", "groups": ["physics"]},
    "s-olga": {"preferred_username": "olga", "groups": ["ops", "physics", "chemistry"]},
    "s-bob": {"preferred_username": "bob", "groups": []},
}


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    with openid_provider(PEOPLE) as address:
        yield address


def core_with(site: Site, **oidc: Any) -> Core:
    secret = site.directory / "oidc-secret"
    secret.write_text("client-secret\n")
    settings = OidcSettings(callback_url=CALLBACK, client_secret_file=secret, **oidc)
    return dataclasses.replace(site.core, settings=site.core.settings.model_copy(update={"oidc": settings}))


class Browser:
    """A caller, and the browser of the person who logs in."""

    def __init__(self, site: Site, core: Core) -> None:
        self.site = site
        self.app: FastAPI = create_app(core, uploads_dir=site.uploads)

    def __enter__(self) -> Self:
        self._loop = running_loop()
        self.transport = AsgiTransport(self.app, self._loop.__enter__())
        self.caller = Caller(self.site, self.transport, None)
        return self

    def __exit__(self, *_raised: object) -> None:
        self._loop.__exit__(None, None, None)

    def begin(self, redirect: str = LOOPBACK) -> tuple[str, str]:
        verifier = secrets.token_urlsafe(32)
        body = {"challenge": challenge_of(verifier), "redirect": redirect}
        return self.caller.post("/login/oidc", body)["url"], verifier

    def come_back(self, location: str) -> httpx.Response:
        """What comes of it when the person says that it is their login."""
        asked = self.look(location)
        if asked.status_code != 200:
            return asked
        assert '<form method="post">' in asked.text
        with httpx.Client(transport=self.transport) as http:
            return http.post(location)

    def look(self, location: str) -> httpx.Response:
        assert location.startswith(CALLBACK)
        with httpx.Client(transport=self.transport) as http:
            return http.get(location)

    def log_in(self, subject: str, **body: Any) -> Any:
        url, verifier = self.begin()
        there = self.come_back(let_in(url, subject)).headers["location"]
        answer = {key: value[0] for key, value in parse_qs(urlsplit(there).query).items()}
        assert there.startswith(LOOPBACK)
        if "problem" in answer:
            return answer
        return self.caller("POST", "/login/oidc/token", {**answer, "verifier": verifier, **body})


@pytest.fixture
def linked(site: Site, issuer: str) -> Iterator[Browser]:
    """A site where an administrator has linked alice, a member of red."""
    users.create_user(site.core, SITE, "alice")
    users.change_user(site.core, SITE, "alice", link=(issuer, "s-alice"))
    users.set_member(site.core, SITE, "red", "alice", Role.READER)
    with Browser(site, core_with(site, issuer=issuer)) as browser:
        yield browser


@pytest.fixture
def grouped(site: Site, issuer: str) -> Iterator[Browser]:
    """A site where the provider's groups decide."""
    groups = {"physics": ["red:member"], "chemistry": ["red:reader", "nowhere:member"], "ops": ["admin"]}
    with Browser(site, core_with(site, issuer=issuer, groups=groups)) as browser:
        yield browser


def test_a_linked_user_logs_in(linked: Browser) -> None:
    url, _ = linked.begin()
    asked = parse_qs(urlsplit(url).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["response_type"] == ["code"]
    assert len(asked["nonce"][0]) >= 32
    made = linked.log_in("s-alice")
    assert made.status_code == 201
    made = made.json()
    assert (made["user"], made["project"], made["role"], made["session"]) == ("alice", "red", "reader", True)
    me = Caller(linked.site, linked.transport, made["secret"]).get("/whoami")
    assert me["user"] == "alice"


def test_a_stranger_is_told_what_to_ask_for(linked: Browser) -> None:
    assert "'s-bob'" in linked.log_in("s-bob")["problem"]
    url, _ = linked.begin(redirect="")
    refused = linked.come_back(let_in(url, "s-bob"))
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:bmi:problem:forbidden")
    url, _ = linked.begin()
    # This provider's refusal lacks the state that RFC 6749, 4.1.2.1, wants.
    back = f"{let_in(url, None)}&state={parse_qs(urlsplit(url).query)['state'][0]}"
    assert "let+nobody+in" in linked.come_back(back).headers["location"]


def test_a_code_alone_is_worth_nothing(linked: Browser) -> None:
    url, verifier = linked.begin(redirect="")
    back = let_in(url, "s-alice")
    page = linked.come_back(back)
    assert page.headers["content-type"].startswith("text/html")
    code = page.text.partition("<pre>")[2].partition("</pre>")[0]
    other = secrets.token_urlsafe(32)
    for body in ({"code": code, "verifier": other}, {"code": "x", "verifier": verifier}):
        linked.caller.refused(401, "POST", "/login/oidc/token", body)
    linked.caller.refused(
        403, "POST", "/login/oidc/token", {"code": code, "verifier": verifier, "project": "blue"}
    )
    linked.caller.post("/login/oidc/token", {"code": code, "verifier": verifier})
    # Neither the code nor the way back is good twice.
    linked.caller.refused(401, "POST", "/login/oidc/token", {"code": code, "verifier": verifier})
    assert linked.come_back(back).status_code == 401


def test_a_way_back_that_nobody_began_is_refused(linked: Browser) -> None:
    url, _ = linked.begin()
    back = let_in(url, "s-alice")
    assert linked.come_back(f"{CALLBACK}?state=ghost&code=x").status_code == 401
    forged = back.replace("code=", "code=x")
    assert "does+not+know" in linked.come_back(forged).headers["location"]


def test_the_person_is_asked_whose_login_it_is(linked: Browser) -> None:
    url, verifier = linked.begin()
    back = let_in(url, "s-alice")
    now = f"{datetime.now(UTC):%Y-%m-%d}"
    for _ in range(2):  # looking gives nothing away, and ends nothing
        page = linked.look(back)
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert "127.0.0.1" in page.text
        assert now in page.text
        assert challenge_of(verifier)[:6] in page.text
    there = linked.come_back(back).headers["location"]
    assert there.startswith(f"{LOOPBACK}?code=")


def test_a_login_waits_for_minutes_only(linked: Browser) -> None:
    url, _ = linked.begin()
    back = let_in(url, "s-alice")
    now = linked.site.database.now()
    linked.site.database.now = lambda: now + 601
    assert linked.come_back(back).status_code == 401


def test_a_disabled_user_stays_out(linked: Browser) -> None:
    users.change_user(linked.site.core, SITE, "alice", disabled=True)
    assert "disabled" in linked.log_in("s-alice")["problem"]


def test_groups_make_users_and_decide_at_every_login(grouped: Browser) -> None:
    made = grouped.log_in("s-alice").json()
    assert (made["user"], made["project"], made["role"]) == ("alice", "red", "member")
    olga = grouped.log_in("s-olga").json()
    assert (olga["user"], olga["role"]) == ("olga", "admin")
    assert "Nobody here" in grouped.log_in("s-bob")["problem"]
    core = grouped.site.core
    assert dict(users.get_user(core, SITE, "olga").projects) == {"red": "member"}
    users.set_member(core, SITE, "blue", "alice", Role.MEMBER)
    grouped.log_in("s-alice")
    assert dict(users.get_user(core, SITE, "alice").projects) == {"red": "member"}


def test_a_name_that_is_taken_is_never_taken_over(grouped: Browser) -> None:
    users.create_user(grouped.site.core, SITE, "olga", admin=True)
    assert "another user 'olga'" in grouped.log_in("s-olga")["problem"]


def test_only_the_callers_own_machine_is_gone_back_to(linked: Browser) -> None:
    for redirect in (
        "http://evil.example/",
        "http://127.0.0.1.evil.example:1/",
        "https://127.0.0.1:1/",
        "http://127.0.0.1:1/?x",
    ):
        body = {"challenge": "c" * 43, "redirect": redirect}
        linked.caller.refused(422, "POST", "/login/oidc", body)


def test_a_provider_that_is_away_or_another_is_a_clear_problem(site: Site, issuer: str) -> None:
    for wrong in ("http://127.0.0.1:1", issuer.replace("127.0.0.1", "localhost") + "/"):
        with Browser(site, core_with(site, issuer=wrong)) as browser:
            problem = browser.caller.refused(502, "POST", "/login/oidc", {"challenge": "c" * 43})
            assert "OpenID provider" in problem["detail"]
    with Browser(site, core_with(site)) as browser:
        browser.caller.refused(409, "POST", "/login/oidc", {"challenge": "c" * 43})


def test_the_audit_log_has_the_login(linked: Browser, admin: Caller) -> None:
    linked.log_in("s-alice")
    linked.log_in("s-bob")
    entries = admin.get("/audit", limit=6)["items"]
    known = [(entry["actor"], entry["action"], entry["status"]) for entry in entries]
    assert ("alice", "redeem_oidc_login", 201) in known
    assert ("alice", "finish_oidc_login", 303) in known
    assert ("-", "finish_oidc_login", 403) in known


def test_the_audit_log_has_what_the_groups_gave(grouped: Browser, admin: Caller) -> None:
    url, _ = grouped.begin()
    grouped.come_back(let_in(url, "s-olga"))
    entry = admin.get("/audit", limit=1)["items"][0]
    assert (entry["actor"], entry["action"]) == ("olga", "finish_oidc_login")
    assert entry["detail"] == "rights=admin,nowhere:member,red:member,red:reader"
    users.create_user(grouped.site.core, SITE, "alice")
    url, _ = grouped.begin()
    grouped.come_back(let_in(url, "s-alice"))
    entry = admin.get("/audit", limit=1)["items"][0]
    assert (entry["actor"], entry["status"], entry["problem"]) == ("-", 409, "conflict")


def test_two_first_logins_of_a_person_at_once_are_one_persons(
    grouped: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = oidc._new_user
    taken = iter([True])

    def late(*said: Any) -> User:
        if next(taken, False):
            raise AlreadyExistsError("Another user is linked to this subject.")
        return make(*said)

    monkeypatch.setattr(oidc, "_new_user", late)
    assert grouped.log_in("s-alice").json()["user"] == "alice"
