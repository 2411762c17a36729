"""The Ceph driver beside others in a pool, with few rights, and while the cluster fails."""

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import rados
import rbd

from bmi.drivers.storage import Ref
from bmi.drivers.storage.ceph import CephStorage, create
from bmi.errors import BmiError, ConfigError, DriverError, InsufficientSpaceError, TimedOutError
from bmi.lab.ceph import CephCluster, Daemon
from tests import ceph
from tests.contract.stores import furnish, read, write

pytestmark = pytest.mark.real

MIB = 1 << 20
UNIT = 4 * MIB
IMAGE, VOLUME, SNAPSHOT = Ref("image", "i-1"), Ref("volume", "v-1"), Ref("snapshot", "s-1")
# One request's limit, and what a call may take that is a chain of them.
TIMEOUT_S, CALL_S = 3, 20


def store_in(cluster: CephCluster, directory: Path, **options: object) -> CephStorage:
    chosen, _ = ceph.store(cluster, directory)
    return create(**(chosen | {"timeout_s": TIMEOUT_S} | options))


def open_files() -> int:
    gc.collect()  # earlier tests' stores are not counted
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def storage(ceph_cluster: CephCluster, tmp_path: Path) -> CephStorage:
    """A furnished store."""
    storage = store_in(ceph_cluster, tmp_path)
    furnish(storage, UNIT)
    return storage


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CephCluster]:
    """A cluster to do harm to."""
    with ceph.running(tmp_path_factory.mktemp("fragile"), store="bluestore", mgr=True) as cluster:
        yield cluster


@pytest.fixture
def endangered(fragile: CephCluster, tmp_path: Path) -> CephStorage:
    """A furnished store in it."""
    storage = store_in(fragile, tmp_path)
    furnish(storage, UNIT)
    return storage


def in_pool(cluster: CephCluster, pool: str = "") -> tuple[set[str], int]:
    """All names in a pool, and how many images lie in its trash."""
    with cluster.connected() as client, client.open_ioctx(pool or cluster.pool) as ioctx:
        return set(rbd.RBD().list(ioctx)), len(list(rbd.RBD().trash_list(ioctx)))


# ---- beside others -----------------------------------------------------------------------------------------


def test_instances_in_one_pool_do_not_see_each_other(
    storage: CephStorage, ceph_cluster: CephCluster, tmp_path: Path
) -> None:
    other = store_in(ceph_cluster, tmp_path / "other")
    assert list(other.list()) == []
    furnish(other, UNIT)
    for stored in other.list():
        other.delete(stored.ref)
    assert {stored.ref for stored in storage.list()} == {IMAGE, VOLUME, SNAPSHOT}
    assert b"second" in read(storage, SNAPSHOT)


def test_a_prefix_cannot_reach_into_another() -> None:
    with pytest.raises(ValueError, match="hyphen"):
        create(prefix="bmi-image", staging_dir="/nowhere")


def test_nothing_is_left_when_everything_is_deleted(ceph_cluster: CephCluster, tmp_path: Path) -> None:
    before = in_pool(ceph_cluster)
    storage = store_in(ceph_cluster, tmp_path)
    furnish(storage, UNIT)
    storage.clone(SNAPSHOT, "v-2")
    storage.clone(VOLUME, "v-3", size_bytes=5 * UNIT)
    storage.promote(SNAPSHOT, "i-3")
    storage.roll_back(VOLUME.id, SNAPSHOT.id)
    storage.snapshot("v-3", "s-3")
    storage.flatten(Ref("image", "i-3"))
    # Parents first: what is still needed waits in the trash.
    for kind, object_id in (
        ("image", "i-1"), ("volume", "v-1"), ("snapshot", "s-1"), ("volume", "v-3"), ("volume", "v-2"),
        ("snapshot", "s-3"), ("image", "i-3"),
    ):  # fmt: skip
        storage.delete(Ref(kind, object_id))  # type: ignore[arg-type]  # mypy widens the literals
    storage.discard_staging("i-2")
    assert list(storage.list()) == []  # clears what no deletion could see was the last
    assert in_pool(ceph_cluster) == before


