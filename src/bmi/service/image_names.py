"""Which image a name means, who may change it, and what depends on it."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, select

from bmi.domain.names import image_reference
from bmi.domain.nouns import Actor, Image
from bmi.domain.operations import LIVE
from bmi.errors import ForbiddenError, InvalidInputError
from bmi.service.core import (
    chosen_version,
    locked_image,
    project_for,
    project_names,
    visible_image,
)
from bmi.store import operations as journal
from bmi.store import records, schema


def meant_image(tx: Connection, actor: Actor, name: str, project: str | None) -> Image:
    """What `NAME` or `NAME@VERSION` means to a member: an own, shared or public image. To an administrator
    who names no project it means the site's image, or else the only one that is called so.
    """
    if project or not actor.is_admin:
        return visible_image(tx, project_for(tx, actor, project).id, name)
    wanted = image_reference(name)
    found = records.images.list(tx, name=wanted.name)
    owners = {image.project_id for image in found}
    if len(owners) > 1 and None not in owners:
        names = project_names(tx, owners)
        raise InvalidInputError(
            "project",
            f"images {wanted.name!r} exist in {', '.join(sorted(names.values()))}.",
            remedy="Say which one is meant: --project NAME.",
        )
    if None in owners:
        found = [image for image in found if image.project_id is None]
    return chosen_version(found, wanted)


def may_manage(actor: Actor, image: Image) -> bool:
    """Whether the actor may do more with an image than use it."""
    return actor.is_admin or (actor.project_id is not None and image.project_id == actor.project_id)


def managed_image(tx: Connection, actor: Actor, name: str, project: str | None) -> Image:
    """The image that is meant, locked; raises ForbiddenError unless it is the actor's to change."""
    image = locked_image(tx, meant_image(tx, actor, name, project))
    if not may_manage(actor, image):
        raise ForbiddenError(f"The image {name!r} is not your project's.", remedy="Ask an administrator.")
    return image


def versions_of(tx: Connection, name: str, project_id: str | None) -> list[Image]:
    """All versions of an owner's image, oldest first."""
    return records.images.list(tx, name=name, project_id=project_id, order="version")


def title(image: Image) -> str:
    """How one version is called."""
    return f"{image.name}@{image.version}"


def dependent_images(tx: Connection, source_ids: Iterable[str]) -> list[Image]:
    """The images that are being made from these images or snapshots, or share data with them as yet."""
    source = schema.images.c.origin["id"].as_string()
    found = records.images.list(tx, source.in_(list(source_ids)))
    return [image for image in found if (image.origin or {}).get("depends")]


def users_of(tx: Connection, actor: Actor, images: Sequence[Image]) -> list[str]:
    """What came of these images: nodes, detached volumes, snapshots, and other images that share their data; and
    what writes them to files for a download right now. What the actor may not see is only counted.
    """
    nodes, volumes, snapshots, operations = schema.nodes, schema.volumes, schema.snapshots, schema.operations
    ids = [image.id for image in images]
    name_of_node = select(nodes.c.name).where(nodes.c.id == volumes.c.node_id).scalar_subquery()
    cloned = select(name_of_node, volumes.c.name, volumes.c.project_id).where(volumes.c.image_id.in_(ids))
    found = [
        (f"node {node}" if node else f"volume {volume}", owner) for node, volume, owner in tx.execute(cloned)
    ]
    frozen = select(snapshots.c.name, snapshots.c.project_id).where(snapshots.c.image_id.in_(ids))
    found += [(f"snapshot {name}", owner) for name, owner in tx.execute(frozen)]
    made = [image for image in dependent_images(tx, ids) if image.id not in ids]
    found += [(f"image {title(image)}", image.project_id) for image in made]
    preparing = journal.operations.list(
        tx, operations.c.state.in_(LIVE), operations.c.args["image_id"].as_string().in_(ids)
    )
    found += [(f"operation {one.id} ({one.kind})", one.project_id) for one in preparing]
    seen = sorted(said for said, owner in found if actor.is_admin or owner == actor.project_id)
    others = len(found) - len(seen)
    return [*seen, *([f"{others} of other projects"] if others else [])]
