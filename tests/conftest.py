"""What all tests may ask for: a migrated database of either kind."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling, Scheduling

from bmi.service import users
from bmi.store.database import Database, connect, migrate
from tests import postgresql
from tests.ceph import ceph_cluster

__all__ = ["ceph_cluster"]

_HERE = Path(__file__).parent
# Thorough rather than quick, as a whole.
_SLOW_FOLDERS = (_HERE / "bad_input", _HERE / "hil")
# Long files of parts that know nothing of each other: each kind of switch, each database.
_DIVISIBLE = ("contract/test_switch.py", "workflow/test_kill.py")
# What there is one of, and whose tests are therefore together: the cluster takes long to start, prepared
# interfaces are the whole machine's, and so is a site with virtual machines.
_TOGETHER = {
    "ceph": re.compile(r"test_ceph|test_tgt_rbd|[\[-]ceph[\]-]"),
    "existing": re.compile(r"test_existing|[\[-]existing[\]-]"),
    "site": re.compile(r"system/test_(line|volumes)"),
}


class _Groups(LoadFileScheduling):  # type: ignore[misc]  # it has no types
    """Gives a worker what belongs together: mostly a file."""

    def _split_scope(self, nodeid: str) -> str:
        path, _, test = nodeid.partition("::")
        together = next((name for name, of_it in _TOGETHER.items() if of_it.search(nodeid)), None)
        if together is None and path.endswith(_DIVISIBLE):
            return path + test.partition("[")[2].partition("-")[0]
        return together or path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """`--dist loadfile` as this project needs it."""
    return _Groups(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Beyond the store's own suite, and the kill suite that is slow anyway, SQLite is enough for a quick answer:
    the second database follows where everything runs.
    """
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        elsewhere = not item.path.is_relative_to(_HERE / "store")
        if (elsewhere and "postgresql" in parameters.values()) or any(
            item.path.is_relative_to(folder) for folder in _SLOW_FOLDERS
        ):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def _cheap_passwords() -> Iterator[None]:
    """Hashing a password is meant to take long; here it would take half of the time of all quick tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users, "HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield


@pytest.fixture(scope="session")
def postgresql_cluster() -> Iterator[postgresql.Cluster]:
    """A PostgreSQL server of this test process."""
    with postgresql.running() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that each test copies, since migrating takes longer."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite"
    engine = connect(f"sqlite:///{path}")
    migrate(engine)
    engine.dispose()  # the last connection to leave takes the write-ahead log with it
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A fresh, migrated database of each kind."""
    if request.param == "sqlite":
        path = tmp_path / "bmi.sqlite"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    cluster: postgresql.Cluster = request.getfixturevalue("postgresql_cluster")
    with cluster.database() as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The store's entrance to a fresh database of each kind."""
    engine = connect(database_url)
    yield Database(engine)
    engine.dispose()
