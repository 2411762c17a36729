"""Volumes: seen, named, flattened, rolled back, compared, deleted; they outlive the nodes that they served."""

from dataclasses import dataclass
from itertools import count

from sqlalchemy import Connection

from bmi.domain.names import image_name, image_reference
from bmi.domain.nouns import Actor, Image, Json, Node, NodeState, ObjectState, Project, Snapshot, Volume
from bmi.domain.plans import DELETE_VOLUME, DIFF, FLATTEN, ROLL_BACK, ROLL_BACK_VOLUME, Plan
from bmi.errors import BusyError, InvalidInputError, InvalidStateError, NotFoundError
from bmi.service import quotas
from bmi.service.core import (
    Core,
    OperationView,
    enqueue,
    names_of,
    project_for,
    project_names,
    replayed,
    visible_image,
    visible_node,
    visible_snapshot,
)
from bmi.store import operations as journal
from bmi.store import records, schema
from bmi.store.ids import new_id


@dataclass(frozen=True)
class VolumeView:
    """A volume with the names of what it refers to."""

    volume: Volume
    project: str
    node: str | None
    image: str
    snapshot: str | None


@dataclass(frozen=True)
class HeldVolume:
    """A volume that stays as it is until the transaction ends, its project and the node that has it."""

    volume: Volume
    project: Project
    node: Node | None


# ---- looking ----------------------------------------------------------------------------------------


def list_volumes(core: Core, actor: Actor, *, after: str = "", limit: int = 100) -> list[VolumeView]:
    """The volumes of the actor's project, or all of them for an administrator; oldest first, beginning
    behind the id `after`.
    """
    table = schema.volumes
    where = [] if actor.is_admin else [table.c.project_id == actor.project_id]
    with core.database.read() as tx:
        return _views(tx, records.volumes.list(tx, table.c.id > after, *where, limit=limit))


def get_volume(core: Core, actor: Actor, name: str, *, project: str | None = None) -> VolumeView:
    """One volume; an administrator says of which project."""
    with core.database.read() as tx:
        return _views(tx, [visible_volume(tx, project_for(tx, actor, project).id, name)])[0]


def _views(tx: Connection, volumes: list[Volume]) -> list[VolumeView]:
    projects = project_names(tx, {volume.project_id for volume in volumes})
    nodes = names_of(tx, schema.nodes, {volume.node_id for volume in volumes})
    images = names_of(tx, schema.images, {volume.image_id for volume in volumes})
    snapshots = names_of(tx, schema.snapshots, {volume.snapshot_id for volume in volumes})
    return [
        VolumeView(
            v, projects[v.project_id], nodes.get(v.node_id), images[v.image_id], snapshots.get(v.snapshot_id)
        )
        for v in volumes
    ]


def visible_volume(tx: Connection, project_id: str, name: str) -> Volume:
    """The project's volume of this name."""
    found = records.volumes.find(tx, name=name, project_id=project_id)
    if found is None:
        raise NotFoundError("volume", name, remedy="`bmi volume list` shows the volumes of your project.")
    return found


def held_volume(tx: Connection, project: Project, name: str) -> HeldVolume:
    """The volume, locked, with nothing going on at it or at its node; raises BusyError otherwise.

    The node comes first, as it does wherever a node is asked for: rows locked in one order make no circle.
    """
    found = visible_volume(tx, project.id, name)
    node = records.nodes.get(tx, found.node_id, lock=True) if found.node_id else None
    if node:
        journal.refuse_if_busy(tx, "node", node.id, node.name)
    return HeldVolume(_held(tx, found), project, node)


def detached_volume(tx: Connection, project: Project, name: str) -> Volume:
    """The volume, locked, if no node has it. Whoever asks holds a node already, and so waits for no other."""
    found = visible_volume(tx, project.id, name)
    if found.node_id:
        node = records.nodes.get(tx, found.node_id)
        raise InvalidStateError(
            f"The node {node.name!r} has the volume {name!r}.",
            remedy=f"Detach it first: bmi release {node.name} --keep-volume",
        )
    return _held(tx, found)


def refuse_while_frozen(tx: Connection, volume: Volume) -> None:
    """Raises BusyError while an image is to be made of the volume, locked, as it is now: that goes on at the image,
    and whoever deletes the volume or rolls it back would have it fail, or have made what nobody asked for.
    """
    live = journal.live_before(tx, "snapshot_volume", volume_id=volume.id)
    if live:
        raise BusyError(
            f"The volume {volume.name!r} is just being frozen for an image, by operation {live.id}.",
            remedy=f"Wait for it (bmi operation wait {live.id}) or cancel it (bmi operation cancel {live.id}).",
            operation=live.id,
        )


