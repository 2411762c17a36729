"""People: who there is, what they may do in which project, and their passwords."""

from collections.abc import Mapping
from dataclasses import dataclass

from argon2 import PasswordHasher
from sqlalchemy import Connection, select

from bmi.domain.names import user_name
from bmi.domain.nouns import Actor, Membership, Project, Role, User
from bmi.errors import ConflictError, InvalidInputError, NotFoundError
from bmi.service.attempts import forgive
from bmi.service.core import Core, require_admin
from bmi.store import records, schema
from bmi.store.ids import new_id

# The parameters that argon2-cffi recommends are those of RFC 9106, section 4, for little memory.
HASHER = PasswordHasher()
_PASSWORD_CHARACTERS = range(12, 1001)


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
    it calls the user, or two empty texts for no link.
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
        return _views(tx, [records.users.get(tx, user.id)])[0]


def set_password(core: Core, actor: Actor, name: str, password: str | None) -> None:
    """Sets a user's password, or takes it away; ends their logins, and a lock-out."""
    require_admin(actor)
    replace_password(core, name, hashed(name, password) if password is not None else None)


def replace_password(core: Core, name: str, password_hash: str | None, *, keep: str | None = None) -> None:
    """Writes a new hash and ends every login but the one with the token `keep`."""
    with core.write() as tx:
        user = _user(tx, name, lock=True)
        forgive(tx, name)
        records.users.update(tx, id=user.id, values={"password_hash": password_hash})
        records.tokens.delete(tx, schema.tokens.c.id != (keep or ""), user_id=user.id, session=True)


def hashed(name: str, password: str) -> str:
    """The hash of a password that is good enough; raises InvalidInputError for others."""
    if len(password) not in _PASSWORD_CHARACTERS or name in password.lower():
        raise InvalidInputError(
            "password",
            "it is too easy to guess, or too long.",
            remedy=f"Use {_PASSWORD_CHARACTERS[0]} to {_PASSWORD_CHARACTERS[-1]} characters, without the user's name.",
        )
    return HASHER.hash(password)


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
