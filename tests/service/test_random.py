"""Random sequences of requests, of nodes that write and of workers that die: rows, store and model agree.

The number of sequences is small, so that the tests stay fast; all that has to hold is run by

    SEQUENCES=10000 pytest tests/service/test_random.py -k xfs
    SEQUENCES=300 pytest tests/service/test_random.py -k ceph
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from bmi.domain.nouns import NodeState
from bmi.drivers.storage import Ref, Storage
from bmi.service import image_files, image_sources, images, nodes, snapshots, volumes
from bmi.service.core import OperationView
from bmi.service.image_sources import Source, Told
from bmi.service.images import Changes
from bmi.service.nodes import Order
from bmi.store import operations as journal
from bmi.store import records
from bmi.store.ids import new_id
from tests.contract.conftest import place, storage
from tests.contract.stores import Place, write
from tests.installation import BMC_HOST, SITE
from tests.service.ground import UNIT, Ground, disk
from tests.service.life import Asked, Life, request

__all__ = ["place", "storage"]

SEQUENCES = int(os.environ.get("SEQUENCES", "0"))
REQUESTS = 12
_SECTOR_BYTES = 512

which = st.integers(0, 1000)


class Requests(Life):
    """Each rule asks what a member of a project may ask, for something that exists, in whatever state that is."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self.others: dict[str, bytes] = {}

    # ---- nodes ---------------------------------------------------------------------------------------

    @request(node=which, image=which, units=st.integers(0, 3))
    def provision(self, node: int, image: int, units: int) -> Asked:
        name = self.image(image)
        source = Ref("image", images.get_image(self.core, self.red, name).image.id)
        return self.provisioned(self.node(node), Order(image=name, size_bytes=units * UNIT or None), source)

    @request(node=which, snapshot=which, units=st.integers(0, 3))
    def provision_snapshot(self, node: int, snapshot: int, units: int) -> Asked:
        name = self.snapshot(snapshot)
        source = Ref("snapshot", snapshots.get_snapshot(self.core, self.red, name).snapshot.id)
        return self.provisioned(
            self.node(node), Order(snapshot=name, size_bytes=units * UNIT or None), source
        )

    def provisioned(self, node: str, order: Order, source: Ref) -> Asked:
        asked = Asked(nodes.provision_node(self.core, self.red, node, order))
        size_bytes = order.size_bytes or 0
        asked.effect = partial(self.model.clone, source, asked["volume_id"], size_bytes=size_bytes)
        return asked

    @request(node=which, volume=which)
    def attach(self, node: int, volume: int) -> Asked:
        return Asked(
            nodes.provision_node(self.core, self.red, self.node(node), Order(volume=self.volume(volume)))
        )

    @request(node=which)
    def release(self, node: int) -> Asked:
        return self.gone(nodes.release_node(self.core, self.red, self.node(node, NodeState.ACTIVE)))

    def gone(self, view: OperationView) -> Asked:
        volume = Ref("volume", view.operation.args["volume_id"])
        return Asked(view, lambda: self.model.delete(volume))

    @request(node=which, name=st.one_of(st.none(), which))
    def detach(self, node: int, name: int | None) -> Asked:
        keep_as = None if name is None else self.name(name)
        name_of_node = self.node(node, NodeState.ACTIVE)
        return Asked(nodes.release_node(self.core, self.red, name_of_node, keep_volume=True, keep_as=keep_as))

    @request(node=which, action=st.sampled_from(["off", "on", "cycle"]))
    def power(self, node: int, action: str) -> Asked:
        return Asked(nodes.power_node(self.core, self.red, self.node(node, NodeState.ACTIVE), action))

    # ---- volumes and snapshots -----------------------------------------------------------------------

    @request(node=which)
    def freeze_node(self, node: int) -> Asked:
        return self.frozen(
            snapshots.create_snapshot(self.core, self.red, self.node(node, NodeState.ACTIVE), self.new_name())
        )

    @request(volume=which)
    def freeze_volume(self, volume: int) -> Asked:
        name = self.volume(volume)
        return self.frozen(snapshots.create_volume_snapshot(self.core, self.red, name, self.new_name()))

    def frozen(self, view: OperationView) -> Asked:
        asked = Asked(view)
        asked.effect = partial(self.model.snapshot, asked["volume_id"], asked["snapshot_id"])
        return asked

    @request(node=which, snapshot=which, force=st.booleans())
    def roll_back_node(self, node: int, snapshot: int, force: bool) -> Asked:
        names = self.node(node, NodeState.ACTIVE), self.snapshot(snapshot)
        view = volumes.roll_back_node(self.core, self.red, *names, force=force)
        is_on = self.site.bmc.node(f"https://{BMC_HOST}/{names[0]}")["power"] == "on"
        return self.rolled_back(Asked(view, fails=is_on))

    @request(volume=which, snapshot=which, force=st.booleans())
    def roll_back_volume(self, volume: int, snapshot: int, force: bool) -> Asked:
        names = self.volume(volume), self.snapshot(snapshot)
        return self.rolled_back(Asked(volumes.roll_back_volume(self.core, self.red, *names, force=force)))

    def rolled_back(self, asked: Asked) -> Asked:
        asked.effect = partial(self.model.roll_back, asked["volume_id"], asked["snapshot_id"])
        return asked

    @request(volume=which)
    def flatten_volume(self, volume: int) -> Asked:
        return Asked(volumes.flatten_volume(self.core, self.red, self.volume(volume)))

    @request(volume=which)
    def delete_volume(self, volume: int) -> Asked:
        return self.gone(volumes.delete_volume(self.core, self.red, self.volume(volume)))

    @request(snapshot=which)
    def delete_snapshot(self, snapshot: int) -> Asked:
        asked = Asked(snapshots.delete_snapshot(self.core, self.red, self.snapshot(snapshot)))
        asked.effect = partial(self.model.delete, Ref("snapshot", asked.view.operation.subject_id))
        return asked

    # ---- images --------------------------------------------------------------------------------------

    @request(name=which, units=st.integers(1, 3))
    def import_file(self, name: int, units: int) -> Asked:
        self.made += 1
        image_id, content = new_id(), disk(b"%d" % self.made, units)
        view = image_sources.import_file(
            self.core,
            self.red,
            self.name(name),
            Told(),
            upload_id=image_id,
            file_name="disk.raw",
            size_bytes=len(content),
            sha256="0" * 64,
        )
        (self.site.uploads / image_id).write_bytes(content)
        return self.imported(view, content)

    @request(name=which, image=which)
    def copy_image(self, name: int, image: int) -> Asked:
        title = self.image(image)
        source = Ref("image", images.get_image(self.core, self.red, title).image.id)
        return self.imported(self.import_from(name, Source(image=title)), source)

    @request(name=which, snapshot=which)
    def promote_snapshot(self, name: int, snapshot: int) -> Asked:
        known = self.snapshot(snapshot)
        source = Ref("snapshot", snapshots.get_snapshot(self.core, self.red, known).snapshot.id)
        return self.imported(self.import_from(name, Source(snapshot=known)), source)

    @request(name=which, volume=which)
    def promote_volume(self, name: int, volume: int) -> Asked:
        known = self.volume(volume)
        source = Ref("volume", volumes.get_volume(self.core, self.red, known).volume.id)
        return self.imported(self.import_from(name, Source(volume=known)), source)

    @precondition(lambda self: self.others)
    @request(name=which, other=which)
    def adopt_image(self, name: int, other: int) -> Asked:
        locations = list(self.others)
        location = locations[other % len(locations)]
        told = Told(project="red")
        view = image_sources.import_image(self.core, SITE, self.name(name), Source(rbd=location), told)
        return self.imported(view, self.others[location])

    def import_from(self, name: int, source: Source) -> OperationView:
        return image_sources.import_image(self.core, self.red, self.name(name), source, Told())

    def imported(self, view: OperationView, source: Ref | bytes) -> Asked:
        ref = Ref("image", view.operation.subject_id)

        def add() -> None:
            self.model.disks[ref] = source if isinstance(source, bytes) else self.model.disks[source]

        return Asked(view, add)

    @precondition(lambda self: self.ground.place.others)
    @request(image=which)
    def publish_image(self, image: int) -> Asked:
        title = self.image(image)
        location = f"{self.ground.place.others}{new_id()}"
        ref = Ref("image", images.get_image(self.core, SITE, title, project="red").image.id)
        view = image_files.publish_image(self.core, SITE, title, location, project="red")
        return Asked(view, lambda: self.others.update({location: self.model.disks[ref]}))

    @request(image=which)
    def flatten_image(self, image: int) -> Asked:
        return Asked(images.flatten_image(self.core, self.red, self.image(image)))

    @request(image=which, all_versions=st.booleans())
    def delete_image(self, image: int, all_versions: bool) -> Asked:
        name = self.image(image).partition("@")[0] if all_versions else self.image(image)
        view = images.delete_image(self.core, self.red, name, all_versions=all_versions)
        doomed = [Ref("image", image_id) for image_id in view.operation.args["image_ids"]]

        def forget() -> None:
            for ref in doomed:
                self.model.delete(ref)

        return Asked(view, forget)

    @request(image=which)
    def prepare_download(self, image: int) -> Asked:
        title = self.image(image)
        view = image_files.prepare_download(self.core, self.red, title, "raw")
        ref = Ref("image", view.operation.args["image_id"])

        def compare() -> None:
            # As bytes: what it is called may have changed meanwhile.
            [path] = (self.site.directory / "downloads").glob(f"{ref.id}.*")
            assert path.read_bytes() == self.model.disks[ref]

        return Asked(view, compare)

    # ---- what is done at once ------------------------------------------------------------------------

    @rule(kind=st.sampled_from(["volume", "snapshot", "image"]), old=which, new=which)
    def rename(self, kind: str, old: int, new: int) -> None:
        def ask() -> None:
            name = getattr(self, kind)(old)
            if kind == "volume":
                volumes.rename_volume(self.core, self.red, name, self.name(new))
            elif kind == "snapshot":
                snapshots.rename_snapshot(self.core, self.red, name, self.name(new))
            else:
                name = name.partition("@")[0]
                images.change_image(self.core, self.red, name, Changes(name=self.name(new)))

        self.admitted(ask)

    @rule(image=which, protected=st.booleans())
    def protect(self, image: int, protected: bool) -> None:
        changes = Changes(protected=protected)
        self.admitted(lambda: images.change_image(self.core, self.red, self.image(image), changes))

    @precondition(lambda self: not self.asked)
    @rule(volume=which, sector=which, sectors=st.integers(1, 4))
    def write(self, volume: int, sector: int, sectors: int) -> None:
        """A node writes to its disk."""
        with self.site.database.read() as tx:
            ids = [volume.id for volume in records.volumes.list(tx, exported=True)]
        if ids:
            volume_id = ids[volume % len(ids)]
            size_bytes = len(self.model.disks[Ref("volume", volume_id)])
            offset = sector % (size_bytes // _SECTOR_BYTES) * _SECTOR_BYTES
            self.made += 1
            data = (self.made.to_bytes(4, "big") * (_SECTOR_BYTES // 4 * sectors))[: size_bytes - offset]
            for store in (self.ground.storage, self.model):
                write(store, volume_id, offset, data)

    @precondition(lambda self: not self.asked)
    @rule(older=which, newer=which)
    def diff(self, older: int, newer: int) -> None:
        """Nothing may be going on: a comparison holds nothing, so that its result would be anything."""
        points = self.points()
        names, refs = zip(*(points[pick % len(points)] for pick in (older, newer)), strict=True)
        before, after = (self.model.disks[ref] for ref in refs)
        view = volumes.diff(self.core, self.red, *names)
        self.asked.append(Asked(view))
        self.settle()
        with self.site.database.read() as tx:
            [step] = journal.steps_of(tx, view.operation.id)
        mended = bytearray(before[: len(after)].ljust(len(after), b"\0"))
        for offset, length in (step.result or {})["first_extents"]:
            mended[offset : offset + length] = after[offset : offset + length]
        assert mended == after


@pytest.fixture
def ground(
    storage: Storage, place: Place, migrated_sqlite: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[Ground]:
    """In memory, since there is nothing but waiting for disks otherwise."""
    caplog.set_level(logging.CRITICAL, logger="bmi")  # what fails as it should
    with tempfile.TemporaryDirectory(prefix="bmi-random-", dir="/dev/shm") as directory:
        made = Ground(Path(directory), migrated_sqlite, storage, place)
        yield made
        made.close()


@pytest.mark.slow
@pytest.mark.timeout(600 + 10 * SEQUENCES)
def test_rows_store_and_model_agree_whatever_happens(ground: Ground, place: Place) -> None:
    class Machine(Requests):
        def __init__(self) -> None:
            super().__init__(ground)

    chosen = settings(
        max_examples=SEQUENCES or place.sequences // 5,
        stateful_step_count=REQUESTS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=chosen)
