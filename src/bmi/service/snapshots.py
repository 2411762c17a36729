"""Snapshots: volumes frozen as they are at a moment."""

from dataclasses import dataclass

from sqlalchemy import Connection

from bmi.domain.names import image_name
from bmi.domain.nouns import Actor, ObjectState, Snapshot, Volume
from bmi.domain.operations import LIVE
from bmi.domain.plans import DELETE_SNAPSHOT, SNAPSHOT
from bmi.errors import InUseError, InvalidStateError
from bmi.service import quotas
from bmi.service.core import (
    Core,
    OperationView,
    enqueue,
    names_of,
    project_for,
    project_names,
    replayed,
    visible_node,
    visible_snapshot,
)
from bmi.service.volumes import held_volume, require_ready, volume_of_active
from bmi.store import operations as journal
from bmi.store import records, schema
from bmi.store.ids import new_id


@dataclass(frozen=True)
class SnapshotView:
    """A snapshot with the names of what it refers to; the volume that it is of may be gone."""

    snapshot: Snapshot
    project: str
    image: str
    volume: str | None


def create_snapshot(
    core: Core, actor: Actor, node_name: str, name: str, *, key: str | None = None
) -> OperationView:
    """Freezes an active node's volume, crash-consistent, whether the node is on or off."""
    image_name(name)
    with core.write() as tx:
        earlier = replayed(tx, actor, key, SNAPSHOT.kind, node_name)
        if earlier:
            return earlier
        node = visible_node(tx, actor, node_name, lock=True)
        volume = volume_of_active(tx, node, "frozen")
        return _freeze(core, tx, actor, volume, name, ("node", node.id, node_name), key)


def create_volume_snapshot(
    core: Core,
    actor: Actor,
    volume_name: str,
    name: str,
    *,
    project: str | None = None,
    key: str | None = None,
) -> OperationView:
    """Freezes a volume, whether a node has it or not."""
    image_name(name)
    with core.write() as tx:
        earlier = replayed(tx, actor, key, SNAPSHOT.kind, volume_name)
        if earlier:
            return earlier
        held = held_volume(tx, project_for(tx, actor, project), volume_name)
        require_ready("volume", held.volume)
        return _freeze(core, tx, actor, held.volume, name, ("volume", held.volume.id, volume_name), key)


def _freeze(
    core: Core,
    tx: Connection,
    actor: Actor,
    volume: Volume,
    name: str,
    subject: tuple[str, str, str],
    key: str | None,
) -> OperationView:
    quotas.require(tx, volume.project_id, quotas.Amount(snapshots=1))
    snapshot = Snapshot(
        id=new_id(),
        name=name,
        project_id=volume.project_id,
        volume_id=volume.id,
        node_name=records.nodes.get(tx, volume.node_id).name if volume.node_id else "",
        image_id=volume.image_id,
        state=ObjectState.CREATING,
        size_bytes=volume.size_bytes,
        created_at=core.now(),
    )
    records.snapshots.insert(tx, snapshot)
    return enqueue(
        core,
        tx,
        actor,
        SNAPSHOT,
        subject,
        project_id=volume.project_id,
        args={"snapshot_id": snapshot.id, "snapshot": name, "volume_id": volume.id},
        key=key,
    )


def list_snapshots(core: Core, actor: Actor, *, after: str = "", limit: int = 100) -> list[SnapshotView]:
    """The snapshots of the actor's project, or all of them for an administrator; oldest first, beginning
    behind the id `after`.
    """
    table = schema.snapshots
    where = [] if actor.is_admin else [table.c.project_id == actor.project_id]
    with core.database.read() as tx:
        return _views(tx, records.snapshots.list(tx, table.c.id > after, *where, limit=limit))


def get_snapshot(core: Core, actor: Actor, name: str, *, project: str | None = None) -> SnapshotView:
    """One snapshot; an administrator says of which project."""
    with core.database.read() as tx:
        return _views(tx, [visible_snapshot(tx, project_for(tx, actor, project).id, name)])[0]


def _views(tx: Connection, snapshots: list[Snapshot]) -> list[SnapshotView]:
    projects = project_names(tx, {snapshot.project_id for snapshot in snapshots})
    images = names_of(tx, schema.images, {snapshot.image_id for snapshot in snapshots})
    volumes = names_of(tx, schema.volumes, {snapshot.volume_id for snapshot in snapshots})
    return [
        SnapshotView(s, projects[s.project_id], images[s.image_id], volumes.get(s.volume_id))
        for s in snapshots
    ]


def rename_snapshot(
    core: Core, actor: Actor, name: str, new_name: str, *, project: str | None = None
) -> SnapshotView:
    """Calls a snapshot something else."""
    image_name(new_name)
    with core.database.write() as tx:
        snapshot = visible_snapshot(tx, project_for(tx, actor, project).id, name)
        records.snapshots.update(tx, id=snapshot.id, values={"name": new_name})
        return _views(tx, [records.snapshots.get(tx, snapshot.id)])[0]


def delete_snapshot(
    core: Core, actor: Actor, name: str, *, project: str | None = None, key: str | None = None
) -> OperationView:
    """Removes a snapshot that nothing depends on."""
    with core.write() as tx:
        earlier = replayed(tx, actor, key, DELETE_SNAPSHOT.kind, name)
        if earlier:
            return earlier
        owner = project_for(tx, actor, project)
        snapshot = visible_snapshot(tx, owner.id, name, lock=True)
        journal.refuse_if_busy(tx, "snapshot", snapshot.id, name)
        users = _users_of(tx, snapshot)
        if users:
            raise InUseError(
                f"The snapshot {name!r} is used by {', '.join(users)}.",
                remedy="Release the nodes and delete the volumes first, or make them independent: "
                "bmi volume flatten.",
                users=users,
            )
        if snapshot.state is ObjectState.CREATING:
            raise InvalidStateError(f"The snapshot {name!r} is being made.", remedy="Wait until it is ready.")
        records.snapshots.update(tx, id=snapshot.id, values={"state": ObjectState.DELETING})
        return enqueue(
            core, tx, actor, DELETE_SNAPSHOT, ("snapshot", snapshot.id, name), project_id=owner.id, key=key
        )


def _users_of(tx: Connection, snapshot: Snapshot) -> list[str]:
    """The volumes and images that were made from it, until they are flattened, and what uses it right now."""
    made = records.volumes.list(tx, snapshot_id=snapshot.id)
    nodes = names_of(tx, schema.nodes, {volume.node_id for volume in made})
    images, operations = schema.images, schema.operations
    depending = records.images.list(tx, images.c.origin["id"].as_string() == snapshot.id)
    using = journal.operations.list(
        tx, operations.c.state.in_(LIVE), operations.c.args["snapshot_id"].as_string() == snapshot.id
    )
    return [
        *(f"node {nodes[v.node_id]}" if v.node_id else f"volume {v.name}" for v in made),
        *(
            f"image {image.name}" if image.project_id == snapshot.project_id else "an image of others"
            for image in depending
            if (image.origin or {}).get("depends")
        ),
        *(
            f"operation {operation.id} ({operation.kind})"
            for operation in using
            if operation.kind != SNAPSHOT.kind
        ),
    ]
