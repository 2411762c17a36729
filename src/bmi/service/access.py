"""Tokens: made, shown once, kept only as hashes, checked on every call."""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, or_

from bmi.domain.names import label
from bmi.domain.nouns import Actor, Role, Token, User
from bmi.errors import ForbiddenError, InvalidInputError, NotFoundError, UnauthenticatedError
from bmi.service.core import Core, names_of, project_names
from bmi.store import records, schema
from bmi.store.ids import new_id

_SITE = Actor("bmi", Role.ADMIN, None)
_DAY_S = 86400
_DEFAULT_DAYS = 30
_ORDER = (Role.READER, Role.MEMBER, Role.ADMIN)


@dataclass(frozen=True)
class NewToken:
    """A token at the only moment when its secret is known."""

    token: Token
    secret: str = field(repr=False)


@dataclass(frozen=True)
class TokenView:
    """A token, and the names of the project and of the user that it is for, if it is for one."""

    token: Token
    project: str | None
    user: str | None


@dataclass(frozen=True)
class Identity:
    """Who an actor is; `expires_at` is when their token ends."""

    project: str | None
    user: str | None
    expires_at: float | None


def hash_secret(secret: str) -> str:
    """SHA-256 is enough, and fast: the secrets hashed with it have 256 random bits."""
    return hashlib.sha256(secret.encode()).hexdigest()


# ---- making -----------------------------------------------------------------------------------------


def create_token(
    core: Core,
    actor: Actor,
    name: str,
    *,
    project: str | None,
    role: Role | None = None,
    lifetime_s: float | None = None,
    own: bool = False,
) -> NewToken:
    """A token with a role in `project`, or an administrator's when there is none.

    An administrator makes tokens for services, of any role and without end if they like. Everybody who has
    logged in makes tokens of their own: with at most what they may do, and only for a time.
    """
    label(name)
    if lifetime_s is not None and lifetime_s <= 0:
        raise InvalidInputError(
            "lifetime_s", "it must be positive.", remedy="Leave it out for as long as possible."
        )
    if role is Role.ADMIN:
        raise InvalidInputError(
            "role", "only a token without a project is an administrator's.", remedy="Leave the role out."
        )
    with core.write() as tx:
        if own or not actor.is_admin:
            return _create_own(core, tx, actor, name, project=project, role=role, lifetime_s=lifetime_s)
        owner = records.projects.find(tx, name=project) if project is not None else None
        if project is not None and owner is None:
            raise _no_such_project(project)
        if role is not None and owner is None:
            raise InvalidInputError(
                "role",
                "a token without a project is an administrator's.",
                remedy="Say for which project: --project NAME.",
            )
        given = (role or Role.MEMBER) if owner else Role.ADMIN
        return issue(core, tx, name, owner.id if owner else None, given, lifetime_s=lifetime_s)


def _create_own(
    core: Core,
    tx: Connection,
    actor: Actor,
    name: str,
    *,
    project: str | None,
    role: Role | None,
    lifetime_s: float | None,
) -> NewToken:
    if actor.user_id is None or not actor.session:
        # A token that is stolen must not outlive itself in others.
        raise ForbiddenError("A token makes no tokens.", remedy="Log in first: bmi login.")
    longest_s = core.settings.login.token_days * _DAY_S
    if lifetime_s is not None and lifetime_s > longest_s:
        raise InvalidInputError(
            "lifetime_s",
            f"a user's token lasts at most {longest_s / _DAY_S:g} days.",
            remedy="Ask for less, or an administrator for a service's token.",
        )
    lasting_s = lifetime_s if lifetime_s is not None else min(longest_s, _DEFAULT_DAYS * _DAY_S)
    user = records.users.get(tx, actor.user_id)
    project_id = actor.project_id
    if project is not None:
        found = records.projects.find(tx, name=project)
        if found is None or role_in(tx, user, found.id) is None:
            raise _no_such_project(project)
        project_id = found.id
    elif role is not None and project_id is None:
        raise InvalidInputError(
            "role",
            "a token without a project is an administrator's.",
            remedy="Say for which project: --project NAME.",
        )
    most = role_in(tx, user, project_id) or actor.role
    if role is not None and _ORDER.index(role) > _ORDER.index(most):
        raise ForbiddenError(f"You are no more than a {most} there.", remedy=f"Ask for a {most}'s token.")
    given = role or (Role.MEMBER if most is Role.ADMIN and project_id else most)
    return issue(core, tx, name, project_id, given, lifetime_s=lasting_s, user=user)


def issue(
    core: Core,
    tx: Connection,
    name: str,
    project_id: str | None,
    role: Role,
    *,
    lifetime_s: float | None,
    user: User | None = None,
    session: bool = False,
) -> NewToken:
    """Writes a token down, for callers who have checked that it may be."""
    now = core.now()
    secret = secrets.token_urlsafe(32)
    token = Token(
        id=new_id(),
        name=name,
        project_id=project_id,
        role=role,
        secret_hash=hash_secret(secret),
        created_at=now,
        expires_at=now + lifetime_s if lifetime_s is not None else None,
        user_id=user.id if user else None,
        session=session,
    )
    records.tokens.insert(tx, token)
    return NewToken(token, f"bmi_{token.id}_{secret}")


