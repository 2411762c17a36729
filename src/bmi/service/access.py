"""Tokens: made, shown once, kept only as hashes, checked on every call."""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from bmi.domain.names import label
from bmi.domain.nouns import Actor, Role, Token
from bmi.errors import InvalidInputError, NotFoundError, UnauthenticatedError
from bmi.service.core import Core, project_names, require_admin
from bmi.store import records, schema
from bmi.store.ids import new_id

_SITE = Actor("bmi", Role.ADMIN, None)


@dataclass(frozen=True)
class NewToken:
    """A token at the only moment when its secret is known."""

    token: Token
    secret: str = field(repr=False)


def hash_secret(secret: str) -> str:
    """SHA-256 is enough, and fast: the secrets hashed with it have 256 random bits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create_token(
    core: Core, actor: Actor, name: str, *, project: str | None, lifetime_s: float | None = None
) -> NewToken:
    """A token for a member of `project`, or for an administrator when there is none."""
    require_admin(actor)
    label(name)
    if lifetime_s is not None and lifetime_s <= 0:
        raise InvalidInputError(
            "lifetime_s", "it must be positive.", remedy="Leave it out for a token without end."
        )
    with core.write() as tx:
        owner = records.projects.find(tx, name=project) if project else None
        if project and owner is None:
            raise NotFoundError("project", project, remedy="`bmi project list` shows those there are.")
        now = core.now()
        secret = secrets.token_urlsafe(32)
        token = Token(
            id=new_id(),
            name=name,
            project_id=owner.id if owner else None,
            role=Role.MEMBER if owner else Role.ADMIN,
            secret_hash=hash_secret(secret),
            created_at=now,
            expires_at=now + lifetime_s if lifetime_s is not None else None,
        )
        records.tokens.insert(tx, token)
    return NewToken(token, f"bmi_{token.id}_{secret}")


@dataclass(frozen=True)
class TokenView:
    """A token and the name of the project that it is for (None: an administrator's)."""

    token: Token
    project: str | None


def list_tokens(core: Core, actor: Actor, *, after: str = "", limit: int = 100) -> list[TokenView]:
    """The tokens by name, beginning behind the name `after`."""
    require_admin(actor)
    with core.database.read() as tx:
        tokens = records.tokens.list(tx, schema.tokens.c.name > after, order="name", limit=limit)
        projects = project_names(tx, {token.project_id for token in tokens})
    return [TokenView(token, projects.get(token.project_id)) for token in tokens]


def check_database(core: Core) -> None:
    """Asks the database something small; raises what the database raises."""
    with core.database.read() as tx:
        records.tokens.list(tx, limit=1)


def whoami(core: Core, actor: Actor) -> str | None:
    """The name of the actor's project; None for an administrator."""
    with core.database.read() as tx:
        return project_names(tx, {actor.project_id}).get(actor.project_id)


def revoke_token(core: Core, actor: Actor, name: str) -> None:
    """Ends a token at once."""
    require_admin(actor)
    with core.write() as tx:
        if not records.tokens.delete(tx, name=name):
            raise NotFoundError("token", name, remedy="`bmi token list` shows those there are.")


def authenticate(core: Core, presented: str) -> Actor:
    """Who presents this token; raises UnauthenticatedError, which does not say what was wrong with it."""
    prefix, _, rest = presented.partition("_")
    token_id, _, secret = rest.partition("_")
    with core.database.read() as tx:
        token = records.tokens.find(tx, id=token_id) if prefix == "bmi" else None
    good = hmac.compare_digest(token.secret_hash if token else "", hash_secret(secret))
    if token is None or not good or (token.expires_at is not None and token.expires_at <= core.now()):
        raise UnauthenticatedError(
            "The token is unknown, expired or revoked.",
            remedy="Set BMI_TOKEN, or ask an administrator for a token.",
        )
    return Actor(token.name, token.role, token.project_id, token.id)


def ensure_admin_token(core: Core, path: Path) -> bool:
    """On a new installation, makes an administrator's token and leaves it in `path` (mode 0600).

    Returns whether it did. Whoever can read that file owns the data directory anyway.
    """
    if path.exists():
        return False
    with core.database.read() as tx:
        taken = {token.name for token in records.tokens.list(tx)}
    name = next(n for n in ("admin", *(f"admin-{i}" for i in range(2, 10_000))) if n not in taken)
    new = create_token(core, _SITE, name, project=None)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(new.secret + "\n")
    temporary.rename(path)
    return True
