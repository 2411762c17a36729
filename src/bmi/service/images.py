"""Images: listed, shown, described, renamed, shared, moved, deleted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import ColumnElement, Connection, and_, case, delete, exists, insert, not_, or_, select

from bmi.domain.names import image_name, image_reference, labels
from bmi.domain.nouns import Actor, Image, Json, ObjectState, Project
from bmi.domain.plans import DELETE_IMAGE, FLATTEN_IMAGE
from bmi.errors import (
    AlreadyExistsError,
    ForbiddenError,
    InUseError,
    InvalidInputError,
    InvalidStateError,
    NotFoundError,
)
from bmi.service import quotas
from bmi.service.core import (
    Core,
    OperationView,
    chosen_version,
    enqueue,
    locked_image,
    project_names,
    receives,
    replayed,
    require_admin,
    require_open,
    sees_image,
    shared_by,
)
from bmi.service.image_names import managed_image, may_manage, meant_image, title, users_of, versions_of
from bmi.service.volumes import require_ready
from bmi.store import operations as journal
from bmi.store import records, schema

_images, _shares = schema.images, schema.image_shares


@dataclass(frozen=True)
class ImageView:
    """An image and the name of the project that owns it (None: the site's own). With whom it is shared and
    what it was made from are known to those who `manage` it.
    """

    image: Image
    project: str | None
    shared_with: tuple[str, ...] = ()
    manages: bool = True


# ---- looking ----------------------------------------------------------------------------------------


def get_image(core: Core, actor: Actor, name: str, *, project: str | None = None) -> ImageView:
    """One image that the actor may use, `NAME` or `NAME@VERSION`; an administrator may say of which project."""
    with core.database.read() as tx:
        return _views(tx, actor, [meant_image(tx, actor, name, project)])[0]


@dataclass(frozen=True)
class Filter:
    """Which images to list: of each name the newest ready version, or all of them; those that have all of
    these labels; those of one name.
    """

    name: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    all_versions: bool = False


def list_images(
    core: Core, actor: Actor, wanted: Filter | None = None, *, after: str = "", limit: int = 100
) -> list[ImageView]:
    """The images that the actor may use, oldest first, beginning behind the id `after`."""
    wanted = wanted or Filter()
    where = [] if actor.is_admin else [sees_image(actor.project_id)]
    if wanted.name:
        where.append(_images.c.name == wanted.name)
    where += [_images.c.labels[key].as_string() == value for key, value in wanted.labels.items()]
    if not wanted.all_versions:
        where.append(not_(_has_better(actor)))
    with core.database.read() as tx:
        found = records.images.list(tx, _images.c.id > after, *where, limit=limit)
        return _views(tx, actor, found)


def _has_better(actor: Actor) -> ColumnElement[bool]:
    """Whether the name alone means another version that the actor sees: a ready one, or a newer one."""
    other = _images.alias("other")
    is_ready = case((_images.c.state == ObjectState.READY, 1), else_=0)
    is_other_ready = case((other.c.state == ObjectState.READY, 1), else_=0)
    same = or_(
        other.c.project_id == _images.c.project_id,
        and_(other.c.project_id.is_(None), _images.c.project_id.is_(None)),
    )
    better = or_(
        is_other_ready > is_ready,
        and_(is_other_ready == is_ready, other.c.version > _images.c.version),
    )
    seen = [] if actor.is_admin else [sees_image(actor.project_id, other)]
    return exists(select(other.c.id).where(other.c.name == _images.c.name, same, better, *seen))


def _views(tx: Connection, actor: Actor, images: Sequence[Image]) -> list[ImageView]:
    owners = project_names(tx, {image.project_id for image in images})
    managed = [image.id for image in images if may_manage(actor, image)]
    query = (
        select(_shares.c.image_id, schema.projects.c.name)
        .join(schema.projects, schema.projects.c.id == _shares.c.project_id)
        .where(_shares.c.image_id.in_(managed))
        .order_by(schema.projects.c.name)
    )
    shared: dict[str, list[str]] = {}
    for image_id, name in tx.execute(query) if managed else ():
        shared.setdefault(image_id, []).append(name)
    return [
        ImageView(
            image,
            owners.get(image.project_id),
            tuple(shared.get(image.id, ())),
            image.id in managed,
        )
        for image in images
    ]


# ---- describing, renaming, sharing, moving ----------------------------------------------------------


@dataclass(frozen=True)
class Changes:
    """What is to be different; None stays as it is. A label that is None goes. `name` and, unless one version
    is named, `public` are about all versions; the others about the one that is meant.
    """

    name: str | None = None
    description: str | None = None
    labels: Mapping[str, str | None] = field(default_factory=dict)
    protected: bool | None = None
    public: bool | None = None


def change_image(
    core: Core, actor: Actor, name: str, changes: Changes, *, project: str | None = None
) -> ImageView:
    """Describes, labels, protects, publishes or renames an image."""
    with core.write() as tx:
        image = managed_image(tx, actor, name, project)
        one_version = image_reference(name).version is not None
        if changes.public is not None:
            _publish(tx, actor, image, changes.public, one_version=one_version)
        if changes.name is not None and changes.name != image.name:
            _rename(tx, image, changes.name, one_version=one_version)
        kept = {key: value for key, value in image.labels.items() if key not in changes.labels}
        given = {key: value for key, value in changes.labels.items() if value is not None}
        values: Json = {"labels": labels(kept | given)}
        if changes.description is not None:
            values["description"] = changes.description
        if changes.protected is not None:
            values["protected"] = changes.protected
        records.images.update(tx, id=image.id, values=values)
        return _views(tx, actor, [records.images.get(tx, image.id)])[0]


def _publish(tx: Connection, actor: Actor, image: Image, public: bool, *, one_version: bool) -> None:
    if not actor.is_admin:
        raise ForbiddenError("Only an administrator may change who an image is public to.", remedy="Ask one.")
    if image.project_id is None and not public:
        raise InvalidStateError(
            f"The image {image.name!r} is the site's: no project could use it.",
            remedy=f"Give it to one project: bmi image move {image.name} --to PROJECT",
        )
    records.images.update(tx, *_scope(image, one_version=one_version), values={"public": public})


def _scope(image: Image, *, one_version: bool) -> list[ColumnElement[bool]]:
    if one_version:
        return [_images.c.id == image.id]
    return [_images.c.name == image.name, _images.c.project_id == image.project_id]


def _rename(tx: Connection, image: Image, new_name: str, *, one_version: bool) -> None:
    image_name(new_name)
    _refuse_one_version(one_version, "renamed")
    _refuse_taken(tx, new_name, image.project_id)
    records.images.update(tx, *_scope(image, one_version=False), values={"name": new_name})


def _refuse_one_version(one_version: bool, done: str) -> None:
    if one_version:
        raise InvalidInputError(
            "name",
            f"one version alone cannot be {done}.",
            remedy="Name the image without @VERSION, or make a copy: bmi image copy.",
        )


def _refuse_taken(tx: Connection, name: str, project_id: str | None) -> None:
    if records.images.find(tx, name=name, project_id=project_id):
        raise AlreadyExistsError(f"An image {name!r} exists there.", remedy="Choose another name.")


def share_image(
    core: Core,
    actor: Actor,
    name: str,
    other: str,
    *,
    shared: bool,
    project: str | None = None,
    of: str | None = None,
) -> ImageView:
    """Lets the project `other` use an image that is not public, or (`shared` False) ends that: no new node
    boots from it there, those that run go on. All versions, also those to come, unless one is named.

    The project that an image is shared with may end that as well, and says whose it is (`of`) if several share one
    of this name.
    """
    with core.write() as tx:
        found = records.projects.find(tx, name=other)
        if found and not shared and receives(tx, actor, found, project):
            image = _received(tx, found, name, of)
        else:
            image = managed_image(tx, actor, name, project)
        if found is None:
            raise NotFoundError("project", other, remedy="Ask the other project for its exact name.")
        one_version = image_reference(name).version is not None
        if found.id == image.project_id:
            raise InvalidInputError("with", f"the image is {other!r}'s own.", remedy="Name another project.")
        meant = records.images.list(tx, *_scope(image, one_version=one_version))
        ids = [version.id for version in meant]
        tx.execute(delete(_shares).where(_shares.c.image_id.in_(ids), _shares.c.project_id == found.id))
        if shared:
            tx.execute(insert(_shares), [{"image_id": known, "project_id": found.id} for known in ids])
        return _views(tx, actor, [image])[0]


def _received(tx: Connection, receiver: Project, name: str, of: str | None) -> Image:
    """The image that is shared with a project, locked."""
    wanted = image_reference(name)
    here = exists().where(_shares.c.image_id == _images.c.id, _shares.c.project_id == receiver.id)
    found = records.images.list(tx, here, name=wanted.name)
    owners = project_names(tx, {image.project_id for image in found})
    owner = shared_by(owners, "image", wanted.name, of)
    versions = [image for image in found if owners.get(image.project_id) == owner]
    return locked_image(tx, chosen_version(versions, wanted))


def move_image(
    core: Core, actor: Actor, name: str, to: str | None, *, project: str | None = None
) -> ImageView:
    """Gives all versions of an image to another project, or (None) to the site; for administrators. What came
    of it stays where it is. An image of the site stops being public when it becomes a project's.
    """
    require_admin(actor)
    with core.write() as tx:
        image = managed_image(tx, actor, name, project)
        _refuse_one_version(image_reference(name).version is not None, "moved")
        target = records.projects.find(tx, name=to) if to else None
        if to and target is None:
            raise NotFoundError("project", to, remedy="`bmi project list` shows those there are.")
        owner = target.id if target else None
        if owner == image.project_id:
            raise InvalidInputError("to", "the image is there already.", remedy="Name another project.")
        _refuse_taken(tx, image.name, owner)
        versions = versions_of(tx, image.name, image.project_id)
        for version in versions:
            journal.refuse_if_busy(tx, "image", version.id, title(version))
        size_bytes = sum(version.size_bytes or 0 for version in versions)
        require_open(tx, owner)
        quotas.require(tx, owner, quotas.Amount(images=len(versions), image_bytes=size_bytes))
        public = owner is None or (image.project_id is not None and image.public)
        ids = [version.id for version in versions]
        tx.execute(delete(_shares).where(_shares.c.image_id.in_(ids), _shares.c.project_id == owner))
        values = {"project_id": owner, "public": public}
        records.images.update(tx, *_scope(image, one_version=False), values=values)
        return _views(tx, actor, [replace(image, project_id=owner, public=public)])[0]


def flatten_image(
    core: Core, actor: Actor, name: str, *, project: str | None = None, key: str | None = None
) -> OperationView:
    """Copies what the image shares with what it was made from, so that this can go."""
    with core.write() as tx:
        earlier = replayed(tx, actor, key, FLATTEN_IMAGE.kind, name)
        if earlier:
            return earlier
        image = managed_image(tx, actor, name, project)
        require_ready("image", image)
        subject = ("image", image.id, name)
        return enqueue(core, tx, actor, FLATTEN_IMAGE, subject, project_id=image.project_id, key=key)


# ---- deleting ---------------------------------------------------------------------------------------


def delete_image(
    core: Core,
    actor: Actor,
    name: str,
    *,
    project: str | None = None,
    all_versions: bool = False,
    key: str | None = None,
) -> OperationView:
    """Removes a version of an image, or all, if nothing depends on it any more."""
    with core.write() as tx:
        earlier = replayed(tx, actor, key, DELETE_IMAGE.kind, name)
        if earlier:
            return earlier
        image = managed_image(tx, actor, name, project)
        doomed = _doomed(tx, image, name, all_versions=all_versions)
        for version in doomed:
            _refuse_needed(tx, version)
        users = users_of(tx, actor, doomed)
        if users:
            raise InUseError(
                f"The image {name!r} is used by {', '.join(users)}.",
                remedy="Release the nodes and delete the volumes and snapshots first; an image that shares "
                "data becomes independent with bmi image flatten.",
                users=users,
            )
        ids = [version.id for version in doomed]
        records.images.update(tx, _images.c.id.in_(ids), values={"state": ObjectState.DELETING})
        return enqueue(
            core,
            tx,
            actor,
            DELETE_IMAGE,
            ("image", image.id, name),
            project_id=image.project_id,
            args={"image_ids": ids},
            key=key,
        )


def _doomed(tx: Connection, image: Image, name: str, *, all_versions: bool) -> list[Image]:
    """What is to be deleted, locked, oldest first."""
    named = image_reference(name).version
    if named is not None and all_versions:
        raise InvalidInputError(
            "all_versions", "the name is that of one version.", remedy="Leave @VERSION or --all-versions out."
        )
    versions = [locked_image(tx, known) for known in versions_of(tx, image.name, image.project_id)]
    alive = [version for version in versions if version.state is not ObjectState.DELETING]
    if named is None and not all_versions and len(alive) > 1:
        numbers = ", ".join(str(version.version) for version in alive)
        raise InvalidStateError(
            f"The image {name!r} has versions {numbers}.",
            remedy=f"Name one, like {title(alive[0])}, or delete them all: --all-versions.",
        )
    return versions if all_versions else [image]


def _refuse_needed(tx: Connection, version: Image) -> None:
    journal.refuse_if_busy(tx, "image", version.id, title(version))
    if version.protected:
        raise InvalidStateError(
            f"The image {title(version)!r} is protected.",
            remedy=f"bmi image set {title(version)} --unprotect",
        )
