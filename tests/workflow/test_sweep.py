"""What a crash has left outside is removed; what is used, or about to be, or somebody else's is not."""

import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bmi.domain.nouns import Actor, ObjectState, Role
from bmi.domain.operations import OperationState
from bmi.domain.plans import IMPORT_IMAGE, PROVISION, SNAPSHOT, Plan
from bmi.drivers.export import Portal
from bmi.drivers.export.fake import FakeExport
from bmi.drivers.faults import FakeWorld
from bmi.drivers.storage import Ref, StoredObject
from bmi.drivers.storage.fake import FakeStorage
from bmi.store import operations as journal
from bmi.store import records
from bmi.store.ids import new_id
from bmi.workflow.sweep import Sweep
from bmi.workflow.targets import portal_of, target_of
from tests import rows
from tests.workflow.world import World

ADMIN = Actor("admin", Role.ADMIN, None)
HOUR_S = 3600.0


def look(world: World, *, later_s: float = 0) -> None:
    """One round, as it would be that much later."""
    world.database.now = lambda: time.time() + later_s
    Sweep(world.tools).look()


def record(
    world: World,
    plan: Plan,
    subject_id: str,
    state: OperationState = OperationState.FAILED,
    **args: str,
) -> None:
    """An operation of this database; it has ended unless said otherwise."""
    with world.database.write() as tx:
        subject = (
            "image" if plan is IMPORT_IMAGE else "node",
            subject_id,
            "x",
        )
        made = journal.enqueue(
            tx, plan, now=world.database.now(), actor=ADMIN, subject=subject, project_id=None, args=args
        )
        journal.operations.update(tx, id=made.id, values={"state": state})


def store(world: World, ref: Ref) -> None:
    """Puts an object into the store, behind the back of the rows."""
    match ref.kind:
        case "image":
            world.storage.staging_path(ref.id).write_bytes(bytes(512))
            world.storage.commit_image(ref.id)
        case "volume":
            world.storage.clone(Ref("image", "image-1"), ref.id)
        case "snapshot":
            world.storage.clone(Ref("image", "image-1"), "for-a-snapshot")
            world.storage.snapshot("for-a-snapshot", ref.id)
            world.storage.delete(Ref("volume", "for-a-snapshot"))


def stored(world: World) -> set[Ref]:
    return {found.ref for found in world.storage.list()}


IMAGE = Ref("image", "image-1")
LEFT: dict[Ref, Callable[[World], None]] = {
    Ref("image", "image-9"): lambda world: record(world, IMPORT_IMAGE, "image-9"),
    Ref("volume", "volume-9"): lambda world: record(world, PROVISION, "node-9", volume_id="volume-9"),
    Ref("snapshot", "snapshot-9"): lambda world: record(
        world, SNAPSHOT, "node-9", snapshot_id="snapshot-9", snapshot="s"
    ),
}


@pytest.mark.parametrize("ref", LEFT, ids=lambda ref: ref.kind)
def test_what_an_operation_of_ours_left_in_the_store_is_removed(
    world: World, ref: Ref, caplog: pytest.LogCaptureFixture
) -> None:
    store(world, ref)
    LEFT[ref](world)
    look(world)
    assert stored(world) == {IMAGE}
    assert f"Removed {ref.kind} {ref.id} in the store" in caplog.text


@pytest.mark.parametrize("ref", LEFT, ids=lambda ref: ref.kind)
def test_what_this_database_never_made_is_left_alone(world: World, ref: Ref) -> None:
    """The wrong database would otherwise cost all images and all nodes' disks."""
    store(world, ref)
    look(world, later_s=100 * HOUR_S)
    assert stored(world) == {IMAGE, ref}


@pytest.mark.parametrize("state", list(ObjectState))
def test_what_has_a_row_is_left_alone(world: World, state: ObjectState) -> None:
    with world.database.write() as tx:
        world.give(tx, state=state)
        records.snapshots.insert(tx, rows.snapshot(state=state))
        records.images.update(tx, id="image-1", values={"state": state})
    record(world, IMPORT_IMAGE, "image-1")
    record(world, PROVISION, "node-1", volume_id="volume-1")
    record(world, SNAPSHOT, "node-1", snapshot_id="snapshot-1", snapshot="s")
    everything = {IMAGE, Ref("volume", "volume-1"), Ref("snapshot", "snapshot-1")}
    for ref in everything - {IMAGE}:
        store(world, ref)
    world.storage.staging_path("image-1").write_bytes(bytes(512))
    world.tools.boot_dir("image-1").mkdir(parents=True)
    look(world, later_s=100 * HOUR_S)
    assert stored(world) == everything
    assert world.storage.list_staged() == ["image-1"]
    assert world.tools.boot_dir("image-1").is_dir()