def _held(tx: Connection, found: Volume) -> Volume:
    volume = records.volumes.find(tx, id=found.id, lock=True)
    if volume is None or volume.node_id != found.node_id:
        raise BusyError(
            f"The volume {found.name!r} has just been attached, detached or deleted.", remedy="Look again."
        )
    journal.refuse_if_busy(tx, "volume", volume.id, found.name)
    return volume


def require_ready(kind: str, thing: Volume | Snapshot | Image) -> None:
    """Raises InvalidStateError for what is being made or deleted, or lost."""
    if thing.state is not ObjectState.READY:
        raise InvalidStateError(
            f"The {kind} {thing.name!r} is {thing.state}.",
            remedy="Ask an administrator: bmi storage check."
            if thing.state is ObjectState.ERROR
            else "Wait until it is ready, or choose another.",
        )


# ---- names ------------------------------------------------------------------------------------------


def free_name(tx: Connection, project_id: str, wanted: str) -> str:
    """`wanted`, or the first of `wanted-2`, `wanted-3` … that no volume of the project has."""
    taken = {volume.name for volume in records.volumes.list(tx, project_id=project_id)}
    return next(name for n in count(1) if (name := wanted if n == 1 else f"{wanted}-{n}") not in taken)


def rename_volume(
    core: Core, actor: Actor, name: str, new_name: str, *, project: str | None = None
) -> VolumeView:
    """Calls a volume something else; the node that has it notices nothing."""
    image_name(new_name)
    with core.database.write() as tx:
        volume = visible_volume(tx, project_for(tx, actor, project).id, name)
        records.volumes.update(tx, id=volume.id, values={"name": new_name})
        return _views(tx, [records.volumes.get(tx, volume.id)])[0]


# ---- changing ---------------------------------------------------------------------------------------


def delete_volume(
    core: Core, actor: Actor, name: str, *, project: str | None = None, key: str | None = None
) -> OperationView:
    """Removes a volume that no node has, with all that is on it."""
    with core.write() as tx:
        earlier = replayed(tx, actor, key, DELETE_VOLUME.kind, name)
        if earlier:
            return earlier
        held = held_volume(tx, project_for(tx, actor, project), name)
        if held.node:
            raise InvalidStateError(
                f"The node {held.node.name!r} has the volume {name!r}.",
                remedy=f"bmi release {held.node.name} deletes it with everything on it.",
            )
        refuse_while_frozen(tx, held.volume)
        records.volumes.update(tx, id=held.volume.id, values={"state": ObjectState.DELETING})
        return _enqueue(core, tx, actor, DELETE_VOLUME, held, key=key)


def flatten_volume(
    core: Core, actor: Actor, name: str, *, project: str | None = None, key: str | None = None
) -> OperationView:
    """Makes a volume independent of the snapshot or image that it was made from; a node may run on it."""
    with core.write() as tx:
        earlier = replayed(tx, actor, key, FLATTEN.kind, name)
        if earlier:
            return earlier
        held = held_volume(tx, project_for(tx, actor, project), name)
        require_ready("volume", held.volume)
        return _enqueue(core, tx, actor, FLATTEN, held, key=key)


def roll_back_volume(
    core: Core,
    actor: Actor,
    name: str,
    snapshot: str,
    *,
    project: str | None = None,
    force: bool = False,
    key: str | None = None,
) -> OperationView:
    """Gives a detached volume the bytes of a snapshot of it; with `force`, of any of the project's."""
    with core.write() as tx:
        earlier = replayed(tx, actor, key, ROLL_BACK_VOLUME.kind, name)
        if earlier:
            return earlier
        held = held_volume(tx, project_for(tx, actor, project), name)
        if held.node:
            raise InvalidStateError(
                f"The node {held.node.name!r} has the volume {name!r}.",
                remedy=f"Roll the node back: bmi node rollback {held.node.name} {snapshot}",
            )
        args = _roll_back_args(tx, held.volume, snapshot, force=force)
        return _enqueue(core, tx, actor, ROLL_BACK_VOLUME, held, key=key, **args)


