"""What was made from what: images and their versions, volumes, snapshots, and the nodes that have them."""

from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, Connection, Table, true

from bmi.domain.names import image_reference
from bmi.domain.nouns import Actor, Image, ObjectState, Snapshot, Volume
from bmi.errors import NotFoundError
from bmi.service.core import Core, names_of, project_for, project_names, sees_image
from bmi.store import records, schema


@dataclass(frozen=True)
class Kin:
    """One member of the family; `parent` is the id of what it was made from, if that is still there and may be
    seen.
    """

    id: str
    kind: str
    name: str
    parent: str | None
    state: ObjectState
    project: str | None
    node: str | None
    size_bytes: int | None
    unique_bytes: int | None


def lineage(core: Core, actor: Actor, *, image: str | None = None, project: str | None = None) -> list[Kin]:
    """The family of all that the actor may see, or of one image (`NAME` means all its versions): what comes of
    something stands behind it. An administrator sees everything, or what a project that they name sees.
    """
    with core.database.read() as tx:
        owner = project_for(tx, actor, project).id if project or not actor.is_admin else None
        family = _ordered(_all(tx, owner))
    if image is None:
        return family
    wanted = str(image_reference(image))
    chosen = {
        kin.id for kin in family if kin.kind == "image" and wanted in {kin.name, kin.name.partition("@")[0]}
    }
    if not chosen:
        raise NotFoundError("image", image, remedy="`bmi image list` shows the images that you may use.")
    # Parents come first, so one pass finds all that comes of the chosen.
    for kin in family:
        if kin.parent in chosen:
            chosen.add(kin.id)
    return [kin if kin.parent in chosen else replace(kin, parent=None) for kin in family if kin.id in chosen]


def _all(tx: Connection, owner: str | None) -> list[Kin]:
    images = records.images.list(tx, true() if owner is None else sees_image(owner))
    volumes = records.volumes.list(tx, _of(schema.volumes, owner))
    snapshots = records.snapshots.list(tx, _of(schema.snapshots, owner))
    everything: list[Image | Volume | Snapshot] = [*images, *volumes, *snapshots]
    known = {one.id for one in everything}
    projects = project_names(tx, {one.project_id for one in everything})
    nodes = names_of(tx, schema.nodes, {volume.node_id for volume in volumes})
    found: list[Kin] = []

    def add(
        kind: str, one: Image | Volume | Snapshot, name: str, *parents: str | None, node: str | None = None
    ) -> None:
        found.append(
            Kin(
                id=one.id,
                kind=kind,
                name=name,
                parent=next((parent for parent in parents if parent in known), None),
                state=one.state,
                project=projects.get(one.project_id),
                node=node,
                size_bytes=one.size_bytes,
                unique_bytes=one.unique_bytes,
            )
        )

    for image in images:
        add("image", image, f"{image.name}@{image.version}", (image.origin or {}).get("id"))
    for volume in volumes:
        add(
            "volume", volume, volume.name, volume.snapshot_id, volume.image_id, node=nodes.get(volume.node_id)
        )
    for snapshot in snapshots:
        add("snapshot", snapshot, snapshot.name, snapshot.volume_id, snapshot.image_id)
    return found


def _of(table: Table, owner: str | None) -> ColumnElement[bool]:
    return true() if owner is None else table.c.project_id == owner


def _ordered(family: list[Kin]) -> list[Kin]:
    """Depth first, by name and age; a circle (a volume rolled back to a snapshot of its own clone) is cut."""
    children: dict[str | None, list[Kin]] = {}
    for kin in sorted(family, key=lambda kin: (kin.name.partition("@")[0], kin.id)):
        children.setdefault(kin.parent, []).append(kin)
    ordered: dict[str, Kin] = {}
    waiting = [*reversed(children.get(None, []))]
    rest = iter(sorted(family, key=lambda kin: kin.id))
    while len(ordered) < len(family):
        while waiting:
            kin = waiting.pop()
            if kin.id not in ordered:
                ordered[kin.id] = kin
                waiting += reversed(children.get(kin.id, []))
        cut = next((kin for kin in rest if kin.id not in ordered), None)
        if cut:
            waiting = [replace(cut, parent=None)]
    return list(ordered.values())
