"""Users, what they may do, and how they log in."""

import dataclasses
import threading
from pathlib import Path

import pytest
from argon2 import PasswordHasher, extract_parameters, profiles
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from bmi.domain.nouns import Actor, Role, User
from bmi.errors import (
    AlreadyExistsError,
    BmiError,
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    InvalidStateError,
    NotFoundError,
    TooManyAttemptsError,
    UnauthenticatedError,
    UnavailableError,
)
from bmi.service import access, audit, login, users
from bmi.service.attempts import Attempt
from bmi.service.core import Core
from bmi.store import records
from bmi.store.database import Database
from tests.installation import SITE, Site

PASSWORD = "correct horse battery"
# The product's own; while tests run there is a cheap one in its place.
HASHER = users.HASHER
HERE = "192.0.2.1"


@pytest.fixture
def people(database: Database, tmp_path: Path) -> Site:
    """Projects red and blue; alice, a member of red, and a reader of blue."""
    made = Site(database, tmp_path / "site")
    made.project("red")
    made.project("blue")
    users.create_user(made.core, SITE, "alice", password=PASSWORD)
    users.set_member(made.core, SITE, "red", "alice", Role.MEMBER)
    users.set_member(made.core, SITE, "blue", "alice", Role.READER)
    return made


def log_in(
    site: Site, name: str = "alice", password: str = PASSWORD, *, project: str | None = "red"
) -> Actor:
    made = login.log_in(site.core, Attempt(HERE, name), password, project=project)
    return access.authenticate(site.core, made.secret)


def test_a_hash_costs_who_guesses_memory_and_time() -> None:
    assert extract_parameters(HASHER.hash(PASSWORD)) == profiles.RFC_9106_LOW_MEMORY


def test_a_login_acts_in_one_project_with_the_role_there(people: Site) -> None:
    red, blue = log_in(people), log_in(people, project="blue")
    assert (red.name, red.role, red.session) == ("alice", Role.MEMBER, True)
    assert (blue.role, access.whoami(people.core, blue).project) == (Role.READER, "blue")
    with pytest.raises(InvalidInputError, match="you are in blue, red"):
        log_in(people, project=None)
    with pytest.raises(ForbiddenError):
        log_in(people, project="green")
    users.remove_member(people.core, SITE, "blue", "alice")
    assert access.whoami(people.core, log_in(people, project=None)).project == "red"
    users.change_user(people.core, SITE, "alice", admin=True)
    assert log_in(people, project=None).is_admin
    assert log_in(people, project="blue").role is Role.MEMBER


