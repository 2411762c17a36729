"""Logging in and out: whose password it is, and the token that a login gives."""

from functools import cache

from argon2.exceptions import VerificationError
from sqlalchemy import Connection

from bmi.domain.nouns import Actor, Role, User
from bmi.errors import (
    ForbiddenError,
    InvalidInputError,
    InvalidStateError,
    UnauthenticatedError,
)
from bmi.service import access, users
from bmi.service.access import NewToken
from bmi.service.attempts import Attempt, counted
from bmi.service.core import Core, project_names
from bmi.store import records
from bmi.store.ids import new_id


def log_in(core: Core, attempt: Attempt, password: str, *, project: str | None) -> NewToken:
    """A session of the named user in `project`; left out, in their only one, or as the administrator they are.

    Raises UnauthenticatedError with the same words and after the same work whatever is wrong, and
    TooManyAttemptsError before any work.
    """
    with counted(core, attempt):
        with core.database.read() as tx:
            user = records.users.find(tx, name=attempt.name)
        if not _is_right(user, password) or user is None or user.disabled:
            raise _wrong()
    renewed = {}
    if user.password_hash and users.HASHER.check_needs_rehash(user.password_hash):
        with users.hashing():
            renewed = {"password_hash": users.HASHER.hash(password)}
    with core.write() as tx:
        now = records.users.find(tx, id=user.id, password_hash=user.password_hash, lock=True)
        if now is None or now.disabled:
            # Whoever took the password away has ended the logins with it.
            raise _wrong()
        if renewed:
            records.users.update(tx, id=user.id, values=renewed)
        return open_session(core, tx, user, project)


def _wrong() -> UnauthenticatedError:
    return UnauthenticatedError(
        "The name or the password is wrong.", remedy="Try again, or ask an administrator."
    )


def change_password(core: Core, actor: Actor, address: str, current: str, new: str) -> None:
    """Gives the actor, who has logged in, another password and ends their other logins."""
    if actor.user_id is None or not actor.session:
        raise ForbiddenError("Only who has logged in has a password.", remedy="Log in first: bmi login.")
    with core.database.read() as tx:
        user = records.users.get(tx, actor.user_id)
    if user.password_hash is None:
        raise InvalidStateError(
            "You have no password here.",
            remedy="Log in as before; an administrator can give you one: bmi user password.",
        )
    # By the login, which nobody else has: strangers who try the user's name are no reason to refuse this.
    with counted(core, Attempt(address, f"of {actor.token_id}"), wrong=ForbiddenError):
        if not _is_right(user, current):
            raise ForbiddenError("The current password is wrong.", remedy="Try again.")
    users.replace_password(core, user.name, users.hashed(user.name, new), keep=actor.token_id)


def log_out(core: Core, actor: Actor) -> None:
    """Ends the login that the actor's token is of."""
    if not actor.session:
        raise InvalidStateError(
            "This token is not of a login.", remedy="To end it all the same: bmi token revoke."
        )
    with core.write() as tx:
        records.tokens.delete(tx, id=actor.token_id)


def open_session(core: Core, tx: Connection, user: User, project: str | None) -> NewToken:
    """The token of somebody who has proved to be this user."""
    project_id, role = _place(tx, user, project)
    return access.issue(
        core,
        tx,
        f"login-{new_id()[-8:]}",
        project_id,
        role,
        lifetime_s=core.settings.login.session_h * 3600,
        user=user,
        session=True,
    )


def _place(tx: Connection, user: User, project: str | None) -> tuple[str | None, Role]:
    """The project and the role that a login is for."""
    roles = {
        member.project_id: member.role
        for member in records.memberships.list(tx, order="project_id", user_id=user.id)
    }
    names = project_names(tx, set(roles))
    by_name = {name: project_id for project_id, name in names.items() if project_id}
    if project is None and user.admin:
        return None, Role.ADMIN
    if project is None and len(by_name) == 1:
        project = next(iter(by_name))
    if project is None:
        raise InvalidInputError(
            "project",
            f"you are in {', '.join(sorted(by_name))}." if by_name else "you are in none.",
            remedy="Say for which one: bmi login --project NAME." if by_name else "Ask an administrator.",
        )
    found = records.projects.find(tx, name=project)
    if found is not None and user.admin:
        return found.id, Role.MEMBER
    if found is None or found.id not in roles:
        raise ForbiddenError(
            f"You are not in a project {project!r}.", remedy="Ask an administrator, or leave it out."
        )
    return found.id, roles[found.id]


# ---- passwords --------------------------------------------------------------------------------------


@cache
def _nobodys_hash() -> str:
    return users.HASHER.hash(new_id())


def _is_right(user: User | None, password: str) -> bool:
    """Whether it is the user's password; as much work for nobody's."""
    known = user.password_hash if user else None
    with users.hashing():
        try:
            return users.HASHER.verify(known or _nobodys_hash(), password) and known is not None
        except VerificationError:
            return False


def known(core: Core, name: str) -> User | None:
    """The user of this name: for the log, which must not hold what may be a password typed as a name."""
    with core.database.read() as tx:
        return records.users.find(tx, name=name)