def role_in(tx: Connection, user: User, project_id: str | None) -> Role | None:
    """The most that a user may be in a project, or for the site when there is none; None for nothing."""
    if user.admin:
        return Role.ADMIN
    member = records.memberships.find(tx, user_id=user.id, project_id=project_id) if project_id else None
    return member.role if member else None


def _no_such_project(name: str) -> NotFoundError:
    return NotFoundError("project", name, remedy="`bmi project list` shows those there are.")


# ---- looking and ending -----------------------------------------------------------------------------


def list_tokens(core: Core, actor: Actor, *, after: str = "", limit: int = 100) -> list[TokenView]:
    """The actor's own tokens, or all of them for an administrator; oldest first, behind the id `after`."""
    where = [] if actor.is_admin else [_own(actor)]
    with core.database.read() as tx:
        tokens = records.tokens.list(tx, schema.tokens.c.id > after, *where, limit=limit)
        return _views(tx, tokens)


def _own(actor: Actor) -> ColumnElement[bool]:
    """Who has logged in has all their tokens; whoever has another token, or has stolen one, has that one."""
    table = schema.tokens.c
    return table.user_id == actor.user_id if actor.session else table.id == actor.token_id


def view_of(core: Core, token: Token) -> TokenView:
    """The token as it is shown."""
    with core.database.read() as tx:
        return _views(tx, [token])[0]


def _views(tx: Connection, tokens: list[Token]) -> list[TokenView]:
    projects = project_names(tx, {token.project_id for token in tokens})
    users = names_of(tx, schema.users, {token.user_id for token in tokens})
    return [TokenView(token, projects.get(token.project_id), users.get(token.user_id)) for token in tokens]


def revoke_token(core: Core, actor: Actor, name: str) -> None:
    """Ends a token at once: one of the actor's own; for an administrator also a service's, or anybody's by id."""
    table = schema.tokens.c
    within = _own(actor)
    if actor.is_admin:
        # Of nobody are services' tokens.
        within = or_(table.user_id == actor.user_id, table.user_id.is_(None), table.id == name)
    with core.write() as tx:
        meant = records.tokens.list(tx, or_(table.id == name, table.name == name), within)
        if not meant:
            raise NotFoundError("token", name, remedy="`bmi token list` shows those there are.")
        if len(meant) > 1:
            raise InvalidInputError(
                "name",
                f"a service has a token {name!r}, and so have you.",
                remedy="Give the id of one: bmi token list.",
            )
        records.tokens.delete(tx, id=meant[0].id)


def check_database(core: Core) -> None:
    """Asks the database something small; raises what the database raises."""
    with core.database.read() as tx:
        records.tokens.list(tx, limit=1)


def whoami(core: Core, actor: Actor) -> Identity:
    """What the actor's token says about them."""
    with core.database.read() as tx:
        token = records.tokens.find(tx, id=actor.token_id)
        return Identity(
            project=project_names(tx, {actor.project_id}).get(actor.project_id),
            user=names_of(tx, schema.users, {actor.user_id}).get(actor.user_id),
            expires_at=token.expires_at if token else None,
        )


# ---- checking ---------------------------------------------------------------------------------------


def authenticate(core: Core, presented: str) -> Actor:
    """Who presents this token; raises UnauthenticatedError, which does not say what was wrong with it.

    A user's token allows what it was made for as far as the user still may that now.
    """
    prefix, _, rest = presented.partition("_")
    token_id, _, secret = rest.partition("_")
    with core.database.read() as tx:
        token = records.tokens.find(tx, id=token_id) if prefix == "bmi" else None
        good = hmac.compare_digest(token.secret_hash if token else "", hash_secret(secret))
        if token and good and not (token.expires_at is not None and token.expires_at <= core.now()):
            if token.user_id is None:
                return Actor(token.name, token.role, token.project_id, token.id)
            user = records.users.get(tx, token.user_id)
            most = None if user.disabled else role_in(tx, user, token.project_id)
            if most is not None:
                role = min(token.role, most, key=_ORDER.index)
                return Actor(user.name, role, token.project_id, token.id, user.id, token.session)
    raise UnauthenticatedError(
        "The token is unknown, expired or revoked.",
        remedy="Log in (bmi login), set BMI_TOKEN, or ask an administrator for a token.",
    )


def ensure_admin_token(core: Core, path: Path) -> bool:
    """On a new installation, makes an administrator's token and leaves it in `path` (mode 0600).

    Returns whether it did. Whoever can read that file owns the data directory anyway.
    """
    if path.exists():
        return False
    with core.database.read() as tx:
        taken = {token.name for token in records.tokens.list(tx, user_id=None)}
    name = next(n for n in ("admin", *(f"admin-{i}" for i in range(2, 10_000))) if n not in taken)
    new = create_token(core, _SITE, name, project=None)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(new.secret + "\n")
    temporary.rename(path)
    return True
