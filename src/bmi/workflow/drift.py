"""Compares what is written down with what is: rows, store and exports; mends what is BMI's own when told to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from sqlalchemy import select

from bmi.domain.nouns import Json, ObjectState, Volume, iscsi_name
from bmi.drivers.storage import Ref
from bmi.store import operations as journal
from bmi.store import records
from bmi.workflow.objects import TABLES, in_state, made_here, rows
from bmi.workflow.sweep import Sweep
from bmi.workflow.targets import portal_of, target_of
from bmi.workflow.tools import Tools

_SHOWN = 1000


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it should be; `mend` None means that it is left to a person, or to the guard."""

    what: str
    name: str
    mend: Callable[[], object] | None = None


def check(tools: Tools, *, repair: bool) -> Json:
    """Every difference, and whether it was mended. What is lost is not brought back by that: its row then says
    `error`, until the disk is there again. Raises DriverError when a part of the world is away.
    """
    found = []
    for difference in (*_lost(tools), *_left_over(tools), *_exports(tools)):
        mended = repair and difference.mend is not None
        if mended and difference.mend:
            difference.mend()
        found.append({"what": difference.what, "name": difference.name, "mended": mended})
    there = {stored.ref for stored in tools.storage.list()}
    with tools.database.read() as tx:
        known = rows(tx).keys()
        unknown = there - known
        strangers = len(unknown) - len(made_here(tx, unknown))
    return {
        "objects": len(there & known),
        "strangers": strangers,
        "different": len(found),
        "differences": found[:_SHOWN],
    }


def _lost(tools: Tools) -> Iterator[Difference]:
    """Disks that are ready and not there, and those that were lost and are there again."""
    with tools.database.read() as tx:
        wanted, missed = in_state(tx, ObjectState.READY), in_state(tx, ObjectState.ERROR)
    there = {stored.ref for stored in tools.storage.list()}
    with tools.database.read() as tx:
        # Deleted meanwhile is not lost.
        lost = (wanted - there) & in_state(tx, ObjectState.READY)
    for refs, what, becomes in (
        (lost, "is not in the store", ObjectState.ERROR),
        (missed & there, "is in the store again", ObjectState.READY),
    ):
        for ref in sorted(refs, key=lambda ref: (ref.kind, ref.id)):
            yield Difference(what, _name(tools, ref), partial(_mark, tools, ref, becomes))


def _name(tools: Tools, ref: Ref) -> str:
    table = TABLES[ref.kind]
    with tools.database.read() as tx:
        name = tx.execute(select(table.c.name).where(table.c.id == ref.id)).scalar_one_or_none()
    return f"{ref.kind} {name} ({ref.id})"


def _mark(tools: Tools, ref: Ref, becomes: ObjectState) -> None:
    was = ObjectState.READY if becomes is ObjectState.ERROR else ObjectState.ERROR
    table = TABLES[ref.kind]
    with tools.database.write() as tx:
        tx.execute(table.update().where(table.c.id == ref.id, table.c.state == was).values(state=becomes))


def _left_over(tools: Tools) -> Iterator[Difference]:
    for part in Sweep(tools).parts():
        for what, remove in part():
            yield Difference("belongs to nothing", what, remove)


def _exports(tools: Tools) -> Iterator[Difference]:
    """Volumes that are served and should not be, or the other way round, with nothing going on at them."""
    with tools.database.read() as tx:
        networks = records.networks.list(tx, state=ObjectState.READY, boot=True)
    for portal, network in ((portal_of(tools, network), network) for network in networks):
        served = set(tools.export.list(portal))
        with tools.database.read() as tx:
            volumes = [
                volume
                for volume in records.volumes.list(tx, network_id=network.id)
                if not journal.live_on(tx, volume.node_id or volume.id)
            ]
        for volume in volumes:
            iqn = iscsi_name(tools.iqn_prefix, "volume", volume.id)
            name = f"volume {volume.name} ({volume.id})"
            if volume.exported and iqn not in served:
                yield Difference("is not served", name, partial(_serve, tools, volume))
            elif iqn in served and not volume.exported:
                yield Difference("is served and should not be", name, partial(_withdraw, tools, volume))


def _serve(tools: Tools, volume: Volume) -> None:
    """As the rows have it by now."""
    with tools.database.read() as tx:
        now = records.volumes.find(tx, id=volume.id)
        network = records.networks.get(tx, volume.network_id)
    if now and now.exported:
        tools.export.ensure(portal_of(tools, network), target_of(tools, now))


def _withdraw(tools: Tools, volume: Volume) -> None:
    with tools.database.read() as tx:
        network = records.networks.get(tx, volume.network_id)
    iqn = iscsi_name(tools.iqn_prefix, "volume", volume.id)
    tools.export.remove(portal_of(tools, network), iqn)
    _serve(tools, volume)  # an operation may have begun to serve it just now
