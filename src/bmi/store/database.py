"""Connections and transactions, the same on SQLite and PostgreSQL."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import Enum
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url

Clock = Callable[[], float]


class Turn(Enum):
    """What takes turns, across all servers; the numbers are any constants."""

    MIGRATING = 7550
    # Which VLAN and which address range are free.
    CHOOSING_NETWORKS = 7551
    CABLING = 7552


# As many as the API's thread limiter admits (40) and a worker's default threads beside them.
_POOL_SIZE = 60


def connect(url: str) -> Engine:
    """An engine for `url` with BMI's settings; a SQLite file is made private to its owner.

    Its errors do not repeat the values of a statement, which may be user-data, keys and hashes.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            hide_parameters=True,
            pool_size=_POOL_SIZE,
            max_overflow=0,
            pool_pre_ping=True,
        )
    if parsed.database:
        path = Path(parsed.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
    engine = create_engine(parsed, hide_parameters=True, pool_size=_POOL_SIZE, max_overflow=0)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        # The driver's own transaction handling begins too late for BEGIN IMMEDIATE; we begin ourselves.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("bmi_begin", "BEGIN"))

    return engine


def migrate(engine: Engine) -> None:
    """Brings the schema up to date; safe to call at every start."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.connect().execution_options(bmi_begin="BEGIN IMMEDIATE") as connection, connection.begin():
        take_turns(connection, Turn.MIGRATING)  # servers that start together
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def take_turns(tx: Connection, what: Turn) -> None:
    """Waits until no other transaction has this turn, and keeps it until this one ends: for choices that hang on
    rows which do not exist yet. SQLite has one writer anyway.
    """
    if tx.dialect.name == "postgresql":
        tx.exec_driver_sql(f"SELECT pg_advisory_xact_lock({what.value})")


class Database:
    """Transactions on one engine, and the clock that rows are stamped with."""

    def __init__(self, engine: Engine, clock: Clock = time.time) -> None:
        self.engine = engine
        self.now = clock
        # SQLite admits one writer and lets the others sleep and try again; in one process we queue better.
        sqlite = engine.dialect.name == "sqlite"
        self._turn: AbstractContextManager[object] = threading.RLock() if sqlite else nullcontext()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: one consistent view."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that commits when the block ends without an exception.

        On SQLite it takes the write lock at once, so that it can never fail half-way for want of it.
        """
        with (
            self._turn,
            self.engine.connect().execution_options(bmi_begin="BEGIN IMMEDIATE") as connection,
            connection.begin(),
        ):
            yield connection
