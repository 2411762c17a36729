"""A Ceph cluster for the tests: in memory, started when the first test asks for it, gone with the last."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import rados
import rbd

from bmi.drivers.storage import Backing
from bmi.lab.ceph import CephCluster, Store

OTHER_POOL = "others"
# Tests kill clients all the time, and some calls wait for the dead.
WATCH_TIMEOUT_S = 5
_numbers = count(1)


@contextmanager
def running(directory: Path, *, store: Store = "memstore", mgr: bool = False) -> Iterator[CephCluster]:
    """A cluster as long as the context lasts."""
    cluster = CephCluster.up(directory, store=store, mgr=mgr, watch_timeout_s=WATCH_TIMEOUT_S)
    try:
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="session")
def ceph_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CephCluster]:
    """The cluster of this test process (each worker of pytest-xdist is one); keep your hands off its daemons."""
    with running(tmp_path_factory.mktemp("ceph")) as cluster:
        yield cluster


def store(cluster: CephCluster, staging: Path) -> tuple[dict[str, Any], str]:
    """The options of a store of its own, as a user that may do no more than docs/ceph.md says; and how the
    location of an image begins that is not BMI's.
    """
    prefix = unused_prefix()
    if OTHER_POOL not in cluster.command("osd pool ls"):
        cluster.make_pool(OTHER_POOL)
    caps = {"mon": "profile rbd", "osd": f"profile rbd pool={cluster.pool}, profile rbd pool={OTHER_POOL}"}
    options = {
        "conf": str(cluster.conf),
        "user": "bmi",
        "keyring": str(cluster.make_user("bmi", caps)),
        "pool": cluster.pool,
        "prefix": prefix,
        "staging_dir": str(staging),
    }
    return options, f"{OTHER_POOL}/of-{prefix}-"


def write(backing: Backing, offset: int, data: bytes) -> None:
    """Writes to what backs a volume, as an exporter would."""
    options = dict(backing.options)
    pool, _, image = backing.location.partition("/")

    def connect_and_write() -> None:
        with (
            rados.Rados(conffile=options["conf"], name=f"client.{options['id']}") as cluster,
            cluster.open_ioctx(pool) as ioctx,
            rbd.Image(ioctx, image) as disk,
        ):
            disk.write(data, offset)

    with ThreadPoolExecutor(1) as fresh_thread:  # see Pool.ioctx: the tests fork
        fresh_thread.submit(connect_and_write).result()


def unused_prefix() -> str:
    """An instance prefix that no other test of this cluster has."""
    return f"t{os.getpid()}x{next(_numbers)}"
