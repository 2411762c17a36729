"""How often logins may fail, counted in the database that all servers share: by address, by user and address, and,
with a much higher limit, by user alone, so that nobody can keep another person out from one place.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Network, ip_address

from sqlalchemy import Connection, case, delete, update
from sqlalchemy.dialects import postgresql, sqlite

from bmi.errors import BmiError, TooManyAttemptsError, UnauthenticatedError
from bmi.service.core import Core
from bmi.store import schema

_DAY_S = 86400
# What helps before the time has passed, by what is counted: an administrator forgives users, no addresses.
_SOONER = ("from another address", *("ask an administrator (bmi user unlock)",) * 2)


@dataclass(frozen=True)
class Attempt:
    """One try to log in, counted as failed until it is known to have succeeded."""

    address: str
    name: str | None = None

    def keys(self) -> list[str]:
        """What it is counted by: the address, the user at it, the user. Hashes: people type their passwords where
        a name is asked for. A user's keys begin alike, for `forgive`.
        """
        address = _hash(f"address {origin(self.address)}")
        if self.name is None:
            return [address]
        user = _hash_of_user(self.name)
        return [address, user + address, user]


def origin(address: str) -> str:
    """The address that somebody has, or the network in which they have all: one host gets a /64 (RFC 4291, 2.5.4)."""
    try:
        known = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(known, IPv4Address):
        return str(known)
    return str(known.ipv4_mapped or IPv6Network((int(known), 64), strict=False))


def _hash(text: str) -> str:
    """Half of a SHA-256, so that two fit in a key."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _hash_of_user(name: str) -> str:
    return _hash(f"user {name.lower()}")


@contextmanager
def counted(
    core: Core, attempt: Attempt, *, tries: int = 1, wrong: type[BmiError] = UnauthenticatedError
) -> Iterator[None]:
    """Counts the attempt in the block, and takes that back when it ends well, with what came before it of the
    same login if it is the last of several `tries`, and when it ends in another error than `wrong`: only what
    proves to be wrong is a failure. Raises TooManyAttemptsError.
    """
    count(core, attempt)
    try:
        yield
    except wrong:
        raise
    except Exception:
        _take_back(core, attempt.keys())
        raise
    _take_back(core, attempt.keys(), tries)
    table = schema.login_failures
    with core.database.write() as tx:
        # Whoever knows the password may have mistyped it; that says nothing of those who try elsewhere.
        tx.execute(delete(table).where(table.c.key.in_(attempt.keys()[1:2])))
    with core.database.write() as tx:
        tx.execute(delete(table).where(table.c.since < core.now() - core.settings.login.window_s - _DAY_S))


def _take_back(core: Core, keys: Sequence[str], tries: int = 1) -> None:
    table = schema.login_failures
    with core.database.write() as tx:
        tx.execute(update(table).where(table.c.key.in_(keys)).values(count=table.c.count - tries))


def count(core: Core, attempt: Attempt) -> None:
    """Counts an attempt as failed before it is made: so many at once are no way around the limits, which every
    server on the database shares. Raises TooManyAttemptsError.
    """
    settings = core.settings.login
    limits = (settings.address_failures, settings.user_failures, settings.user_failures_anywhere)
    with core.database.write() as tx:
        # The address first, and a refusal undoes the count: who is locked out locks out nobody else, and fills
        # no table.
        for key, limit, sooner in zip(attempt.keys(), limits, _SOONER, strict=False):
            failures, since = _one_more(core, tx, key)
            if failures > limit:
                wait_s = max(1, int(since + settings.window_s - core.now()))
                raise TooManyAttemptsError(
                    "Too many logins have failed.",
                    remedy=f"Try again in {wait_s} seconds, or {sooner}.",
                    retry_after_s=wait_s,
                )


def forgive(tx: Connection, name: str) -> None:
    """Ends a lock-out of this user, at every address."""
    table = schema.login_failures
    tx.execute(delete(table).where(table.c.key.startswith(_hash_of_user(name))))


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
