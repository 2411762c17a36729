"""People: who there is, what they may do in which project, and their passwords."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from argon2 import PasswordHasher
from sqlalchemy import Connection, select

from bmi.domain.names import user_name
from bmi.domain.nouns import Actor, Membership, Project, Role, User
from bmi.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError
from bmi.service.attempts import forgive
from bmi.service.core import Core, require_admin
from bmi.store import records, schema
from bmi.store.ids import new_id

# The parameters that argon2-cffi recommends are those of RFC 9106, section 4, for little memory.
HASHER = PasswordHasher()
_PASSWORD_CHARACTERS = range(12, 1001)
# Shorter names are in many good passwords.
_TELLING_NAME = 4
# A hash takes 64 MiB and much of a core: so many are made at once, and so long somebody waits for a turn.
_HASHES_AT_ONCE = 4
_TURN_TIMEOUT_S = 10
_turns = threading.BoundedSemaphore(_HASHES_AT_ONCE)


@dataclass(frozen=True)
class UserView:
    """A user, and their role in each of their projects."""

    user: User
    projects: Mapping[str, Role]


@dataclass(frozen=True)
class MemberView:
    """A user's name and their role in a project."""

    user: str
    role: Role


def create_user(
    core: Core, actor: Actor, name: str, *, admin: bool = False, password: str | None = None
) -> UserView:
    """A person who may log in once they have a password or are linked to a provider's subject."""
    require_admin(actor)
    user = User(
        id=new_id(),
        name=user_name(name),
        created_at=core.now(),
        admin=admin,
        password_hash=hashed(name, password) if password is not None else None,
    )
    with core.write() as tx:
        records.users.insert(tx, user)
    return UserView(user, {})


def list_users(core: Core, actor: Actor, *, after: str = "", limit: int = 100) -> list[UserView]:
    """All users by name, behind the name `after`."""
    require_admin(actor)
    with core.database.read() as tx:
        return _views(tx, records.users.list(tx, schema.users.c.name > after, order="name", limit=limit))


def get_user(core: Core, actor: Actor, name: str) -> UserView:
    """One user."""
    require_admin(actor)
    with core.database.read() as tx:
        return _views(tx, [_user(tx, name)])[0]


def change_user(
    core: Core,
    actor: Actor,
    name: str,
    *,
    admin: bool | None = None,
    disabled: bool | None = None,
    link: tuple[str, str] | None = None,
) -> UserView:
    """Changes what is given. A disabled user's tokens open nothing; `link` is the provider's issuer and what
    it calls the user, or two empty texts for no link. Another link ends the user's logins, as another password does.
    """
    require_admin(actor)
    values: dict[str, object] = {}
    if admin is not None:
        values["admin"] = admin
    if disabled is not None:
        values["disabled"] = disabled
    if link is not None:
        issuer, subject = link
        if bool(issuer) != bool(subject):
            raise InvalidInputError("subject", "it needs an issuer, and an issuer it.", remedy="Give both.")
        values |= {"issuer": issuer or None, "subject": subject or None}
    with core.write() as tx:
        user = _user(tx, name, lock=True)
        if values:
            records.users.update(tx, id=user.id, values=values)
        if link is not None and (user.issuer, user.subject) != (values["issuer"], values["subject"]):
            records.tokens.delete(tx, user_id=user.id, session=True)
        return _views(tx, [records.users.get(tx, user.id)])[0]


def set_password(
    core: Core, actor: Actor, name: str, password: str | None, *, end_tokens: bool = False
) -> None:
    """Sets a user's password, or takes it away; ends their logins and a lock-out, and with `end_tokens` the tokens
    that they have made for themselves.
    """
    require_admin(actor)
    password_hash = hashed(name, password) if password is not None else None
    replace_password(core, name, password_hash, end_tokens=end_tokens)


def replace_password(
    core: Core, name: str, password_hash: str | None, *, keep: str | None = None, end_tokens: bool = False
) -> None:
    """Writes a new hash and ends every login, or every token, but `keep`."""
    with core.write() as tx:
        user = _user(tx, name, lock=True)
        forgive(tx, name)
        records.users.update(tx, id=user.id, values={"password_hash": password_hash})
        ended = {} if end_tokens else {"session": True}
        records.tokens.delete(tx, schema.tokens.c.id != (keep or ""), user_id=user.id, **ended)