class _SlowToTell(FakeStorage):
    """Things happen after the store has been listed and before the answer arrives."""

    def __init__(self, world: FakeWorld, meanwhile: Callable[[], None]) -> None:
        super().__init__(world, 1 << 40)
        self._meanwhile = meanwhile

    def list(self) -> Sequence[StoredObject]:
        found = super().list()
        self._meanwhile()
        return found


def test_what_is_asked_for_and_made_while_the_sweep_looks_is_left_alone(world: World) -> None:
    """The whole life of a volume's beginning lies between the look at the store and that at the rows, or
    before both.
    """

    def provision() -> None:
        if Ref("volume", "volume-1") not in stored(world):
            world.ask("provision")
            store(world, Ref("volume", "volume-1"))

    world.tools = replace(world.tools, storage=_SlowToTell(world.storage.world, provision))
    look(world)
    look(world)
    assert stored(world) == {IMAGE, Ref("volume", "volume-1")}


# ---- staged disks and boot artefacts ----------------------------------------------------------------


def test_what_an_import_left_is_removed(world: World) -> None:
    record(world, IMPORT_IMAGE, "image-9")
    world.storage.staging_path("image-9").write_bytes(bytes(512))
    world.tools.boot_dir("image-9").mkdir(parents=True)
    (world.tools.boot_dir("image-9") / "kernel").write_bytes(b"kernel")
    look(world)
    assert world.storage.list_staged() == []
    assert not world.tools.boot_dir("image-9").exists()


def test_what_an_import_of_another_database_made_is_left_alone(world: World) -> None:
    world.storage.staging_path("image-9").write_bytes(bytes(512))
    world.tools.boot_dir("image-9").mkdir(parents=True)
    look(world, later_s=100 * HOUR_S)
    assert world.storage.list_staged() == ["image-9"]
    assert world.tools.boot_dir("image-9").is_dir()


# ---- uploads and work files -------------------------------------------------------------------------


@pytest.mark.parametrize(("later_s", "stays"), [(0, True), (HOUR_S - 60, True), (HOUR_S + 60, False)])
def test_an_upload_without_a_row_is_removed_when_none_can_come(
    world: World, later_s: float, stays: bool
) -> None:
    upload = world.tools.upload_path(new_id())
    upload.parent.mkdir(parents=True)
    upload.write_bytes(b"disk")
    look(world, later_s=later_s)
    assert upload.exists() == stays


def test_an_upload_with_a_row_and_what_is_no_upload_are_left_alone(world: World) -> None:
    image_id = new_id()
    with world.database.write() as tx:
        records.images.insert(tx, rows.image(id=image_id, name="new", state=ObjectState.CREATING))
    uploads = world.tools.uploads_dir
    uploads.mkdir(parents=True)
    for name in (image_id, "notes.txt"):
        (uploads / name).write_bytes(b"disk")
    look(world, later_s=100 * HOUR_S)
    assert sorted(path.name for path in uploads.iterdir()) == sorted([image_id, "notes.txt"])


def scratch(world: World) -> list[Path]:
    places = [world.tools.work_dir / "boot-abc", world.tools.boots_dir / ".boot-abc"]
    for place in places:
        place.mkdir(parents=True)
        (place / "initrd").write_bytes(b"half")
    return places


@pytest.mark.parametrize(("later_s", "stays"), [(HOUR_S - 60, True), (HOUR_S + 60, False)])
def test_work_files_of_a_build_that_was_killed_are_removed(world: World, later_s: float, stays: bool) -> None:
    places = scratch(world)
    look(world, later_s=later_s)
    assert [place.exists() for place in places] == [stays, stays]


@pytest.mark.parametrize(("state", "stays"), [(OperationState.RUNNING, True), (OperationState.FAILED, False)])
def test_work_files_of_a_build_that_may_still_run_are_left_alone(
    world: World, state: OperationState, stays: bool
) -> None:
    record(world, IMPORT_IMAGE, "image-9", state)
    places = scratch(world)
    look(world, later_s=100 * HOUR_S)
    assert [place.exists() for place in places] == [stays, stays]


# ---- targets ----------------------------------------------------------------------------------------


def portal(world: World) -> Portal:
    with world.database.read() as tx:
        return portal_of(world.tools, records.networks.get(tx, "network-1"))


def export(world: World, volume_id: str) -> str:
    volume = rows.volume(id=volume_id, chap_secret=world.tools.vault.seal("0123456789abcdef"))
    target = target_of(world.tools, volume)
    world.export.ensure(portal(world), target)
    return target.iqn