def test_adopting_leaves_a_stranger_as_it_was(
    ceph_cluster: CephCluster, storage: CephStorage, tmp_path: Path
) -> None:
    name = f"stranger-{tmp_path.name}"
    with ceph_cluster.connected() as client, client.open_ioctx(ceph.OTHER_POOL) as ioctx:
        rbd.RBD().create(ioctx, name, 2 * UNIT)
        with rbd.Image(ioctx, name) as image:
            image.write(b"stranger", UNIT)
            image.create_snap("named")
            image.write(b"later", UNIT)
        location = f"{ceph.OTHER_POOL}/{name}"
        storage.adopt(location, "i-now")
        storage.adopt(f"{location}@named", "i-named")
        assert read(storage, Ref("image", "i-now"))[UNIT:].startswith(b"laterger")
        assert read(storage, Ref("image", "i-named"))[UNIT:].startswith(b"stranger")
        storage.clone(Ref("image", "i-now"), "v-2")
        with rbd.Image(ioctx, name) as image:
            assert {snap["name"] for snap in image.list_snaps()} > {"named"}
        for ref in (Ref("image", "i-now"), Ref("image", "i-named"), Ref("volume", "v-2")):
            storage.delete(ref)
        with rbd.Image(ioctx, name) as image:
            assert [snap["name"] for snap in image.list_snaps()] == ["named"]
            assert image.read(UNIT, 8) == b"laterger"


def test_its_own_images_are_neither_adopted_nor_overwritten(storage: CephStorage) -> None:
    own = storage.backing(VOLUME.id).location
    for refused in (lambda: storage.adopt(own, "i-3"), lambda: storage.publish(IMAGE, own)):
        with pytest.raises(DriverError) as caught:
            refused()
        assert not caught.value.retryable


def test_a_published_image_depends_on_nothing(
    ceph_cluster: CephCluster, storage: CephStorage, tmp_path: Path
) -> None:
    name = f"public-{tmp_path.name}"
    content = read(storage, VOLUME)
    storage.publish(VOLUME, f"{ceph.OTHER_POOL}/{name}")
    for ref in (VOLUME, SNAPSHOT, IMAGE):
        storage.delete(ref)
    with (
        ceph_cluster.connected() as client,
        client.open_ioctx(ceph.OTHER_POOL) as ioctx,
        rbd.Image(ioctx, name) as image,
    ):
        assert image.read(0, image.size()) == content
        assert list(image.list_snaps()) == []


# ---- with few rights ---------------------------------------------------------------------------------------


def test_the_user_can_do_nothing_elsewhere(ceph_cluster: CephCluster, tmp_path: Path) -> None:
    ceph_cluster.make_pool("secret")
    with pytest.raises(DriverError, match="does not permit") as caught:
        store_in(ceph_cluster, tmp_path, pool="secret").check()
    assert not caught.value.retryable
    assert "docs/ceph.md" in caught.value.remedy


def test_a_namespace_is_enough(ceph_cluster: CephCluster, tmp_path: Path) -> None:
    with ceph_cluster.connected() as client, client.open_ioctx(ceph_cluster.pool) as ioctx:
        if "nook" not in rbd.RBD().namespace_list(ioctx):
            rbd.RBD().namespace_create(ioctx, "nook")
    caps = {"mon": "profile rbd", "osd": f"profile rbd pool={ceph_cluster.pool} namespace=nook"}
    keyring = ceph_cluster.make_user("nook", caps)
    options: dict[str, object] = {"user": "nook", "keyring": str(keyring)}
    storage = store_in(ceph_cluster, tmp_path, namespace="nook", **options)
    with pytest.raises(DriverError, match="namespaces"):
        storage.backing("v-1")
    storage.staging_path("i-1").write_bytes(b"nook".ljust(UNIT, b"\0"))
    storage.commit_image("i-1")
    storage.clone(IMAGE, "v-1")
    assert storage.usage(VOLUME).unique_bytes == 0
    assert read(storage, VOLUME).startswith(b"nook")
    assert {stored.ref for stored in storage.list()} == {IMAGE, VOLUME}
    with pytest.raises(DriverError, match="does not permit"):
        store_in(ceph_cluster, tmp_path, **options).check()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"conf": "/nowhere/ceph.conf"}, DriverError, "cannot be read"),
        ({"keyring": "/nowhere/keyring"}, DriverError, "failed"),
        ({"user": "nobody"}, DriverError, "failed"),
        ({"pool": "nowhere"}, DriverError, "failed"),
    ],
    ids=["conf", "keyring", "user", "pool"],
)
def test_what_is_configured_wrongly_is_said_at_once(
    ceph_cluster: CephCluster, tmp_path: Path, change: dict[str, object], error: type[BmiError], text: str
) -> None:
    before = open_files()
    storage = store_in(ceph_cluster, tmp_path, **change)
    for _ in range(2):
        with pytest.raises(error, match=text) as caught:
            storage.check()
        assert not caught.value.retryable
        assert caught.value.remedy
    assert open_files() == before  # or trying again and again would use up what a process may have


