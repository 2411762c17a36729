"""Connections, transactions and migrations on both databases."""

import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import StatementError

from bmi.store import records, schema
from bmi.store.database import Database, connect, migrate
from tests import postgresql, rows


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A database without any table."""
    if request.param == "sqlite":
        engine = connect(f"sqlite:///{tmp_path / 'data' / 'bmi.sqlite'}")
        yield engine
        engine.dispose()
        return
    cluster: postgresql.Cluster = request.getfixturevalue("postgresql_cluster")
    with cluster.database(template="template0") as url:
        engine = connect(url)
        yield engine
        engine.dispose()


def test_the_migrations_lead_to_exactly_the_schema(empty: Engine) -> None:
    migrate(empty)

    with empty.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []


def test_the_migrations_make_the_indexes_and_checks_that_metadata_alone_would_make(empty: Engine) -> None:
    """Alembic compares neither the conditions of indexes nor checks."""
    migrate(empty)
    migrated = _rules(empty)
    with empty.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
        schema.metadata.drop_all(connection)
        schema.metadata.create_all(connection)

    assert migrated == _rules(empty)
    assert any("ended_at" in rule for rule in migrated)


def _rules(engine: Engine) -> set[str]:
    if engine.dialect.name == "postgresql":
        query = """SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'
            UNION SELECT conrelid::regclass || pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c'"""
    else:
        query = "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    with engine.connect() as connection:
        checks = {
            f"{table}: {check['name']} {check['sqltext']}"
            for table in schema.metadata.tables
            for check in inspect(connection).get_check_constraints(table)
        }
        return {*connection.scalars(text(query)), *checks}


def test_migrating_again_changes_nothing(empty: Engine) -> None:
    migrate(empty)
    migrate(empty)

    assert {*schema.metadata.tables, "alembic_version"} == set(inspect(empty).get_table_names())


def test_a_failed_write_leaves_nothing(database: Database) -> None:
    def write_half() -> None:
        with database.write() as tx:
            records.projects.insert(tx, rows.project())
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        write_half()
    with database.read() as tx:
        assert tx.execute(schema.projects.select()).all() == []


def test_a_read_sees_one_moment_on_sqlite(database: Database) -> None:
    if database.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL reads what is committed, statement by statement.")
    with database.read() as before:
        assert before.execute(schema.projects.select()).all() == []
        with database.write() as tx:
            tx.execute(schema.projects.insert().values(id="p", name="p", quota={}, created_at=1.0))
        assert before.execute(schema.projects.select()).all() == []


def test_many_threads_write_without_losing_a_turn(database: Database) -> None:
    with database.write() as tx:
        tx.execute(schema.projects.insert().values(id="p", name="p", quota={}, created_at=0.0))

    def add() -> None:
        for _ in range(10):
            with database.write() as tx:
                table = schema.projects
                old = tx.scalar(table.select().with_only_columns(table.c.created_at).with_for_update())
                tx.execute(table.update().values(created_at=(old or 0.0) + 1))

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with database.read() as tx:
        assert tx.scalar(schema.projects.select().with_only_columns(schema.projects.c.created_at)) == 80.0


def test_an_error_of_the_database_does_not_repeat_values(database: Database) -> None:
    with database.write() as tx:
        tx.execute(text("CREATE TABLE t (secret TEXT, CHECK (secret <> 'pa55word'))"))
    with pytest.raises(StatementError) as caught, database.write() as tx:
        tx.execute(
            text("INSERT INTO t VALUES (:secret), (:other)"), {"secret": "s3cret", "other": "pa55word"}
        )
    assert "s3cret" not in str(caught.value)


def test_none_is_null_in_json_columns_too(database: Database) -> None:
    with database.write() as tx:
        records.nodes.insert(tx, rows.node(problem=None))
        assert tx.scalar(text("SELECT count(*) FROM nodes WHERE problem IS NULL")) == 1


def test_a_sqlite_file_is_its_owners_alone_and_survives_a_power_cut(tmp_path: Path) -> None:
    path = tmp_path / "new" / "bmi.sqlite"
    engine = connect(f"sqlite:///{path}")
    with engine.connect() as connection:
        settings = {
            pragma: connection.exec_driver_sql(f"PRAGMA {pragma}").scalar()
            for pragma in ("journal_mode", "synchronous", "foreign_keys")
        }
    engine.dispose()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
