"""A worker is killed at every moment of every step that makes, prepares or deletes an image; the next one and
the sweep end up where an undisturbed one would.
"""

import functools
import http.server
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from bmi.domain.nouns import Actor, Json, ObjectState, Role
from bmi.domain.operations import OperationState
from bmi.domain.plans import PLANS
from bmi.drivers.storage import Ref
from bmi.store import operations as journal
from bmi.store import records
from bmi.store.database import Database, connect
from bmi.store.ids import new_id
from bmi.workflow.engine import Engine, Hook
from bmi.workflow.steps import OUTCOMES, STEPS
from bmi.workflow.sweep import Sweep
from tests import rows
from tests.workflow.world import World

pytestmark = pytest.mark.slow

_PATIENCE_S = 60
_LEASE_S = 0.3
_LATER_S = 2 * 3600
_MOMENTS = ("before", "done", "after")
_NEW = "image-new"
_ADMIN = Actor("admin", Role.ADMIN, None)


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small disk image as people upload it."""
    path = tmp_path_factory.mktemp("disk") / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    return path


# ---- what is asked for ------------------------------------------------------------------------------


def creating(world: World, origin: Json) -> None:
    with world.database.write() as tx:
        image = rows.image(id=_NEW, name="new", state=ObjectState.CREATING, size_bytes=None, boot=None)
        records.images.insert(tx, replace(image, origin=origin))


def from_upload(world: World, disk: Path) -> Json:
    creating(world, {"kind": "file", "name": "disk"})
    world.tools.uploads_dir.mkdir(parents=True)
    shutil.copy(disk, world.tools.upload_path(_NEW))
    return {}


def from_url(world: World, disk: Path) -> Json:
    creating(world, {"kind": "url", "name": "http://…"})
    url = f"http://127.0.0.1:{os.environ['BMI_TEST_PORT']}/{disk.name}"
    return {"sealed_url": world.tools.vault.seal(url), "sha256": None}


def from_image(world: World, _disk: Path) -> Json:
    creating(world, {"kind": "image", "name": "debian-12@1", "id": "image-1", "depends": True})
    boot_dir = world.tools.boot_dir("image-1")
    boot_dir.mkdir(parents=True)
    (boot_dir / "kernel").write_bytes(b"kernel")
    with world.database.write() as tx:
        records.images.update(tx, id="image-1", values={"boot": {"method": "kernel", "os_name": "Debian"}})
    return {}


def from_volume(world: World, _disk: Path) -> Json:
    creating(world, {"kind": "volume", "name": "n1", "id": "snapshot-1", "depends": True})
    with world.database.write() as tx:
        world.give(tx, state=ObjectState.READY)
        records.snapshots.insert(tx, rows.snapshot(state=ObjectState.CREATING, volume_id="volume-1"))
    world.storage.clone(Ref("image", "image-1"), "volume-1")
    return {"snapshot_id": "snapshot-1"}


def from_rbd(world: World, _disk: Path) -> Json:
    creating(world, {"kind": "rbd", "name": "pool/theirs", "depends": True})
    world.storage._other("pool/theirs").write_bytes(bytes(4096))
    return {"location": "pool/theirs"}


def two_versions(world: World, _disk: Path) -> Json:
    with world.database.write() as tx:
        for version, image_id in enumerate((_NEW, "image-old"), start=2):
            image = rows.image(id=image_id, version=version, state=ObjectState.DELETING)
            records.images.insert(tx, image)
    for image_id in (_NEW, "image-old"):
        world.storage.staging_path(image_id).write_bytes(bytes(4096))
        world.storage.commit_image(image_id)
        world.tools.boot_dir(image_id).mkdir(parents=True)
        world.tools.downloads_dir.mkdir(exist_ok=True)
        (world.tools.downloads_dir / f"{image_id}.{'0' * 64}.raw").write_bytes(b"x")
    return {"image_ids": [_NEW, "image-old"]}


def download(world: World, _disk: Path) -> Json:
    return {"image_id": "image-1", "format": "qcow2"}


@dataclass(frozen=True)
class Story:
    """An operation, and the driver's call that refuses, so that what was done before is undone."""

    kind: str
    prepare: Callable[[World, Path], Json]
    fault: str = ""

    def moments(self) -> list[tuple[str, str]]:
        forward = [(step.name, moment) for step in PLANS[self.kind].steps for moment in _MOMENTS]
        return [(step, f"undo-{moment}") for step, moment in forward] if self.fault else forward


STORIES = {
    "import": Story("import-image", from_upload),
    "import-failure": Story("import-image", from_upload, fault="commit_image"),
    "fetch": Story("fetch-image", from_url),
    "copy": Story("promote-image", from_image),
    "promote-volume": Story("promote-volume", from_volume),
    "adopt": Story("adopt-image", from_rbd),
    "delete": Story("delete-image", two_versions),
    "download": Story("prepare-download", download),
}
KILLS = [(name, *moment) for name, story in STORIES.items() for moment in story.moments()]


