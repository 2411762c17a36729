"""A PostgreSQL server for the tests: unprivileged, on a Unix socket only, gone when they end."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from bmi.store.database import connect, migrate

_START_TIMEOUT_S = 60
_TEMPLATE = "bmi_template"
# What is thrown away at the end needs no durability.
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_wal_size=4GB")


class Cluster:
    """A running server; each `database` is a fresh copy of one that is migrated already."""

    def __init__(self, socket_dir: Path) -> None:
        self._socket_dir = socket_dir
        self._made = 0

    def url(self, database: str) -> str:
        return f"postgresql://bmi@/{database}?host={self._socket_dir}"

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def make_template(self) -> None:
        self.execute(f"CREATE DATABASE {_TEMPLATE}")
        engine = connect(self.url(_TEMPLATE))
        migrate(engine)
        engine.dispose()

    @contextmanager
    def database(self, template: str = _TEMPLATE) -> Iterator[str]:
        """The URL of a database of its own, removed at the end whoever is still connected."""
        self._made += 1
        name = f"test_{self._made}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def running() -> Iterator[Cluster]:
    """Starts a cluster and ends it; skips where PostgreSQL is not installed, but fails in CI."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="bmi-pg-"))
    try:
        as_user = _unprivileged(folder)
        data = folder / "data"
        initialise: list[str | Path] = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            "bmi",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-sync",
        ]
        subprocess.run(
            [*as_user, *initialise, "--locale=C"],
            check=True,
            capture_output=True,
            timeout=_START_TIMEOUT_S,
            cwd=folder,
        )
        settings = ["listen_addresses=", f"unix_socket_directories={folder}", *_FAST]
        with (
            (folder / "log").open("wb") as log_file,
            subprocess.Popen(
                [*as_user, programs / "postgres", "-D", data, *(f"--{setting}" for setting in settings)],
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                cwd=folder,
            ) as server,
        ):
            try:
                cluster = Cluster(folder)
                _await(cluster, server, folder / "log")
                cluster.make_template()
                yield cluster
            finally:
                server.send_signal(signal.SIGQUIT)  # at once: there is nothing to keep
                server.wait(_START_TIMEOUT_S)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    on_path = shutil.which("postgres")
    if found or on_path:
        return (found[-1] if found else Path(str(on_path))).parent
    if os.environ.get("CI") == "true":
        pytest.fail("PostgreSQL is not installed, and CI must not do without it.")
    pytest.skip("PostgreSQL is not installed.")


def _unprivileged(folder: Path) -> list[str]:
    """The beginning of commands that must not run as root; the server ends when the tests are killed."""
    dies_with_us = ["setpriv", "--pdeathsig", "QUIT"]
    if os.getuid() != 0:
        return [*dies_with_us, "--"]
    user = pwd.getpwnam("nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    ids = ["--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    return [*dies_with_us, *ids, "--"]


def _await(cluster: Cluster, server: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            cluster.execute("SELECT 1")
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start:\n{log_path.read_text(errors='replace')}")
            time.sleep(0.05)