def test_a_store_that_nobody_uses_any_more_ends_its_connection(
    ceph_cluster: CephCluster, tmp_path: Path
) -> None:
    before = open_files()
    storage = store_in(ceph_cluster, tmp_path)
    storage.check()
    assert open_files() > before
    del storage
    assert open_files() == before


def test_a_wrong_key_is_refused_for_good(ceph_cluster: CephCluster, tmp_path: Path) -> None:
    good = ceph_cluster.make_user("bmi", {}).read_text(encoding="ascii")
    stolen = ceph_cluster.make_user("thief", {"mon": "profile rbd"}).read_text(encoding="ascii")
    keyring = tmp_path / "keyring"
    keyring.write_text(good.splitlines()[0] + "\n" + stolen.splitlines()[1] + "\n", encoding="ascii")
    with pytest.raises(DriverError, match="does not permit") as caught:
        store_in(ceph_cluster, tmp_path, keyring=str(keyring)).check()
    assert not caught.value.retryable


def test_no_secret_is_shown(storage: CephStorage) -> None:
    secret = Path(storage._pool._keyring or "").read_text(encoding="ascii").split()[-1]
    with storage.opened(IMAGE):
        seen = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
        assert any(b"qemu-storage-daemon" in line for line in seen)
    assert not any(secret.encode() in line for line in seen)
    backing = storage.backing(VOLUME.id)
    assert secret not in f"{backing}{Path(dict(backing.options)['conf']).read_text(encoding='utf-8')}"


# ---- whoever has a volume open -----------------------------------------------------------------------------

WRITER = """
import sys, time, rados, rbd
conf, user, pool, image = sys.argv[1:]
with rados.Rados(conffile=conf, name=f"client.{user}") as cluster, cluster.open_ioctx(pool) as ioctx:
    with rbd.Image(ioctx, image) as disk:
        disk.write(b"first", 0)
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            disk.write(b"LATER", 0)
            disk.flush()
            print("written", flush=True)
        except Exception as error:
            print(type(error).__name__, flush=True)
"""


def test_who_is_fenced_never_writes_again(storage: CephStorage) -> None:
    backing = storage.backing(VOLUME.id)
    options = dict(backing.options)
    arguments = [options["conf"], options["id"], *backing.location.split("/")]
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as writer:  # fmt: skip
        try:
            assert writer.stdin
            assert writer.stdout
            assert writer.stdout.readline() == "ready\n"
            storage.fence(VOLUME.id)
            write(storage, VOLUME.id, 0, b"mine.")
            writer.stdin.write("\n")
            writer.stdin.flush()
            assert writer.stdout.readline() != "written\n"
        finally:
            writer.kill()
    assert read(storage, VOLUME).startswith(b"mine.")


def test_a_view_is_gone_afterwards_even_when_the_reader_fails(storage: CephStorage) -> None:
    with suppress(ZeroDivisionError), storage.opened(IMAGE) as path:
        assert path.stat().st_size == 3 * UNIT
        file = os.open(path, os.O_RDWR)
        with pytest.raises(OSError, match=r"denied|permitted|Read-only|Bad file"):
            os.write(file, b"x")
        os.close(file)
        _ = 1 / 0
    assert not path.exists()
    assert str(path) not in Path("/proc/self/mounts").read_text(encoding="utf-8")