# ---- letting it happen ------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def server(disk: Path) -> Iterator[None]:
    """Serves the disk image over HTTP."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_args: object) -> None:
            """Says nothing."""

    handler = functools.partial(Quiet, directory=str(disk.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        os.environ["BMI_TEST_PORT"] = str(served.server_port)
        yield
        served.shutdown()


def world_of(database: Database, root: Path) -> World:
    world = World(database, root)
    local = (ip_network("127.0.0.0/8"),)
    world.tools = replace(world.tools, url_allow_http=True, url_networks=local, reserve_gib=0)
    return world


def begin(name: str, database: Database, root: Path, disk: Path) -> World:
    story, world = STORIES[name], world_of(database, root)
    world.found()
    args = story.prepare(world, disk)
    subject = ("download", new_id()) if story.kind == "prepare-download" else ("image", _NEW)
    with database.write() as tx:
        journal.enqueue(
            tx,
            PLANS[story.kind],
            now=database.now(),
            actor=_ADMIN,
            subject=(*subject, "new"),
            project_id="project-1",
            args=args,
        )
    if story.fault:
        world.storage.world.set_fault(story.fault, error="Not now.", retryable=False)
    return world


def work(world: World, owner: str, hook: Hook = lambda _step, _moment: None) -> None:
    engine = Engine(
        world.database,
        STEPS,
        OUTCOMES,
        world.tools,
        owner=owner,
        threads=4,
        lease_s=_LEASE_S,
        hook=hook,
    )
    try:
        engine.run_until_idle(_PATIENCE_S)
    finally:
        engine._pool.shutdown(wait=True)


def work_until_killed(url: str, root: Path, at: tuple[str, str]) -> None:
    def hook(step: str, moment: str) -> None:
        if (step, moment) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            work(world_of(Database(connect(url)), root), "doomed", hook)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the worker never came to {at}"


def ending(world: World) -> dict[str, Any]:
    """Everything that is known and everything that is, two hours and a sweep later."""
    later = Database(world.database.engine, lambda: time.time() + _LATER_S)
    Sweep(replace(world.tools, database=later)).look()
    data = world.tools.data_dir
    files = sorted(str(path.relative_to(data)) for path in data.rglob("*") if path.is_file())
    state = world.final_state()
    for table in ("images", "snapshots", "volumes"):
        for row in state["known"][table]:
            row.pop("unique_bytes")
            row.pop("measured_at")
    for row in state["known"]["operations"]:
        # Made anew for every telling: a sealed text, and the id of what has no row.
        row["args"].pop("sealed_url", None)
        row.pop("subject_id")
    return state | {"data": files}


Ending = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path, disk: Path, server: None
) -> Ending:
    @functools.cache
    def told(name: str) -> dict[str, Any]:
        root = tmp_path_factory.mktemp(name)
        shutil.copy(migrated_sqlite, root / "bmi.sqlite")
        database = Database(connect(f"sqlite:///{root / 'bmi.sqlite'}"))
        world = begin(name, database, root / "world", disk)
        work(world, "undisturbed")
        found = ending(world)
        database.engine.dispose()
        return found

    return told


@pytest.mark.parametrize(("name", "step", "moment"), KILLS, ids=["-".join(kill) for kill in KILLS])
def test_a_killed_worker_leaves_no_trace(
    database: Database,
    database_url: str,
    tmp_path: Path,
    disk: Path,
    undisturbed: Ending,
    name: str,
    step: str,
    moment: str,
) -> None:
    world = begin(name, database, tmp_path / "world", disk)
    database.engine.dispose()  # the child must not share a connection
    work_until_killed(database_url, world.root, (step, moment))
    work(world, "survivor")
    assert ending(world) == undisturbed(name)


@pytest.mark.parametrize("name", STORIES)
def test_an_undisturbed_worker_comes_to_the_right_end(undisturbed: Ending, name: str) -> None:
    """So that the other tests do not compare one wrong end with another."""
    story, found = STORIES[name], undisturbed(name)
    states = {row["kind"]: row["state"] for row in found["known"]["operations"]}
    assert states[story.kind] == (OperationState.FAILED if story.fault else OperationState.SUCCEEDED)
    assert ("flatten-image" in states) == (name == "promote-volume")
    images = {row["name"]: row["state"] for row in found["known"]["images"]}
    is_made = not story.fault and name not in {"delete", "download"}
    assert images.get("new") == (ObjectState.READY if is_made else None)
    assert found["known"]["snapshots"] == []
    kept = {"bmi-image-image-1", *(["bmi-volume-volume-1"] if name == "promote-volume" else [])}
    assert set(found["found"]["storage"]) == kept | ({f"bmi-image-{_NEW}"} if is_made else set())
    left = {
        "copy": ["boot/image-1/kernel", f"boot/{_NEW}/kernel"],
        "download": [name for name in found["data"] if name.startswith("downloads/image-1.")],
    }
    assert found["data"] == sorted(left.get(name, []))
    assert len(left["download"]) == (name == "download")