def unlock_user(core: Core, actor: Actor, name: str) -> None:
    """Forgives the failed logins of a user, whether they are locked out or not."""
    require_admin(actor)
    with core.write() as tx:
        _user(tx, name)
        forgive(tx, name)


def hashed(name: str, password: str) -> str:
    """The hash of a password that is good enough; raises InvalidInputError for others."""
    named = len(name) >= _TELLING_NAME and name in password.lower()
    if len(password) not in _PASSWORD_CHARACTERS or named:
        raise InvalidInputError(
            "password",
            "it is too easy to guess, or too long.",
            remedy=f"Use {_PASSWORD_CHARACTERS[0]} to {_PASSWORD_CHARACTERS[-1]} characters, without the user's name.",
        )
    with hashing():
        return HASHER.hash(password)


@contextmanager
def hashing() -> Iterator[None]:
    """A turn to make a hash; raises UnavailableError when none comes."""
    if not _turns.acquire(timeout=_TURN_TIMEOUT_S):
        raise UnavailableError("Too many people log in at this moment.", remedy="Try again in a moment.")
    try:
        yield
    finally:
        _turns.release()


# ---- projects ---------------------------------------------------------------------------------------


def list_members(
    core: Core, actor: Actor, project: str, *, after: str = "", limit: int = 100
) -> list[MemberView]:
    """The members of a project that the actor may see, by name."""
    users, memberships = schema.users.c, schema.memberships.c
    with core.database.read() as tx:
        owner = _project(tx, actor, project)
        found = tx.execute(
            select(users.name, memberships.role)
            .join_from(schema.memberships, schema.users)
            .where(memberships.project_id == owner.id, users.name > after)
            .order_by(users.name)
            .limit(limit)
        ).all()
    return [MemberView(name, role) for name, role in found]


def set_member(core: Core, actor: Actor, project: str, name: str, role: Role) -> MemberView:
    """Makes a user a member or a reader of a project."""
    require_admin(actor)
    if role is Role.ADMIN:
        raise InvalidInputError(
            "role",
            "administrators are not of a project.",
            remedy="Use member or reader, or bmi user set --admin.",
        )
    with core.write() as tx:
        user = _user(tx, name, lock=True)
        owner = _project(tx, actor, project)
        if not records.memberships.update(tx, user_id=user.id, project_id=owner.id, values={"role": role}):
            records.memberships.insert(tx, Membership(user.id, owner.id, role))
    return MemberView(name, role)


def remove_member(core: Core, actor: Actor, project: str, name: str) -> None:
    """Ends a membership; the user's tokens for the project open nothing from now on."""
    require_admin(actor)
    with core.write() as tx:
        user, owner = _user(tx, name, lock=True), _project(tx, actor, project)
        if not records.memberships.delete(tx, user_id=user.id, project_id=owner.id):
            raise ConflictError(
                f"{name!r} is not in project {project!r}.", remedy=f"See bmi project members {project}."
            )


def _project(tx: Connection, actor: Actor, name: str) -> Project:
    project = records.projects.find(tx, name=name)
    if project is None or not (actor.is_admin or actor.project_id == project.id):
        raise NotFoundError("project", name, remedy="`bmi project list` shows those there are.")
    return project


def _user(tx: Connection, name: str, *, lock: bool = False) -> User:
    found = records.users.find(tx, name=name, lock=lock)
    if found is None:
        raise NotFoundError("user", name, remedy="`bmi user list` shows those there are.")
    return found


def _views(tx: Connection, users: list[User]) -> list[UserView]:
    memberships = schema.memberships.c
    rows = tx.execute(
        select(memberships.user_id, schema.projects.c.name, memberships.role)
        .join_from(schema.memberships, schema.projects)
        .where(memberships.user_id.in_([user.id for user in users]))
        .order_by(schema.projects.c.name)
    ).all()
    return [
        UserView(user, {project: role for owner, project, role in rows if owner == user.id}) for user in users
    ]
