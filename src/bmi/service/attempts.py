"""How often logins may fail, by user and by address, counted in the database that all servers share."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, case, delete, update
from sqlalchemy.dialects import postgresql, sqlite

from bmi.errors import TooManyAttemptsError
from bmi.service.core import Core
from bmi.store import schema

_DAY_S = 86400


@dataclass(frozen=True)
class Attempt:
    """One try to log in, counted as failed until it is known to have succeeded."""

    address: str
    name: str | None = None

    def hashes(self) -> list[str]:
        """Hashes: people type their passwords where a name is asked for."""
        said = [f"address {self.address}", *([f"user {self.name.lower()}"] if self.name is not None else [])]
        return [hashlib.sha256(text.encode()).hexdigest() for text in said]


@contextmanager
def counted(core: Core, attempt: Attempt, *, tries: int = 1) -> Iterator[None]:
    """Counts the attempt in the block, and takes that back when it ends well, with what came before it of the
    same login if it is the last of several `tries`. Raises TooManyAttemptsError.
    """
    count(core, attempt)
    yield
    table = schema.login_failures
    with core.database.write() as tx:
        address, *name = attempt.hashes()
        tx.execute(update(table).where(table.c.key == address).values(count=table.c.count - tries))
        tx.execute(delete(table).where(table.c.key.in_(name)))
    with core.database.write() as tx:
        tx.execute(delete(table).where(table.c.since < core.now() - core.settings.login.window_s - _DAY_S))


def count(core: Core, attempt: Attempt) -> None:
    """Counts an attempt as failed before it is made: so many at once are no way around the limits, which every
    server on the database shares. Raises TooManyAttemptsError.
    """
    settings = core.settings.login
    limits = (settings.address_failures, settings.user_failures)
    with core.database.write() as tx:
        # The address first, and a refusal undoes the count: who is locked out locks out nobody else, and fills
        # no table.
        for key, limit in zip(attempt.hashes(), limits, strict=False):
            failures, since = _one_more(core, tx, key)
            if failures > limit:
                wait_s = max(1, int(since + settings.window_s - core.now()))
                raise TooManyAttemptsError(
                    "Too many logins have failed.",
                    remedy=f"Try again in {wait_s} seconds, or ask an administrator.",
                    retry_after_s=wait_s,
                )


def forgive(tx: Connection, name: str) -> None:
    """Ends a lock-out of this user."""
    _, key = Attempt("", name).hashes()
    tx.execute(delete(schema.login_failures).where(schema.login_failures.c.key == key))


def _one_more(core: Core, tx: Connection, key: str) -> tuple[int, float]:
    """One more failure, of those since when."""
    table, now = schema.login_failures, core.now()
    insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
    expired = table.c.since <= now - core.settings.login.window_s
    counting = (
        insert(table)
        .values(key=key, count=1, since=now)
        .on_conflict_do_update(
            index_elements=[table.c.key],
            set_={
                "count": case((expired, 1), else_=table.c.count + 1),
                "since": case((expired, now), else_=table.c.since),
            },
        )
        .returning(table.c.count, table.c.since)
    )
    failures, since = tx.execute(counting).one()
    return failures, since