# ---- the cluster fails -------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[CephStorage], object]] = {
    "commit": lambda s: s.commit_image("i-2"),
    "clone": lambda s: s.clone(IMAGE, "v-2"),
    "snapshot": lambda s: s.snapshot(VOLUME.id, "s-2"),
    "roll back": lambda s: s.roll_back(VOLUME.id, SNAPSHOT.id),
    "resize": lambda s: s.resize(VOLUME.id, 8 * UNIT),
    "delete": lambda s: s.delete(SNAPSHOT),
    "list": lambda s: s.list(),
    "usage": lambda s: s.usage(VOLUME),
    "open": lambda s: read(s, IMAGE),
    "fence": lambda s: s.fence(VOLUME.id),
    "check": lambda s: s.check(),
}


def fails_in_time(call: Callable[[], object]) -> BmiError:
    """The error of a call that must neither hang nor succeed."""
    found: list[BmiError] = []

    def run() -> None:
        try:
            call()
        except BmiError as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(CALL_S)
    assert not thread.is_alive(), "hung"
    assert found, "succeeded"
    return found[0]


def goes_on(
    call: Callable[[], object], within_s: float = 60, *, revived: tuple[CephCluster, Daemon] | None = None
) -> None:
    """Tries as a step does, until the call succeeds. When it does not, what a daemon said that was `revived` is told."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            call()
            return
        except DriverError as error:
            if not error.retryable or time.monotonic() > deadline:
                if revived:
                    error.add_note(_state(*revived))
                raise
            time.sleep(0.2)


def _state(cluster: CephCluster, daemon: Daemon) -> str:
    """What there is to know of a daemon that did not come back."""
    lines = (cluster.directory / "log" / f"{daemon}.log").read_text(errors="replace").splitlines()
    told = "\n".join(line[:200] for line in lines[-40:] if "pg_epoch" not in line)
    return f"{cluster.running()} {cluster.command('osd dump')['osds']}\n{told}"


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_an_osd_that_does_not_answer(endangered: CephStorage, fragile: CephCluster, call: str) -> None:
    with fragile.frozen("osd"):
        error = fails_in_time(lambda: CALLS[call](endangered))
    assert isinstance(error, DriverError)
    assert error.retryable
    assert error.remedy
    goes_on(lambda: CALLS[call](endangered))


@pytest.mark.slow
def test_an_osd_that_is_killed(endangered: CephStorage, fragile: CephCluster) -> None:
    fragile.stop("osd")
    try:
        assert isinstance(fails_in_time(lambda: endangered.clone(IMAGE, "v-2")), TimedOutError)
    finally:
        fragile.start("osd")
    goes_on(lambda: endangered.clone(IMAGE, "v-2"), revived=(fragile, "osd"))
    assert read(endangered, Ref("volume", "v-2")) == read(endangered, IMAGE)


def _port(address: str) -> str:
    """The port in 127.0.0.1:6804/1234, which ends with a number of the process."""
    return address.partition("/")[0].rpartition(":")[2]


@pytest.mark.slow
def test_an_osd_that_comes_back_elsewhere(endangered: CephStorage, fragile: CephCluster) -> None:
    """A client that loses an OSD asks for one change of the cluster's map; here that one says nothing about it."""
    settings = fragile.conf.read_text(encoding="utf-8")
    was = fragile.command("osd dump")["osds"][0]["public_addr"]
    fragile.stop("osd")
    try:
        assert isinstance(fails_in_time(lambda: endangered.clone(IMAGE, "v-2")), TimedOutError)
        fragile.command("osd set", key="noscrub")
        fragile.command("osd unset", key="noscrub")
        fragile.conf.write_text(f"{settings}[osd]\nms bind port min = 7100\n", encoding="utf-8")
        fragile.start("osd")
        goes_on(lambda: endangered.clone(IMAGE, "v-2"), revived=(fragile, "osd"))
        assert _port(fragile.command("osd dump")["osds"][0]["public_addr"]) != _port(was)
    finally:
        fragile.conf.write_text(settings, encoding="utf-8")
        fragile.start("osd")


