"""Where images come from: a file, a URL, another image, a snapshot, a volume, an image of the store."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from sqlalchemy import Connection, insert, select

from bmi.domain.names import image_name, labels
from bmi.domain.names import sha256 as checked_sha256
from bmi.domain.nouns import Actor, Image, Json, ObjectState, Snapshot
from bmi.domain.plans import (
    ADOPT_IMAGE,
    FETCH_IMAGE,
    IMPORT_IMAGE,
    PROMOTE_IMAGE,
    PROMOTE_VOLUME,
    Plan,
)
from bmi.errors import AlreadyExistsError, BusyError, ForbiddenError, InvalidInputError, InvalidStateError
from bmi.service import quotas
from bmi.service.core import (
    Core,
    OperationView,
    enqueue,
    locked_image,
    project_for,
    replayed,
    require_admin,
    require_open,
    visible_snapshot,
)
from bmi.service.image_names import meant_image, title, versions_of
from bmi.service.volumes import held_volume, require_ready
from bmi.store import records, schema
from bmi.store.ids import new_id

_MAX_URL = 4000


@dataclass(frozen=True)
class Source:
    """What an image is made from: exactly one of these. An administrator says of which `project` the image,
    snapshot or volume is; `sha256` is that of the file behind a URL.
    """

    upload: str | None = None
    url: str | None = None
    image: str | None = None
    snapshot: str | None = None
    volume: str | None = None
    rbd: str | None = None
    sha256: str | None = None
    project: str | None = None


@dataclass(frozen=True)
class Told:
    """What is said of a new version. What is left None is as with the newest version before: who may use the
    image, and its description; labels are always its own.
    """

    project: str | None = None
    public: bool | None = None
    description: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Made:
    """A source that was looked at: how the image is made of it, and what is known of the image already."""

    plan: Plan
    origin: Json
    args: Json = field(default_factory=dict)
    id: str = ""
    format: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    snapshot: Snapshot | None = None


# ---- a file that came whole -------------------------------------------------------------------------


def check_import(
    core: Core, actor: Actor, name: str, told: Told, *, size_bytes: int = 0, key: str | None = None
) -> OperationView | None:
    """Raises what `import_file` would, before a byte is uploaded; returns what an earlier request with the
    same key made, which needs no bytes any more.
    """
    with core.database.write() as tx:
        earlier = replayed(tx, actor, key, IMPORT_IMAGE.kind, name)
        if earlier is None:
            owner = _owner(tx, actor, name, told)
            require_open(tx, owner)
            quotas.require(tx, owner, quotas.Amount(images=1, image_bytes=size_bytes))
        return earlier


def import_file(
    core: Core,
    actor: Actor,
    name: str,
    told: Told,
    *,
    upload_id: str,
    file_name: str,
    size_bytes: int,
    sha256: str,
    key: str | None = None,
) -> OperationView:
    """Makes the next version of an image of the file `uploads_dir / upload_id`; `upload_id` becomes its id.

    The image of a member is their project's. An administrator's is the site's, which every project may
    use, or that of the `project` they name, and then `public` lets every project use it too.
    """
    made = _Made(
        IMPORT_IMAGE, {"kind": "file", "name": file_name}, id=upload_id, size_bytes=size_bytes, sha256=sha256
    )
    with core.write() as tx:
        earlier = replayed(tx, actor, key, IMPORT_IMAGE.kind, name)
        if earlier:
            return earlier
        return _record(core, tx, actor, name, told, made, key)


# ---- everything else --------------------------------------------------------------------------------


def import_image(
    core: Core, actor: Actor, name: str, source: Source, told: Told, *, key: str | None = None
) -> OperationView:
    """Makes the next version of the image `name` from any source."""
    plan = _plan(source)
    with core.write() as tx:
        earlier = replayed(tx, actor, key, plan.kind, name)
        if earlier:
            return earlier
        return _record(core, tx, actor, name, told, _look(core, tx, actor, source), key)


def _plan(source: Source) -> Plan:
    kinds = {
        "upload": IMPORT_IMAGE,
        "url": FETCH_IMAGE,
        "image": PROMOTE_IMAGE,
        "snapshot": PROMOTE_IMAGE,
        "volume": PROMOTE_VOLUME,
        "rbd": ADOPT_IMAGE,
    }
    given = [kind for kind in kinds if getattr(source, kind)]
    if len(given) != 1:
        raise InvalidInputError(
            "source", f"give exactly one of {', '.join(kinds)}.", remedy="An image is made from one thing."
        )
    if source.sha256 and not source.url:
        raise InvalidInputError(
            "sha256", "it is for a URL.", remedy="Say it when the upload begins, or leave it out."
        )
    return kinds[given[0]]


def _look(core: Core, tx: Connection, actor: Actor, source: Source) -> _Made:
    if source.upload:
        return _from_upload(core, tx, actor, source.upload)
    if source.url:
        return _from_url(core, source.url, source.sha256)
    if source.image:
        return _from_image(tx, actor, source.image, source.project)
    if source.snapshot:
        snapshot = visible_snapshot(tx, project_for(tx, actor, source.project).id, source.snapshot, lock=True)
        require_ready("snapshot", snapshot)
        return _from_snapshot(PROMOTE_IMAGE, "snapshot", snapshot.name, snapshot)
    if source.volume:
        return _from_volume(core, tx, actor, source.volume, source.project)
    require_admin(actor)
    location = source.rbd or ""
    return _Made(ADOPT_IMAGE, {"kind": "rbd", "name": location, "depends": True}, {"location": location})


def _from_upload(core: Core, tx: Connection, actor: Actor, upload_id: str) -> _Made:
    upload = records.uploads.find(tx, id=upload_id, token_id=actor.token_id, lock=True)
    if upload is None or upload.expires_at <= core.now():
        raise InvalidInputError(
            "upload", f"there is no upload {upload_id!r} of this token.", remedy="Upload the file again."
        )
    if upload.sha256 is None:
        raise InvalidStateError(
            "The upload is not complete.", remedy="Send the rest of it: HEAD tells how much has come."
        )
    # From now on the file is that of the image.
    records.uploads.delete(tx, id=upload.id)
    return _Made(
        IMPORT_IMAGE,
        {"kind": "file", "name": upload.file_name},
        id=upload.id,
        size_bytes=upload.size_bytes,
        sha256=upload.sha256,
    )


def _from_url(core: Core, url: str, sha256: str | None) -> _Made:
    parts = urlsplit(url) if len(url) <= _MAX_URL else urlsplit("")
    schemes = {"https", "http"} if core.settings.image.url_allow_http else {"https"}
    if parts.scheme not in schemes or not parts.hostname or not url.isprintable() or " " in url:
        raise InvalidInputError(
            "url", "it is not an https:// address.", remedy="Write it like https://example.net/debian.qcow2."
        )
    if parts.username or parts.password:
        raise InvalidInputError(
            "url", "it contains credentials.", remedy="Use an address that needs none, or upload the file."
        )
    expected = checked_sha256(sha256) if sha256 else None
    # What stands behind the ? may be a key that opens the file for a while.
    shown = f"{parts.scheme}://{parts.netloc}{parts.path}"
    args = {"url": shown, "sealed_url": core.vault.seal(url), "sha256": expected}
    return _Made(FETCH_IMAGE, {"kind": "url", "name": shown}, args, sha256=expected)


def _from_image(tx: Connection, actor: Actor, name: str, project: str | None) -> _Made:
    image = locked_image(tx, meant_image(tx, actor, name, project))
    require_ready("image", image)
    return _Made(
        PROMOTE_IMAGE,
        {"kind": "image", "name": title(image), "id": image.id, "depends": True},
        {"source": title(image)},
        format=image.format,
        size_bytes=image.size_bytes,
        sha256=image.sha256,
    )


def _from_snapshot(plan: Plan, kind: str, name: str, snapshot: Snapshot) -> _Made:
    origin = {"kind": kind, "name": name, "id": snapshot.id, "depends": True}
    return _Made(plan, origin, {"source": name}, size_bytes=snapshot.size_bytes)


def _from_volume(core: Core, tx: Connection, actor: Actor, name: str, project: str | None) -> _Made:
    """Through a snapshot that is there as long as the operation is."""
    held = held_volume(tx, project_for(tx, actor, project), name)
    require_ready("volume", held.volume)
    snapshot_id = new_id()
    snapshot = Snapshot(
        id=snapshot_id,
        name=f"import-{snapshot_id}",
        project_id=held.volume.project_id,
        volume_id=held.volume.id,
        node_name=held.node.name if held.node else "",
        image_id=held.volume.image_id,
        state=ObjectState.CREATING,
        size_bytes=held.volume.size_bytes,
        created_at=core.now(),
    )
    made = _from_snapshot(PROMOTE_VOLUME, "volume", name, snapshot)
    args = {**made.args, "snapshot_id": snapshot_id, "volume_id": held.volume.id}
    return replace(made, args=args, snapshot=snapshot)


# ---- writing it down --------------------------------------------------------------------------------


def _owner(tx: Connection, actor: Actor, name: str, told: Told) -> str | None:
    """The id of the project that will own the image; None is the site, for administrators."""
    image_name(name)
    labels(told.labels)
    if told.public is not None and not actor.is_admin:
        raise ForbiddenError("Only an administrator may make an image public.", remedy="Leave --public out.")
    return None if actor.is_admin and not told.project else project_for(tx, actor, told.project).id


def _record(
    core: Core, tx: Connection, actor: Actor, name: str, told: Told, made: _Made, key: str | None
) -> OperationView:
    owner = _owner(tx, actor, name, told)
    version, before = _next_version(tx, name, owner)
    image_id, now = made.id or new_id(), core.now()
    # Of a file only its own size is known; that of the disk in it is found, and counted, by the import.
    known_size = made.size_bytes if made.plan in {PROMOTE_IMAGE, PROMOTE_VOLUME} else None
    require_open(tx, owner)
    quotas.require(tx, owner, quotas.Amount(images=1, image_bytes=made.size_bytes or 0))
    was_public = before.public if before else False
    image = Image(
        id=image_id,
        name=name,
        project_id=owner,
        # An image of the site is everybody's: no project could use it otherwise.
        public=owner is None or (was_public if told.public is None else told.public),
        state=ObjectState.CREATING,
        format=made.format,
        size_bytes=known_size,
        sha256=made.sha256,
        boot=None,
        created_at=now,
        version=version,
        last_version=version,
        description=(before.description if before else "") if told.description is None else told.description,
        labels=labels(told.labels),
        origin=made.origin,
        created_by=actor.name,
    )
    try:
        records.images.insert(tx, image)
    except AlreadyExistsError as error:
        raise BusyError(
            f"Another request has just made an image {name!r}.", remedy="Try again in a moment."
        ) from error
    if before:
        _share_like(tx, before, image)
    if made.snapshot:
        records.snapshots.insert(tx, made.snapshot)
    args = {"image": title(image), **made.args}
    subject = ("image", image.id, name)
    return enqueue(core, tx, actor, made.plan, subject, project_id=owner, args=args, key=key)


def _next_version(tx: Connection, name: str, owner: str | None) -> tuple[int, Image | None]:
    """The number of the next version, and the newest one before. Its rows stay locked, so that two requests
    get two numbers.
    """
    column = schema.images.c.last_version
    records.images.update(tx, name=name, project_id=owner, values={"last_version": column + 1})
    versions = versions_of(tx, name, owner)
    number = max((version.last_version for version in versions), default=1)
    records.images.update(tx, name=name, project_id=owner, values={"last_version": number})
    return number, versions[-1] if versions else None


def _share_like(tx: Connection, before: Image, image: Image) -> None:
    shares = schema.image_shares
    others = list(tx.scalars(select(shares.c.project_id).where(shares.c.image_id == before.id)))
    if others:
        tx.execute(insert(shares), [{"image_id": image.id, "project_id": other} for other in others])
