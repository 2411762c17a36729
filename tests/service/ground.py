"""A site over any storage that is as in the beginning again in milliseconds."""

import shutil
import sqlite3
import struct
import time
from pathlib import Path

from bmi.drivers.storage import Ref, Storage
from bmi.service import nodes, snapshots
from bmi.service.nodes import Order
from bmi.store import records
from bmi.store.database import Database, connect
from tests.contract.stores import Model, Place, empty, stage, write
from tests.installation import Site
from tests.killed import is_killed
from tests.service.stepper import LEASE_S, STEP_EFFECT, Stepper

NODES = ("n1", "n2", "n3")
UNIT = 4096
# The partition table of a disk with one partition of one sector.
_TABLE = struct.pack("<B3xB3xII", 0, 0x83, 1, 1).ljust(64, b"\0") + b"\x55\xaa"


class _Site(Site):
    # Of a disk whose own boot loader is started, nothing more is seen than its firmware.
    seen_of_a_boot = ("script", "up")


class Ground:
    """The site in `directory`: a public image of the site, a node that has a clone of it and is off, a snapshot of
    that, a volume that no node has, and two empty nodes; all but the image are the project red's.

    Its clock can be put forward, and its workers can be killed.
    """

    def __init__(self, directory: Path, migrated: Path, storage: Storage, place: Place) -> None:
        self.storage, self.place = storage, place
        self._workers, self._skipped_s = 0, 0.0
        self._watch: sqlite3.Connection | None = None
        self._here, self._template = directory / "site", directory / "template"
        self._here.mkdir()
        shutil.copy(migrated, self._here / "bmi.sqlite")
        engine = connect(f"sqlite:///{self._here / 'bmi.sqlite'}")
        self.site = _Site(Database(engine, lambda: time.time() + self._skipped_s), self._here, storage)
        self._furnish()
        self.close()
        shutil.copytree(self._here, self._template)

    def close(self) -> None:
        """Lets go of the database; it is opened again when it is needed."""
        if self._watch:
            self._watch.close()
        self._watch = None
        self.site.database.engine.dispose()

    def version(self) -> int:
        """Of the database: another number after each commit that changes anything."""
        self._watch = self._watch or sqlite3.connect(self._here / "bmi.sqlite")
        [[number]] = self._watch.execute("PRAGMA data_version")
        return int(number)

    def _furnish(self) -> None:
        site = self.site
        site.project("red")
        site.add_switch()
        site.add_nodes(*NODES, switch="sw1")
        site.will_boot(*NODES)
        self._image = Ref("image", site.add_image("debian-12", public=True))
        red = self.red = site.actor("life", "red")
        site.give("red", *NODES)
        nodes.provision_node(site.core, red, "n1", Order(image="debian-12"))
        nodes.provision_node(site.core, red, "n2", Order(image="debian-12"))
        self.worker().work()
        frozen = snapshots.create_snapshot(site.core, red, "n1", "first")
        nodes.release_node(site.core, red, "n2", keep_volume=True, keep_as="kept")
        self.worker().work()
        nodes.power_node(site.core, red, "n1", "off")
        self.worker().work()
        self._volume, self._snapshot = (
            frozen.operation.args[f"{kind}_id"] for kind in ("volume", "snapshot")
        )
        with site.database.read() as tx:
            kept = records.volumes.find(tx, name="kept")
        assert kept is not None
        self._kept = kept.id

    def restore(self) -> Model:
        """Everything is as in the beginning; returns what the disks hold."""
        self.close()
        self._workers, self._skipped_s = 0, 0.0
        shutil.rmtree(self._here)
        shutil.copytree(self._template, self._here)
        empty(self.storage)
        model = Model()
        for store in (self.storage, model):
            stage(store, self._image.id, disk(b"image"))
            store.commit_image(self._image.id)
            store.clone(self._image, self._kept)
            store.clone(self._image, self._volume)
            store.snapshot(self._volume, self._snapshot)
            write(store, self._volume, 512, b"since the snapshot")
        return model

    # ---- workers -------------------------------------------------------------------------------------

    def worker(self) -> Stepper:
        """One that has done nothing yet."""
        self._workers += 1
        return Stepper(self.site, self._workers)

    def bury(self) -> None:
        """Lets the time pass after which dead workers count as dead."""
        self._skipped_s += LEASE_S + 1

    def kill_worker(self, effect: int) -> None:
        """Lets a new worker work in another process, which is killed before its effect of this number."""
        self.close()
        effects = self.place.effects | {STEP_EFFECT}
        if is_killed(lambda: self.worker().work(), effect, effects=effects):
            self.bury()
            self.storage.check()  # as whoever comes next does first


def disk(text: bytes, units: int = 1) -> bytes:
    """The content of a disk that an import takes for one."""
    return (text.ljust(446, b"\0") + _TABLE).ljust(units * UNIT, b"\0")