@pytest.mark.slow
def test_a_monitor_that_is_killed(endangered: CephStorage, fragile: CephCluster, tmp_path: Path) -> None:
    """What needs no decision of it goes on; a snapshot does, and so does a new connection."""
    fragile.stop("mon")
    try:
        endangered.clone(IMAGE, "v-2")
        newcomer = store_in_existing(endangered, tmp_path)
        assert isinstance(fails_in_time(newcomer.check), TimedOutError)
        assert fails_in_time(lambda: endangered.snapshot(VOLUME.id, "s-2")).retryable
    finally:
        fragile.start("mon")
    goes_on(lambda: endangered.snapshot(VOLUME.id, "s-2"), revived=(fragile, "mon"))
    goes_on(newcomer.check)


def store_in_existing(storage: CephStorage, directory: Path) -> CephStorage:
    """The same store, as a new process would open it."""
    pool = storage._pool
    return create(
        conf=str(pool._conf), user=pool.user, keyring=str(pool._keyring), pool=pool.name,
        prefix=storage._prefix, staging_dir=str(directory), timeout_s=TIMEOUT_S,
    )  # fmt: skip


@pytest.mark.slow
def test_a_full_pool(endangered: CephStorage, fragile: CephCluster) -> None:
    def full(wanted: bool) -> None:
        deadline = time.monotonic() + 60
        while True:
            (pool,) = [p for p in fragile.command("osd dump")["pools"] if p["pool_name"] == fragile.pool]
            if ("full" in pool["flags_names"].split(",")) == wanted:
                return
            assert time.monotonic() < deadline
            time.sleep(0.2)

    fragile.command("osd pool set-quota", pool=fragile.pool, field="max_bytes", val="1")
    try:
        full(wanted=True)
        for call in ("clone", "commit", "snapshot"):
            error = fails_in_time(lambda call=call: CALLS[call](endangered))  # type: ignore[misc]  # call is a str
            assert isinstance(error, InsufficientSpaceError), error
            assert error.remedy
    finally:
        fragile.command("osd pool set-quota", pool=fragile.pool, field="max_bytes", val="0")
    full(wanted=False)
    goes_on(lambda: endangered.clone(IMAGE, "v-2"))


def test_an_image_deleted_behind_our_back(storage: CephStorage, ceph_cluster: CephCluster) -> None:
    pool, _, name = storage.backing(VOLUME.id).location.partition("/")
    with ceph_cluster.connected() as client, client.open_ioctx(pool) as ioctx:
        rbd.RBD().trash_move(ioctx, name)
    for call in ("snapshot", "resize", "usage", "fence"):
        error = fails_in_time(lambda call=call: CALLS[call](storage))  # type: ignore[misc]  # call is a str
        assert not error.retryable
        assert "bmi" in error.remedy
    assert VOLUME not in {stored.ref for stored in storage.list()}


def test_a_connection_that_was_shut_out_is_made_again(
    storage: CephStorage, ceph_cluster: CephCluster
) -> None:
    storage.check()
    address = storage._pool.address()
    ceph_cluster.command("osd blocklist", blocklistop="add", addr=address)
    goes_on(lambda: storage.snapshot(VOLUME.id, "s-2"))
    assert storage._pool.address() != address


def test_statistics_are_those_of_the_pool(endangered: CephStorage, fragile: CephCluster) -> None:
    deadline = time.monotonic() + 30
    while (space := endangered.space()).total_bytes > 1 << 50:  # the manager has not reported yet
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert 0 < space.free_bytes < space.total_bytes < 21 << 30


def test_no_bindings_no_store(tmp_path: Path) -> None:
    (tmp_path / "rados.py").write_text("raise ImportError('none')")
    program = "from bmi.drivers import load; load('storage', 'ceph')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ConfigError.__name__ in done.stderr
    assert "python3-rbd" in done.stderr


def test_the_bindings_are_those_of_debian() -> None:
    assert "/usr/lib/python3" in str(Path(rados.__file__).resolve())
