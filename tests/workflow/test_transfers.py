"""Files on their way in and out: which of them the sweep removes, and when."""

import os
import time
from pathlib import Path

import pytest

from bmi.domain.nouns import Actor, ObjectState, Role, Upload
from bmi.domain.plans import PREPARE_DOWNLOAD
from bmi.store import operations as journal
from bmi.store import records
from bmi.store.ids import new_id
from bmi.workflow.sweep import Sweep
from tests import rows
from tests.workflow.test_sweep import HOUR_S, look
from tests.workflow.world import World

DAY_S = 24 * HOUR_S


def upload(world: World, *, expires_in_s: float = DAY_S) -> Path:
    """One that is under way, with what has come of it."""
    now = world.database.now()
    upload_id = new_id()
    with world.database.write() as tx:
        records.tokens.insert(tx, rows.token(id=new_id(), name=upload_id))
        token = records.tokens.list(tx)[-1]
        row = Upload(upload_id, token.id, "disk", 4096, None, None, now, now + expires_in_s)
        records.uploads.insert(tx, row)
    world.tools.uploads_dir.mkdir(parents=True, exist_ok=True)
    file = world.tools.upload_path(upload_id)
    file.write_bytes(b"half")
    return file


@pytest.mark.parametrize(("later_s", "stays"), [(23 * HOUR_S, True), (25 * HOUR_S, False)])
def test_an_upload_that_does_not_go_on_is_removed(world: World, later_s: float, stays: bool) -> None:
    file = upload(world)
    look(world, later_s=later_s)
    assert file.exists() == stays
    with world.database.read() as tx:
        assert bool(records.uploads.list(tx)) == stays


def test_an_upload_that_goes_on_stays(world: World) -> None:
    file = upload(world, expires_in_s=100 * DAY_S)
    look(world, later_s=99 * DAY_S)
    assert file.exists()


def test_an_upload_goes_with_its_token(world: World) -> None:
    file = upload(world)
    with world.database.write() as tx:
        records.tokens.delete(tx)
    look(world, later_s=2 * HOUR_S)
    assert not file.exists()


def prepared(world: World, image_id: str, *, age_s: float = 0) -> Path:
    world.tools.downloads_dir.mkdir(parents=True, exist_ok=True)
    file = world.tools.downloads_dir / f"{image_id}.{'0' * 64}.qcow2"
    file.write_bytes(b"disk")
    at = time.time() - age_s
    os.utime(file, (at, at))
    return file


@pytest.mark.parametrize(("age_s", "stays"), [(23 * HOUR_S, True), (25 * HOUR_S, False)])
def test_a_download_that_nobody_fetches_is_removed(world: World, age_s: float, stays: bool) -> None:
    file = prepared(world, "image-1", age_s=age_s)
    look(world)
    assert file.exists() == stays


def test_a_download_goes_with_its_image(world: World) -> None:
    file = prepared(world, "image-9")
    look(world)
    assert not file.exists()


def test_half_a_download_stays_as_long_as_somebody_works_on_it(world: World) -> None:
    with world.database.write() as tx:
        made = journal.enqueue(
            tx,
            PREPARE_DOWNLOAD,
            now=0,
            actor=Actor("admin", Role.ADMIN, None),
            subject=("download", "download-1", "new"),
            project_id=None,
            args={},
        )
    world.tools.downloads_dir.mkdir(parents=True)
    part = world.tools.downloads_dir / ".download-1.part"
    part.write_bytes(b"half")
    look(world)
    assert part.exists()
    with world.database.write() as tx:
        journal.operations.update(tx, id=made.id, values={"state": "failed"})
    look(world)
    assert not part.exists()


def test_an_image_that_is_being_fetched_keeps_its_file(world: World) -> None:
    image_id = new_id()
    with world.database.write() as tx:
        records.images.insert(tx, rows.image(id=image_id, name="new", state=ObjectState.CREATING))
    world.tools.uploads_dir.mkdir(parents=True)
    world.tools.upload_path(image_id).write_bytes(b"half")
    world.database.now = lambda: time.time() + 100 * DAY_S
    Sweep(world.tools).look()
    assert world.tools.upload_path(image_id).exists()