def roll_back_node(
    core: Core, actor: Actor, name: str, snapshot: str, *, force: bool = False, key: str | None = None
) -> OperationView:
    """Gives the volume of an active node the bytes of a snapshot. That the node is off is for its BMC to say:
    the operation fails, and changes nothing, if it is on or nobody can tell.
    """
    with core.write() as tx:
        earlier = replayed(tx, actor, key, ROLL_BACK.kind, name)
        if earlier:
            return earlier
        node = visible_node(tx, actor, name, lock=True)
        volume = volume_of_active(tx, node, "rolled back")
        args = _roll_back_args(tx, volume, snapshot, force=force)
        return enqueue(
            core,
            tx,
            actor,
            ROLL_BACK,
            ("node", node.id, name),
            project_id=volume.project_id,
            args={"volume_id": volume.id, "volume": volume.name, **args},
            key=key,
        )


def volume_of_active(tx: Connection, node: Node, what: str) -> Volume:
    """The volume of a locked node, locked, with nothing going on at either; only an active node's can be
    `what`.
    """
    journal.refuse_if_busy(tx, "node", node.id, node.name)
    volume = records.volumes.find(tx, node_id=node.id, lock=True)
    if node.state is not NodeState.ACTIVE or volume is None:
        raise InvalidStateError(
            f"The node {node.name!r} is {node.state}; only an active node's volume can be {what}.",
            remedy="Provision it first.",
        )
    journal.refuse_if_busy(tx, "volume", volume.id, volume.name)
    require_ready("volume", volume)
    return volume


def _roll_back_args(tx: Connection, volume: Volume, name: str, *, force: bool) -> Json:
    snapshot = visible_snapshot(tx, volume.project_id, name, lock=True)
    require_ready("volume", volume)
    refuse_while_frozen(tx, volume)
    require_ready("snapshot", snapshot)
    if snapshot.volume_id != volume.id and not force:
        raise InvalidStateError(
            f"The snapshot {name!r} is not one of the volume {volume.name!r}.",
            remedy="Choose one that is, or say that you mean it: --force. All that is on the volume is replaced.",
        )
    grows = max(0, snapshot.size_bytes - volume.size_bytes)
    quotas.require(tx, volume.project_id, quotas.Amount(volume_bytes=grows))
    return {"snapshot_id": snapshot.id, "snapshot": name}


def _enqueue(
    core: Core, tx: Connection, actor: Actor, plan: Plan, held: HeldVolume, *, key: str | None, **args: str
) -> OperationView:
    volume = held.volume
    return enqueue(
        core,
        tx,
        actor,
        plan,
        ("volume", volume.id, volume.name),
        project_id=volume.project_id,
        args={"volume_id": volume.id, **args},
        key=key,
    )


# ---- comparing --------------------------------------------------------------------------------------


def diff(
    core: Core, actor: Actor, older: str, newer: str, *, project: str | None = None, key: str | None = None
) -> OperationView:
    """Compares two points: `volume:NAME` as it is now, `snapshot:NAME` or `image:NAME[@VERSION]`; a name alone
    is whichever of them there is. The operation's only step has the result.
    """
    subject_name = f"{older}..{newer}"[:100]
    with core.write() as tx:
        earlier = replayed(tx, actor, key, DIFF.kind, subject_name)
        if earlier:
            return earlier
        owner = project_for(tx, actor, project)
        points = [_point(tx, owner, said, field) for said, field in ((older, "older"), (newer, "newer"))]
        return enqueue(
            core,
            tx,
            actor,
            DIFF,
            # It only looks: nothing that it looks at is held by it.
            ("comparison", new_id(), subject_name),
            project_id=owner.id,
            args={"older": points[0], "newer": points[1]},
            key=key,
        )


def _point(tx: Connection, project: Project, said: str, field: str) -> Json:
    kind, colon, name = said.partition(":")
    kinds = (kind,) if colon else ("volume", "snapshot", "image")
    found = []
    for one in kinds:
        try:
            found.append((one, _thing(tx, project, one, name if colon else said, field)))
        except NotFoundError:
            continue
    if len(found) != 1:
        problem = "names nothing that you may see" if not found else "names more than one thing"
        raise InvalidInputError(
            field,
            f"{said!r} {problem}.",
            remedy="Write volume:NAME, snapshot:NAME or image:NAME, as the lists show them.",
        )
    [(kind, thing)] = found
    require_ready(kind, thing)
    return {"kind": kind, "id": thing.id, "name": thing.name}


def _thing(tx: Connection, project: Project, kind: str, name: str, field: str) -> Volume | Snapshot | Image:
    match kind:
        case "volume":
            return visible_volume(tx, project.id, name)
        case "snapshot":
            return visible_snapshot(tx, project.id, name)
        case "image":
            image_reference(name, field)
            return visible_image(tx, project.id, name)
        case _:
            raise InvalidInputError(field, f"{kind!r} is no kind.", remedy="Use volume, snapshot or image.")
