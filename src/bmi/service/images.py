"""Images and snapshots: taken in, listed, frozen, deleted."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, literal, select

from bmi.domain.names import image_name
from bmi.domain.nouns import Actor, Image, NodeState, ObjectState, Snapshot
from bmi.domain.plans import DELETE_IMAGE, DELETE_SNAPSHOT, IMPORT_IMAGE, SNAPSHOT
from bmi.errors import (
    AlreadyExistsError,
    ForbiddenError,
    InUseError,
    InvalidInputError,
    InvalidStateError,
)
from bmi.service.core import (
    Core,
    OperationView,
    enqueue,
    locked_image,
    names_of,
    own_node,
    project_for,
    project_names,
    replayed,
    visible_image,
    visible_snapshot,
)
from bmi.store import operations as journal
from bmi.store import records, schema
from bmi.store.ids import new_id


@dataclass(frozen=True)
class ImageView:
    """An image and the name of the project that owns it (None: the site's own)."""

    image: Image
    project: str | None


@dataclass(frozen=True)
class SnapshotView:
    """A snapshot with the names of what it refers to."""

    snapshot: Snapshot
    project: str
    image: str


def uploads_dir(core: Core) -> Path:
    """Where the API streams uploads to, before anything is recorded."""
    return core.settings.server.data_dir / "uploads"


def check_import(
    core: Core, actor: Actor, name: str, *, project: str | None, public: bool, key: str | None = None
) -> OperationView | None:
    """Raises what `import_image` would, before a byte is uploaded; returns what an earlier request with
    the same key made, which needs no bytes any more.
    """
    with core.database.read() as tx:
        earlier = replayed(tx, actor, key, IMPORT_IMAGE.kind, name)
        if earlier is None:
            _owner(tx, actor, name, project=project, public=public)
        return earlier


def _owner(tx: Connection, actor: Actor, name: str, *, project: str | None, public: bool) -> str | None:
    """The id of the project that will own the image; None is the site, for administrators."""
    image_name(name)
    if public and not actor.is_admin:
        raise ForbiddenError("Only an administrator may make an image public.", remedy="Leave --public out.")
    owner = None if actor.is_admin and not project else project_for(tx, actor, project).id
    if records.images.find(tx, name=name, project_id=owner):
        raise AlreadyExistsError(
            f"An image {name!r} exists.", remedy="Choose another name, or delete that image."
        )
    return owner


def import_image(
    core: Core,
    actor: Actor,
    name: str,
    *,
    upload_id: str,
    sha256: str,
    project: str | None = None,
    public: bool = False,
    key: str | None = None,
) -> OperationView:
    """Makes an image of the uploaded file `uploads_dir / upload_id`; `upload_id` becomes its id.

    The image of a member is their project's. An administrator's is the site's, which every project may
    use, or that of the `project` they name, and then `public` lets every project use it too.
    """
    with core.write() as tx:
        earlier = replayed(tx, actor, key, IMPORT_IMAGE.kind, name)
        if earlier:
            return earlier
        owner = _owner(tx, actor, name, project=project, public=public)
        image = Image(
            id=upload_id,
            name=name,
            project_id=owner,
            # An image of the site is everybody's: no project could use it otherwise.
            public=public or owner is None,
            state=ObjectState.CREATING,
            format=None,
            size_bytes=None,
            sha256=sha256,
            boot=None,
            created_at=core.now(),
        )
        records.images.insert(tx, image)
        return enqueue(core, tx, actor, IMPORT_IMAGE, ("image", image.id, name), project_id=owner, key=key)


def new_upload_id() -> str:
    """An id for a file that is about to be uploaded."""
    return new_id()


def get_image(core: Core, actor: Actor, name: str, *, project: str | None = None) -> ImageView:
    """One image that the actor may use; an administrator may say of which project."""
    with core.database.read() as tx:
        image = _meant_image(tx, actor, name, project)
        return ImageView(image, project_names(tx, {image.project_id}).get(image.project_id))


def _meant_image(tx: Connection, actor: Actor, name: str, project: str | None) -> Image:
    """A member's own or public image. To an administrator who names no project, a name means the site's
    image, or else the only one that is called so.
    """
    if project or not actor.is_admin:
        return visible_image(tx, project_for(tx, actor, project).id, name)
    found = records.images.list(tx, name=name)
    of_the_site = [image for image in found if image.project_id is None]
    if len(found) > 1 and not of_the_site:
        names = project_names(tx, {image.project_id for image in found})
        raise InvalidInputError(
            "project",
            f"images {name!r} exist in {', '.join(sorted(names.values()))}.",
            remedy="Say which one is meant: --project NAME.",
        )
    return (of_the_site or found or [visible_image(tx, None, name)])[0]


def list_images(core: Core, actor: Actor, *, after: str = "", limit: int = 100) -> list[ImageView]:
    """The images that the actor may use, oldest first, beginning behind the id `after`."""
    table = schema.images
    where = [] if actor.is_admin else [(table.c.project_id == actor.project_id) | table.c.public]
    with core.database.read() as tx:
        images = records.images.list(tx, table.c.id > after, *where, limit=limit)
        names = project_names(tx, {image.project_id for image in images})
    return [ImageView(image, names.get(image.project_id)) for image in images]


def delete_image(
    core: Core, actor: Actor, name: str, *, project: str | None = None, key: str | None = None
) -> OperationView:
    """Removes an image that nothing depends on any more."""
    with core.write() as tx:
        earlier = replayed(tx, actor, key, DELETE_IMAGE.kind, name)
        if earlier:
            return earlier
        image = locked_image(tx, _meant_image(tx, actor, name, project))
        if not actor.is_admin and image.project_id != actor.project_id:
            raise ForbiddenError(f"The image {name!r} is not your project's.", remedy="Ask an administrator.")
        journal.refuse_if_busy(tx, "image", image.id, name)
        users = _users_of(tx, actor, image)
        if users:
            raise InUseError(
                f"The image {name!r} is used by {', '.join(users)}.",
                remedy="Release the nodes and delete the snapshots first.",
                users=users,
            )
        records.images.update(tx, id=image.id, values={"state": ObjectState.DELETING})
        return enqueue(
            core, tx, actor, DELETE_IMAGE, ("image", image.id, name), project_id=image.project_id, key=key
        )


def _users_of(tx: Connection, actor: Actor, image: Image) -> list[str]:
    """The nodes and snapshots that came of the image; those the actor may not see are only counted."""
    nodes, volumes, snapshots = schema.nodes, schema.volumes, schema.snapshots
    on_nodes = select(literal("node"), nodes.c.name, volumes.c.project_id).join_from(nodes, volumes)
    frozen = select(literal("snapshot"), snapshots.c.name, snapshots.c.project_id)
    found = tx.execute(
        on_nodes.where(volumes.c.image_id == image.id).union_all(
            frozen.where(snapshots.c.image_id == image.id)
        )
    ).all()
    seen = sorted(
        f"{kind} {name}" for kind, name, owner in found if actor.is_admin or owner == actor.project_id
    )
    others = len(found) - len(seen)
    return [*seen, *([f"{others} of other projects' nodes and snapshots"] if others else [])]


# ---- snapshots --------------------------------------------------------------------------------------


def create_snapshot(
    core: Core, actor: Actor, node_name: str, name: str, *, key: str | None = None
) -> OperationView:
    """Freezes an active node's volume, crash-consistent, while the node runs."""
    image_name(name)
    with core.write() as tx:
        earlier = replayed(tx, actor, key, SNAPSHOT.kind, node_name)
        if earlier:
            return earlier
        node = own_node(tx, actor, node_name)
        journal.refuse_if_busy(tx, "node", node.id, node_name)
        volume = records.volumes.find(tx, node_id=node.id)
        if node.state is not NodeState.ACTIVE or volume is None:
            raise InvalidStateError(
                f"The node {node_name!r} is {node.state}; only an active node's volume can be frozen.",
                remedy="Provision it first.",
            )
        snapshot = Snapshot(
            id=new_id(),
            name=name,
            project_id=volume.project_id,
            volume_id=volume.id,
            node_name=node_name,
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
            ("node", node.id, node_name),
            project_id=volume.project_id,
            args={"snapshot_id": snapshot.id, "snapshot": name},
            key=key,
        )


def list_snapshots(core: Core, actor: Actor, *, after: str = "", limit: int = 100) -> list[SnapshotView]:
    """The snapshots of the actor's project, or all of them for an administrator; oldest first, beginning
    behind the id `after`.
    """
    table = schema.snapshots
    where = [] if actor.is_admin else [table.c.project_id == actor.project_id]
    with core.database.read() as tx:
        found = records.snapshots.list(tx, table.c.id > after, *where, limit=limit)
        projects = project_names(tx, {snapshot.project_id for snapshot in found})
        images = names_of(tx, schema.images, {snapshot.image_id for snapshot in found})
    return [SnapshotView(s, projects[s.project_id], images[s.image_id]) for s in found]


def get_snapshot(core: Core, actor: Actor, name: str, *, project: str | None = None) -> SnapshotView:
    """One snapshot; an administrator says of which project."""
    with core.database.read() as tx:
        owner = project_for(tx, actor, project)
        found = visible_snapshot(tx, owner.id, name)
        return SnapshotView(found, owner.name, records.images.get(tx, found.image_id).name)


def delete_snapshot(
    core: Core, actor: Actor, name: str, *, project: str | None = None, key: str | None = None
) -> OperationView:
    """Removes a snapshot that no node was provisioned from."""
    with core.write() as tx:
        earlier = replayed(tx, actor, key, DELETE_SNAPSHOT.kind, name)
        if earlier:
            return earlier
        owner = project_for(tx, actor, project)
        snapshot = visible_snapshot(tx, owner.id, name, lock=True)
        journal.refuse_if_busy(tx, "snapshot", snapshot.id, name)
        users = [
            f"node {records.nodes.get(tx, v.node_id).name}"
            for v in records.volumes.list(tx, snapshot_id=snapshot.id)
        ]
        if users:
            raise InUseError(
                f"The snapshot {name!r} is used by {', '.join(users)}.",
                remedy="Release the nodes first.",
                users=users,
            )
        if snapshot.state is ObjectState.CREATING:
            raise InvalidStateError(f"The snapshot {name!r} is being made.", remedy="Wait until it is ready.")
        records.snapshots.update(tx, id=snapshot.id, values={"state": ObjectState.DELETING})
        return enqueue(
            core, tx, actor, DELETE_SNAPSHOT, ("snapshot", snapshot.id, name), project_id=owner.id, key=key
        )