def test_a_target_whose_volume_has_no_row_is_removed(world: World) -> None:
    export(world, "volume-9")
    look(world)
    assert world.export.list(portal(world)) == []


@pytest.mark.parametrize("exported", [True, False])
def test_a_target_whose_volume_has_a_row_is_the_operations_business(world: World, exported: bool) -> None:
    with world.database.write() as tx:
        world.give(tx, exported=exported)
    iqn = export(world, "volume-1")
    look(world)
    assert world.export.list(portal(world)) == [iqn]


# ---- what is not there ------------------------------------------------------------------------------


def test_what_is_not_in_the_store_is_named_once_and_not_papered_over(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with world.database.write() as tx:
        world.give(tx, state=ObjectState.READY)
    sweep = Sweep(world.tools)
    before = world.final_state()
    for _ in range(3):
        sweep.look()
    [said] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert said.startswith("1 of 2 disks are not in the store: volume volume-1.")
    assert world.final_state() == before


def test_one_part_that_fails_does_not_keep_the_others(world: World, caplog: pytest.LogCaptureFixture) -> None:
    record(world, IMPORT_IMAGE, "image-9")
    world.tools.boot_dir("image-9").mkdir(parents=True)
    world.storage.world.set_fault("list", error="The store is away.")
    world.export.world.set_fault("list", error="The exporter is away.")
    look(world)
    assert not world.tools.boot_dir("image-9").exists()
    assert "Left-overs could not be swept: The exporter is away." in caplog.text
    assert "The store is away." in caplog.text


def test_it_looks_at_the_start_and_ends_when_told_to(world: World) -> None:
    export(world, "volume-9")
    sweep = Sweep(world.tools)

    class _Stopping(FakeExport):
        def remove(self, portal: Portal, iqn: str) -> None:
            super().remove(portal, iqn)
            sweep.stop()

    object.__setattr__(world.tools, "export", _Stopping(world.export.world))
    sweep.run()
    assert world.export.list(portal(world)) == []


# ---- kill -9 ----------------------------------------------------------------------------------------


def killed(action: Callable[[], object]) -> None:
    """Runs it in a process that is killed as soon as it is done."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)


def test_killed_between_the_upload_and_its_row(world: World) -> None:
    from bmi.api.uploads import Upload

    world.tools.uploads_dir.mkdir(parents=True)

    def take_in() -> None:
        with Upload(world.tools.uploads_dir) as upload:
            upload.write(b"disk")
            upload.keep(new_id())

    killed(take_in)
    assert len(list(world.tools.uploads_dir.iterdir())) == 1
    look(world, later_s=HOUR_S + 60)
    assert list(world.tools.uploads_dir.iterdir()) == []


def test_killed_while_boot_artefacts_are_built(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bmi.image import bootable

    def killed_there(*_args: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    for directory in (world.tools.work_dir, world.tools.boots_dir):
        directory.mkdir(parents=True)
    monkeypatch.setattr(bootable, "_build", killed_there)
    monkeypatch.setattr(bootable, "file_systems", lambda _disk: [])
    disk, boot_dir = tmp_path / "disk", world.tools.boot_dir("image-9")
    killed(lambda: bootable.build_boot(disk, boot_dir, work_dir=world.tools.work_dir))
    left = [*world.tools.work_dir.iterdir(), *world.tools.boots_dir.iterdir()]
    assert len(left) == 2
    look(world)
    assert all(path.exists() for path in left)
    look(world, later_s=HOUR_S + 60)
    assert not any(path.exists() for path in left)


class _DeadlyStorage(FakeStorage):
    def delete(self, ref: Ref) -> None:
        super().delete(ref)
        os.kill(os.getpid(), signal.SIGKILL)


def test_killed_while_it_sweeps(world: World) -> None:
    for ref, recorded in LEFT.items():
        recorded(world)
        store(world, ref)
    world.database.engine.dispose()
    deadly = replace(world.tools, storage=_DeadlyStorage(world.storage.world, 1 << 40))
    killed(lambda: Sweep(deadly).look())
    assert len(stored(world)) == 1 + len(LEFT) - 1
    look(world)
    assert stored(world) == {IMAGE}


def test_tokens_that_have_ended_are_forgotten(world: World) -> None:
    now = time.time()
    with world.database.write() as tx:
        for name, expires_at in (("ended", now - 1), ("lasting", now + HOUR_S), ("endless", None)):
            records.tokens.insert(tx, rows.token(id=name, name=name, expires_at=expires_at))
    look(world)
    with world.database.read() as tx:
        left = {token.name for token in records.tokens.list(tx)}
    assert {"lasting", "endless"} <= left
    assert "ended" not in left
