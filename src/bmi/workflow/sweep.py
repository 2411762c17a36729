"""Removes what a crash has left outside without a row that owns it, and names what rows own and is not there.

Every part lists the world first and reads the rows afterwards. What an operation makes has its row before,
and ids are never used again: what was there and has no row by then never gets one. From the store goes only
what this database's own journal made: a server that is pointed to an empty or older database must not take
the images of the right one for garbage.
"""

import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from sqlalchemy import select

from bmi.domain.nouns import ObjectState, iscsi_name
from bmi.domain.operations import LIVE
from bmi.domain.plans import IMAGE_MAKERS
from bmi.drivers.storage import Ref
from bmi.errors import BmiError, DriverError
from bmi.store import operations as journal
from bmi.store import ports as port_rows
from bmi.store import records, schema
from bmi.workflow import inventory
from bmi.workflow.cabling import narrow_all
from bmi.workflow.objects import in_state, made_here, rows
from bmi.workflow.targets import portal_of
from bmi.workflow.tools import Tools
from bmi.workflow.transfers import Orphan, stale_downloads, stale_uploads
from bmi.workflow.usage import measure

log = logging.getLogger(__name__)

_EVERY_S = 600
# How old a measurement of what a disk holds may become.
_MEASURED_EVERY_S = 1800
# Longer than anything takes from being made to being written down, where the row comes second (uploads) or
# where nothing says whose it is (work files).
_GRACE_S = 3600


class Sweep:
    """One thread that looks at the start and then every ten minutes."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._stop = threading.Event()
        self._said = ""

    def stop(self) -> None:
        self._stop.set()

    def run(self) -> None:
        """Works until `stop`."""
        while not self._stop.is_set():
            try:
                self.look()
            except Exception:  # the sweep must outlive a database that is away for a moment
                log.exception("The sweep stumbled")
            self._stop.wait(_EVERY_S)

    def look(self) -> None:
        """One round. Targets come before the volumes that they export."""
        self._forget_tokens()
        for part in self.parts():
            try:
                for what, remove in part():
                    remove()
                    log.warning("Removed %s: it was left behind and belongs to nothing", what)
            except (BmiError, OSError) as error:
                log.warning("Left-overs could not be swept: %s", error)
        try:
            self._say(str(contents(self._tools)))
            measure(self._tools, older_than_s=_MEASURED_EVERY_S, stopped=self._stop.is_set)
        except BmiError as error:
            self._say(str(error), level=logging.ERROR)
        try:
            inventory.look(self._tools)
        except BmiError as error:
            log.warning("Nodes could not be compared with the service that they are taken from: %s", error)
        with self._tools.database.write() as tx:
            port_rows.forget_left(tx)
        narrow_all(self._tools, stopped=self._stop.is_set)

    def parts(self) -> Iterable[Callable[[], Iterator[Orphan]]]:
        """Each finds one kind of what belongs to nothing, and how it is removed."""
        return (
            self._targets,
            self._objects,
            self._staged,
            self._boots,
            self._uploads,
            self._downloads,
            self._scratch,
        )

    def _say(self, found: str, level: int = logging.DEBUG) -> None:
        """Logs a change, not every round of the same."""
        if found != self._said:
            log.log(level, "%s", found)
            self._said = found

    def _forget_tokens(self) -> None:
        """Those that have ended open nothing, and would keep their names."""
        with self._tools.database.write() as tx:
            records.tokens.delete(tx, schema.tokens.c.expires_at <= self._tools.database.now())

    # ---- what belongs to nothing --------------------------------------------------------------------

    def _targets(self) -> Iterator[Orphan]:
        export, database = self._tools.export, self._tools.database
        with database.read() as tx:
            networks = records.networks.list(tx, state=ObjectState.READY, boot=True)
        for portal in (portal_of(self._tools, network) for network in networks):
            listed = export.list(portal)
            with database.read() as tx:
                volumes = tx.scalars(select(schema.volumes.c.id)).all()
            # Not what has a row but should not be exported: an operation may be about to export it again.
            owned = {iscsi_name(self._tools.iqn_prefix, "volume", volume_id) for volume_id in volumes}
            for iqn in sorted(set(listed) - owned):
                yield f"target {iqn}", partial(export.remove, portal, iqn)

    def _objects(self) -> Iterator[Orphan]:
        storage = self._tools.storage
        listed = {stored.ref for stored in storage.list()}
        with self._tools.database.read() as tx:
            unowned = made_here(tx, listed - rows(tx).keys())
        for ref in unowned:
            yield f"{ref.kind} {ref.id} in the store", partial(storage.delete, ref)

    def _staged(self) -> Iterator[Orphan]:
        storage = self._tools.storage
        for image_id in self._unowned_images(storage.list_staged()):
            yield f"the staged disk of image {image_id}", partial(storage.discard_staging, image_id)

    def _boots(self) -> Iterator[Orphan]:
        for image_id in self._unowned_images(_names(self._tools.boots_dir)):
            directory = self._tools.boot_dir(image_id)
            yield str(directory), partial(shutil.rmtree, directory)

    def _unowned_images(self, listed: Iterable[str]) -> list[str]:
        refs = {Ref("image", image_id) for image_id in listed}
        with self._tools.database.read() as tx:
            return [ref.id for ref in made_here(tx, refs - rows(tx).keys())]

    def _uploads(self) -> Iterator[Orphan]:
        return stale_uploads(self._tools, grace_s=_GRACE_S)

    def _downloads(self) -> Iterator[Orphan]:
        return stale_downloads(self._tools)

    def _scratch(self) -> Iterator[Orphan]:
        """Directories that an import works in; none that may be that of an import which still runs."""
        places = {self._tools.work_dir: ("boot-", "unpack-"), self._tools.boots_dir: (".boot-",)}
        listed = [
            place / name for place, mark in places.items() for name in _names(place) if name.startswith(mark)
        ]
        live = schema.operations.c.state.in_(LIVE)
        with self._tools.database.read() as tx:
            made = schema.operations.c.kind.in_([plan.kind for plan in IMAGE_MAKERS])
            imports = journal.operations.list(tx, live, made)
        before = min([self._tools.database.now(), *(running.created_at for running in imports)]) - _GRACE_S
        for path in listed:
            if path.stat().st_ctime < before:
                yield str(path), partial(shutil.rmtree, path)


def contents(tools: Tools) -> str:
    """Compares the store with the rows; one sentence. Raises DriverError that names what is ready according
    to its row and is not there.
    """
    with tools.database.read() as tx:
        wanted = in_state(tx, ObjectState.READY)
    there = {stored.ref for stored in tools.storage.list()}
    with tools.database.read() as tx:
        # Deleted meanwhile is not lost.
        lost = sorted(f"{ref.kind} {ref.id}" for ref in (wanted - there) & in_state(tx, ObjectState.READY))
        strangers = there - rows(tx).keys()
    if lost:
        raise DriverError(
            f"{len(lost)} of {len(wanted)} disks are not in the store: {', '.join(lost[:5])}.",
            retryable=False,
            remedy="Was the right disk mounted there? Bring it back, or release their nodes and delete the "
            "images and snapshots.",
            lost=lost,
        )
    others = f"; {len(strangers)} that this database does not know are left alone" if strangers else ""
    return f"{len(wanted)} images, volumes and snapshots are there{others}."


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