def test_a_hash_that_is_out_of_date_is_made_anew_at_a_login(
    people: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = users.get_user(people.core, SITE, "alice").user.password_hash
    monkeypatch.setattr(users, "HASHER", PasswordHasher(time_cost=2, memory_cost=8, parallelism=1))
    assert log_in(people).name == "alice"
    assert users.get_user(people.core, SITE, "alice").user.password_hash != before
    assert log_in(people).name == "alice"


def test_a_login_ends(people: Site) -> None:
    made = login.log_in(people.core, Attempt(HERE, "alice"), PASSWORD, project="red")
    actor = access.authenticate(people.core, made.secret)
    login.log_out(people.core, actor)
    with pytest.raises(UnauthenticatedError):
        access.authenticate(people.core, made.secret)
    again = login.log_in(people.core, Attempt(HERE, "alice"), PASSWORD, project="red")
    assert again.token.expires_at is not None
    people.database.now = lambda: again.token.expires_at or 0
    with pytest.raises(UnauthenticatedError):
        access.authenticate(people.core, again.secret)
    with pytest.raises(InvalidStateError):
        login.log_out(people.core, people.actor("service", "red"))


def test_a_token_allows_what_its_user_still_may_at_every_call(people: Site) -> None:
    actor = log_in(people)
    secret = access.create_token(people.core, actor, "ci", project="red").secret
    assert access.authenticate(people.core, secret).role is Role.MEMBER
    users.set_member(people.core, SITE, "red", "alice", Role.READER)
    assert access.authenticate(people.core, secret).role is Role.READER
    users.change_user(people.core, SITE, "alice", disabled=True)
    with pytest.raises(UnauthenticatedError):
        access.authenticate(people.core, secret)
    users.change_user(people.core, SITE, "alice", disabled=False)
    users.remove_member(people.core, SITE, "red", "alice")
    with pytest.raises(UnauthenticatedError):
        access.authenticate(people.core, secret)


def test_an_administrators_token_ends_with_the_right(people: Site) -> None:
    users.change_user(people.core, SITE, "alice", admin=True)
    admin = log_in(people, project=None)
    own = access.create_token(people.core, admin, "own", project=None, own=True)
    service = access.create_token(people.core, admin, "own", project=None)
    assert (own.token.user_id, service.token.user_id) == (admin.user_id, None)
    assert access.authenticate(people.core, own.secret).is_admin
    users.change_user(people.core, SITE, "alice", admin=False)
    with pytest.raises(UnauthenticatedError):
        access.authenticate(people.core, own.secret)
    assert access.authenticate(people.core, service.secret).is_admin


def test_nobody_makes_a_token_with_more_than_they_have(people: Site) -> None:
    red, blue = log_in(people), log_in(people, project="blue")
    with pytest.raises(ForbiddenError, match="no more than a reader"):
        access.create_token(people.core, red, "t", project="blue", role=Role.MEMBER)
    with pytest.raises(InvalidInputError):
        access.create_token(people.core, red, "t", project=None, role=Role.ADMIN)
    with pytest.raises(NotFoundError):
        access.create_token(people.core, red, "t", project="green")
    people.project("green")
    with pytest.raises(NotFoundError):
        access.create_token(people.core, red, "t", project="green")
    with pytest.raises(InvalidInputError, match="at most 366 days"):
        access.create_token(people.core, red, "t", project="red", lifetime_s=367 * 86400)
    made = access.create_token(people.core, blue, "look", project=None)
    assert (made.token.role, made.token.expires_at) == (Role.READER, made.token.created_at + 30 * 86400)
    # A token that is no login makes none, and neither does a service that is no administrator.
    for actor in (access.authenticate(people.core, made.secret), people.actor("service", "red")):
        with pytest.raises(ForbiddenError, match="makes no tokens"):
            access.create_token(people.core, actor, "more", project=None)
    with pytest.raises(AlreadyExistsError):
        access.create_token(people.core, red, "look", project=None)


def test_tokens_are_their_owners(people: Site) -> None:
    alice = log_in(people)
    users.create_user(people.core, SITE, "bob", password=PASSWORD)
    users.set_member(people.core, SITE, "red", "bob", Role.MEMBER)
    bob = log_in(people, "bob")
    mine = access.create_token(people.core, alice, "ci", project=None)
    access.create_token(people.core, bob, "ci", project=None)
    service = people.actor("service", "red")
    assert {view.token.name for view in access.list_tokens(people.core, service)} == {"service"}
    assert {view.user for view in access.list_tokens(people.core, bob)} == {"bob"}
    assert {view.user for view in access.list_tokens(people.core, SITE)} == {"alice", "bob", None}
    for name in (mine.token.id, "service"):
        with pytest.raises(NotFoundError):
            access.revoke_token(people.core, bob, name)
    access.revoke_token(people.core, bob, "ci")
    access.authenticate(people.core, mine.secret)
    with pytest.raises(NotFoundError):
        access.revoke_token(people.core, SITE, "ci")
    access.revoke_token(people.core, SITE, mine.token.id)
    with pytest.raises(UnauthenticatedError):
        access.authenticate(people.core, mine.secret)


def test_what_is_wrong_with_a_login_is_not_told(people: Site) -> None:
    users.create_user(people.core, SITE, "without")
    users.create_user(people.core, SITE, "gone", password=PASSWORD)
    users.change_user(people.core, SITE, "gone", disabled=True)
    told = set()
    for name, password in (
        ("alice", "wrong"),
        ("nobody", PASSWORD),
        ("without", PASSWORD),
        ("gone", PASSWORD),
        ("", ""),
    ):
        with pytest.raises(UnauthenticatedError) as refused:
            log_in(people, name, password)
        told.add(str(refused.value.problem()))
    assert len(told) == 1


def fail(site: Site, name: str, address: str, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(UnauthenticatedError):
            login.log_in(site.core, Attempt(address, name), "wrong", project=None)


def locked_out(site: Site, name: str, address: str) -> TooManyAttemptsError:
    """The refusal even of the right password."""
    with pytest.raises(TooManyAttemptsError) as refused:
        login.log_in(site.core, Attempt(address, name), PASSWORD, project="red")
    assert 0 < refused.value.facts["retry_after_s"] <= site.core.settings.login.window_s
    return refused.value


def limited(site: Site, **limits: int) -> None:
    """The site with other limits."""
    settings = site.core.settings
    changed = settings.model_copy(update={"login": settings.login.model_copy(update=limits)})
    site.core = dataclasses.replace(site.core, settings=changed)


def test_too_many_failures_of_a_user_lock_out_where_they_come_from_alone(people: Site) -> None:
    limit = people.core.settings.login.user_failures
    for name in ("alice", "nobody"):
        fail(people, name, "198.51.100.9", limit)
        assert "bmi user unlock" in locked_out(people, name, "198.51.100.9").remedy
    log_in(people)
    locked_out(people, "alice", "198.51.100.9")
    users.set_password(people.core, SITE, "alice", PASSWORD + "!")
    login.log_in(people.core, Attempt("198.51.100.9", "alice"), PASSWORD + "!", project="red")


def test_many_addresses_are_no_way_around_the_limit(people: Site) -> None:
    limited(people, user_failures_anywhere=5)
    for name in ("alice", "nobody"):
        for number in range(5):
            fail(people, name, f"192.0.2.{number}")
        locked_out(people, name, "198.51.100.1")
    # A host has more IPv6 addresses than anybody can count.
    limited(people, address_failures=3)
    for number in range(3):
        fail(people, f"name-{number}", f"2001:db8::{number}")
    refused = locked_out(people, "alice", "2001:db8::ffff")
    assert "another address" in refused.remedy
    assert "administrator" not in refused.remedy
    fail(people, "bob", "2001:db8:0:1::1")


def test_an_administrator_ends_a_lock_out_and_nothing_else(people: Site) -> None:
    actor = log_in(people)
    for address in (HERE, "198.51.100.9"):
        fail(people, "alice", address, people.core.settings.login.user_failures)
        locked_out(people, "alice", address)
    with pytest.raises(ForbiddenError):
        users.unlock_user(people.core, actor, "alice")
    with pytest.raises(NotFoundError):
        users.unlock_user(people.core, SITE, "nobody")
    users.unlock_user(people.core, SITE, "alice")
    login.log_in(people.core, Attempt("198.51.100.9", "alice"), PASSWORD, project="red")
    log_in(people)
    assert access.whoami(people.core, actor).user == "alice"


def test_what_is_no_wrong_password_is_no_failure(people: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(people, user_failures=1)
    monkeypatch.setattr(users, "_turns", threading.BoundedSemaphore(1))
    monkeypatch.setattr(users, "_TURN_TIMEOUT_S", 0)
    with users.hashing():
        for _ in range(3):
            with pytest.raises(UnavailableError):
                log_in(people)
        with pytest.raises(UnavailableError):
            users.hashed("alice", PASSWORD)
    log_in(people)


def test_who_is_logged_in_changes_their_password_while_others_try_it(people: Site) -> None:
    actor = log_in(people)
    fail(people, "alice", HERE, people.core.settings.login.user_failures)
    locked_out(people, "alice", HERE)
    for _ in range(people.core.settings.login.user_failures - 1):
        with pytest.raises(ForbiddenError):
            login.change_password(people.core, actor, HERE, "wrong", PASSWORD + "!")
    login.change_password(people.core, actor, HERE, PASSWORD, PASSWORD + "!")
    for _ in range(people.core.settings.login.user_failures):
        with pytest.raises(ForbiddenError):
            login.change_password(people.core, actor, HERE, "wrong", PASSWORD)
    with pytest.raises(TooManyAttemptsError):
        login.change_password(people.core, actor, HERE, PASSWORD + "!", PASSWORD)


def test_without_a_password_there_is_none_to_change(people: Site) -> None:
    actor = log_in(people)
    with people.database.write() as tx:
        records.users.update(tx, id=actor.user_id, values={"password_hash": None})
    for _ in range(people.core.settings.login.user_failures + 1):
        with pytest.raises(InvalidStateError, match="no password"):
            login.change_password(people.core, actor, HERE, "", PASSWORD)


def test_a_short_name_may_be_in_a_password(people: Site) -> None:
    users.create_user(people.core, SITE, "bo", password="the boat on the river")
    with pytest.raises(InvalidInputError):
        users.create_user(people.core, SITE, "boat", password="the boat on the river")


def test_a_password_that_is_taken_away_meanwhile_lets_nobody_in(
    people: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = login._is_right

    def slow(user: User | None, password: str) -> bool:
        answer = right(user, password)
        users.set_password(people.core, SITE, "alice", PASSWORD + "!")
        return answer

    monkeypatch.setattr(login, "_is_right", slow)
    with pytest.raises(UnauthenticatedError):
        log_in(people)


def test_a_lock_out_passes(people: Site) -> None:
    settings, now = people.core.settings.login, people.core.now()
    for _ in range(settings.user_failures):
        with pytest.raises(UnauthenticatedError):
            log_in(people, password="wrong")
    with pytest.raises(TooManyAttemptsError):
        log_in(people)
    people.database.now = lambda: now + settings.window_s + 5
    log_in(people)


def test_an_address_that_is_locked_out_locks_out_nobody_else(people: Site) -> None:
    core = _with(people, address_failures=6)
    for number in range(6):
        with pytest.raises(UnauthenticatedError):
            login.log_in(core, Attempt("198.51.100.9", f"name-{number}"), "wrong", project=None)
    for _ in range(core.settings.login.user_failures + 1):
        with pytest.raises(TooManyAttemptsError):
            login.log_in(core, Attempt("198.51.100.9", "alice"), "wrong", project=None)
    log_in(people)


def _with(people: Site, **changed: int) -> Core:
    """The same installation with other limits for logins."""
    limits = people.core.settings.login.model_copy(update=changed)
    settings = people.core.settings.model_copy(update={"login": limits})
    return Core(people.database, people.core.vault, settings)


def test_an_address_that_tries_many_names_is_locked_out(people: Site) -> None:
    core = _with(people, address_failures=3)
    for name in ("a", "b", "c"):
        with pytest.raises(UnauthenticatedError):
            login.log_in(core, Attempt(HERE, name), "wrong", project=None)
    with pytest.raises(TooManyAttemptsError):
        login.log_in(core, Attempt(HERE, "alice"), PASSWORD, project="red")
    for _ in range(5):  # success is not counted
        login.log_in(core, Attempt("198.51.100.1", "alice"), PASSWORD, project="red")


def test_many_guesses_at_once_are_no_way_around_the_limit(people: Site) -> None:
    ended: list[type[BmiError]] = []

    def guess() -> None:
        with pytest.raises(BmiError) as refused:
            log_in(people, password="wrong")
        ended.append(refused.type)

    threads = [threading.Thread(target=guess) for _ in range(14)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    limit = people.core.settings.login.user_failures
    assert ended.count(UnauthenticatedError) == limit
    assert ended.count(TooManyAttemptsError) == 14 - limit


def test_a_new_password_ends_the_other_logins(people: Site) -> None:
    first = login.log_in(people.core, Attempt(HERE, "alice"), PASSWORD, project="red")
    actor = log_in(people)
    token = access.create_token(people.core, actor, "ci", project=None)
    for bad in ("short", "alice-and-the-rabbit", "x" * 1001):
        with pytest.raises(InvalidInputError, match="password"):
            login.change_password(people.core, actor, HERE, PASSWORD, bad)
    with pytest.raises(ForbiddenError):
        login.change_password(people.core, actor, HERE, "wrong", PASSWORD + "!")
    login.change_password(people.core, actor, HERE, PASSWORD, PASSWORD + "!")
    with pytest.raises(UnauthenticatedError):
        access.authenticate(people.core, first.secret)
    access.authenticate(people.core, token.secret)
    login.log_out(people.core, actor)
    with pytest.raises(UnauthenticatedError):
        log_in(people)
    log_in(people, password=PASSWORD + "!")
    with pytest.raises(ForbiddenError):
        login.change_password(people.core, people.actor("service", "red"), HERE, "", PASSWORD)


def test_an_administrator_ends_what_somebody_else_may_have_made(people: Site) -> None:
    actor = log_in(people)
    token = access.create_token(people.core, actor, "ci", project=None).secret
    users.set_password(people.core, SITE, "alice", PASSWORD)
    access.authenticate(people.core, token)
    users.set_password(people.core, SITE, "alice", PASSWORD, end_tokens=True)
    with pytest.raises(UnauthenticatedError):
        access.authenticate(people.core, token)
    service = people.token("service", "red")
    users.change_user(people.core, SITE, "alice", link=("https://idp", "s"))
    secret = login.log_in(people.core, Attempt(HERE, "alice"), PASSWORD, project="red").secret
    users.change_user(people.core, SITE, "alice", link=("https://idp", "s"))
    access.authenticate(people.core, secret)
    users.change_user(people.core, SITE, "alice", link=("", ""))
    with pytest.raises(UnauthenticatedError):
        access.authenticate(people.core, secret)
    access.authenticate(people.core, service)


def test_a_token_that_is_no_login_has_itself_alone(people: Site) -> None:
    alice = log_in(people)
    leaked = access.authenticate(
        people.core, access.create_token(people.core, alice, "ci", project=None, role=Role.READER).secret
    )
    other = access.create_token(people.core, alice, "other", project=None).token
    service = people.actor("service", "red")
    for actor, name in ((leaked, "ci"), (service, "service")):
        assert [view.token.name for view in access.list_tokens(people.core, actor)] == [name]
        for foreign in ("other", other.id):
            with pytest.raises(NotFoundError):
                access.revoke_token(people.core, actor, foreign)
        access.revoke_token(people.core, actor, name)
        assert access.list_tokens(people.core, actor) == []
    assert {view.token.name for view in access.list_tokens(people.core, alice)} >= {"other"}


def test_a_name_of_two_tokens_ends_neither(people: Site) -> None:
    users.change_user(people.core, SITE, "alice", admin=True)
    admin = log_in(people, project=None)
    own = access.create_token(people.core, admin, "ci", project=None, own=True)
    service = access.create_token(people.core, admin, "ci", project="red")
    with pytest.raises(InvalidInputError, match="'ci'"):
        access.revoke_token(people.core, admin, "ci")
    access.revoke_token(people.core, admin, service.token.id)
    access.authenticate(people.core, own.secret)
    access.revoke_token(people.core, admin, "ci")


def test_only_administrators_decide_about_people(people: Site) -> None:
    red = log_in(people)
    core = people.core
    for refused in (
        lambda: users.create_user(core, red, "mallory"),
        lambda: users.list_users(core, red),
        lambda: users.get_user(core, red, "alice"),
        lambda: users.change_user(core, red, "alice", admin=True),
        lambda: users.set_password(core, red, "alice", PASSWORD),
        lambda: users.unlock_user(core, red, "alice"),
        lambda: users.set_member(core, red, "blue", "alice", Role.MEMBER),
        lambda: users.remove_member(core, red, "red", "alice"),
        lambda: audit.list_entries(core, red, by=None, refused=False, before=1),
    ):
        with pytest.raises(ForbiddenError):
            refused()
    assert [(view.user, view.role) for view in users.list_members(core, red, "red")] == [
        ("alice", Role.MEMBER)
    ]
    with pytest.raises(NotFoundError):
        users.list_members(core, red, "blue")


def test_users_are_as_they_are_said_to_be(people: Site) -> None:
    core = people.core
    view = users.get_user(core, SITE, "alice")
    assert dict(view.projects) == {"blue": Role.READER, "red": Role.MEMBER}
    assert PASSWORD not in repr(view)
    assert view.user.password_hash
    assert view.user.password_hash.startswith("$argon2id$")
    assert users.change_user(core, SITE, "alice", link=("https://idp", "s")).user.subject == "s"
    users.create_user(core, SITE, "bob")
    with pytest.raises(AlreadyExistsError, match="linked"):
        users.change_user(core, SITE, "bob", link=("https://idp", "s"))
    assert users.change_user(core, SITE, "alice", link=("", "")).user.subject is None
    with pytest.raises(InvalidInputError):
        users.change_user(core, SITE, "alice", link=("https://idp", ""))
    with pytest.raises(InvalidInputError):
        users.set_member(core, SITE, "red", "bob", Role.ADMIN)
    with pytest.raises(ConflictError):
        users.remove_member(core, SITE, "red", "bob")
    for name in ("", "Alice", "a b", "alice\0", "-a"):
        with pytest.raises(InvalidInputError):
            users.create_user(core, SITE, name)
    assert [view.user.name for view in users.list_users(core, SITE)] == ["alice", "bob"]


def test_the_database_lets_nobody_change_the_audit_log(people: Site) -> None:
    deed = audit.Deed("alice", None, None, None, HERE, "log_in", "login", None, 201, None)
    audit.write(people.core, deed)
    (entry,) = audit.list_entries(people.core, SITE, by="alice", refused=False, before=(1 << 31) - 1)
    statements = [
        "UPDATE audit SET actor = 'bob'",
        "DELETE FROM audit",
        "UPDATE audit SET status = 200 WHERE id = 1",
    ]
    if people.database.engine.dialect.name == "postgresql":
        statements.append("TRUNCATE audit")
    else:
        columns = "id, at, actor, address, action, object, status"
        statements.append(
            f"INSERT OR REPLACE INTO audit ({columns}) VALUES ({entry.id}, 0, 'b', '', '', '', 0)"
        )
    for statement in statements:
        with pytest.raises(DBAPIError, match="only ever added to"), people.database.write() as tx:
            tx.execute(text(statement))
    assert audit.list_entries(people.core, SITE, by=None, refused=False, before=(1 << 31) - 1) == [entry]
