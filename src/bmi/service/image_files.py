"""Images that leave: prepared for download, and written beside BMI's own into the store."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from bmi.domain.nouns import Actor
from bmi.domain.plans import PREPARE_DOWNLOAD, PUBLISH_IMAGE
from bmi.errors import InvalidInputError, InvalidStateError
from bmi.service.core import Core, OperationView, enqueue, locked_image, replayed, require_admin
from bmi.service.image_names import meant_image, title
from bmi.service.volumes import require_ready
from bmi.store.ids import new_id

Format = Literal["qcow2", "raw"]


@dataclass(frozen=True)
class Prepared:
    """A file that can be downloaded; its checksum is part of its name."""

    path: Path
    sha256: str
    name: str


def prepare_download(
    core: Core,
    actor: Actor,
    name: str,
    format_name: str,
    *,
    project: str | None = None,
    key: str | None = None,
) -> OperationView:
    """Writes an image that the actor may use as one file, to be downloaded before it expires."""
    wanted = _format(format_name)
    with core.write() as tx:
        earlier = replayed(tx, actor, key, PREPARE_DOWNLOAD.kind, name)
        if earlier:
            return earlier
        image = locked_image(tx, meant_image(tx, actor, name, project))
        require_ready("image", image)
        # Whoever else prepares the same image is not in the way: each makes the same file.
        return enqueue(
            core,
            tx,
            actor,
            PREPARE_DOWNLOAD,
            ("download", new_id(), name),
            project_id=actor.project_id,
            args={"image": title(image), "image_id": image.id, "format": wanted},
            key=key,
        )


def find_download(
    core: Core, actor: Actor, name: str, format_name: str, *, project: str | None = None
) -> Prepared:
    """The prepared file of an image that the actor may use; raises InvalidStateError when there is none."""
    wanted = _format(format_name)
    with core.database.read() as tx:
        image = meant_image(tx, actor, name, project)
    directory = core.settings.server.data_dir / "downloads"
    for path in sorted(directory.glob(f"{image.id}.*.{wanted}")):
        return Prepared(path, path.name.split(".")[1], f"{image.name}-{image.version}.{wanted}")
    raise InvalidStateError(
        f"The image {title(image)!r} is not prepared for download as {wanted}.",
        remedy="Prepare it first: POST /v1/images/NAME/downloads. `bmi image download` does both.",
    )


def _format(said: str) -> Format:
    if said not in get_args(Format):
        raise InvalidInputError("format", f"{said!r} is not known.", remedy="Use qcow2 or raw.")
    return cast("Format", said)


def publish_image(
    core: Core, actor: Actor, name: str, location: str, *, project: str | None = None, key: str | None = None
) -> OperationView:
    """Writes an independent copy of an image into the store under a name that is not BMI's; for
    administrators.
    """
    require_admin(actor)
    with core.write() as tx:
        earlier = replayed(tx, actor, key, PUBLISH_IMAGE.kind, name)
        if earlier:
            return earlier
        image = locked_image(tx, meant_image(tx, actor, name, project))
        require_ready("image", image)
        return enqueue(
            core,
            tx,
            actor,
            PUBLISH_IMAGE,
            ("image", image.id, name),
            project_id=image.project_id,
            args={"image": title(image), "location": location},
            key=key,
        )
