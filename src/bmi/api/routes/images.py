"""Images."""

from pathlib import Path
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request, Response

from bmi.api import uploads
from bmi.api.bodies import ChangeImage, ImportImage, MoveImage, PublishImage
from bmi.api.deps import (
    ActorDep,
    BoundsDep,
    CoreDep,
    IdempotencyKey,
    OwnerQuery,
    ProjectQuery,
    UploadsDir,
    accepted,
)
from bmi.api.image_models import ImageShown
from bmi.api.models import OperationShown, Page
from bmi.api.problems import documented
from bmi.domain.names import sha256 as checked_sha256
from bmi.domain.nouns import Actor
from bmi.errors import InvalidImageError, InvalidInputError
from bmi.service import image_files, image_sources, images
from bmi.service.core import Core, OperationView
from bmi.service.image_sources import Source, Told
from bmi.service.uploads import file_name, new_upload_id

router = APIRouter(tags=["images"])

_FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

ShaQuery = Annotated[
    str | None, Query(max_length=64, description="SHA-256 that the file must have.", pattern="^[0-9A-Fa-f]*$")
]


@router.get(
    "/images", summary="The images that the caller may use, oldest first", responses=documented(401, 422)
)
def list_images(
    core: CoreDep,
    actor: ActorDep,
    bounds: BoundsDep,
    name: Annotated[str | None, Query(max_length=100, description="Only this image.")] = None,
    label: Annotated[
        list[str], Query(max_length=64, description="Only images with this label, as KEY=VALUE; repeatable.")
    ] = [],  # noqa: B006  # FastAPI copies it
    all_versions: Annotated[
        bool, Query(description="All versions, not only what the name alone means.")
    ] = False,
) -> Page[ImageShown]:
    wanted = images.Filter(name, dict(_label(said) for said in label), all_versions)
    found = images.list_images(core, actor, wanted, after=bounds.after, limit=bounds.fetch)
    return Page[ImageShown].of(bounds, found, lambda view: view.image.id, ImageShown.of)


def _label(said: str) -> tuple[str, str]:
    key, equals, value = said.partition("=")
    if not equals or "\0" in said:
        raise InvalidInputError("label", f"{said!r} is no label.", remedy="Write KEY=VALUE.")
    return key, value


# ---- making -----------------------------------------------------------------------------------------


@router.post(
    "/images",
    status_code=202,
    summary="Import a disk image in one piece; the request's body is the file",
    responses=documented(401, 403, 404, 409, 413, 422, 507),
    openapi_extra={"requestBody": {"required": True, "content": _FILE}},
)
async def import_image(
    request: Request,
    core: CoreDep,
    actor: ActorDep,
    directory: UploadsDir,
    response: Response,
    name: Annotated[str, Query(max_length=100)],
    project: ProjectQuery = None,
    public: Annotated[
        bool | None,
        Query(
            description="Usable by every project, as an image without a project always is; for administrators."
        ),
    ] = None,
    filename: Annotated[str, Query(max_length=1000, description="What the file is called.")] = "",
    sha256: ShaQuery = None,
    key: IdempotencyKey = None,
) -> OperationShown:
    told = Told(project=project, public=public)
    expected = checked_sha256(sha256) if sha256 else None
    announced = request.headers.get("content-length", "")
    size_bytes = int(announced) if announced.isdigit() else 0
    earlier = await run_sync(
        lambda: image_sources.check_import(core, actor, name, told, size_bytes=size_bytes, key=key)
    )
    if earlier:
        return OperationShown.of(actor, accepted(response, earlier))
    max_bytes = core.settings.image.max_size_gib << 30
    uploads.check_announced(request, directory, max_bytes)
    with uploads.Upload(directory) as upload:
        await uploads.receive(request, upload, max_bytes)
        if expected and upload.sha256 != expected:
            raise wrong_checksum(upload.sha256)
        view = await run_sync(
            lambda: _take_in(core, actor, name, told, upload, filename=file_name(filename), key=key)
        )
    return OperationShown.of(actor, accepted(response, view))


def wrong_checksum(found: str) -> InvalidImageError:
    """What is said of a file that came damaged, or is another one."""
    return InvalidImageError(
        f"sha256: the file that came has the checksum {found}.",
        remedy="Compare it with the publisher's, and upload it again.",
        field="sha256",
    )


def _take_in(
    core: Core,
    actor: Actor,
    name: str,
    told: Told,
    upload: uploads.Upload,
    *,
    filename: str,
    key: str | None,
) -> OperationView:
    """Gives the file its name, then records the import; a worker may begin in the same moment."""
    upload_id = new_upload_id()
    path = upload.keep(upload_id)
    view: OperationView | None = None
    try:
        view = image_sources.import_file(
            core,
            actor,
            name,
            told,
            upload_id=upload_id,
            file_name=filename,
            size_bytes=upload.size_bytes,
            sha256=upload.sha256,
            key=key,
        )
        return view
    finally:
        _forget_unused(path, view)


def _forget_unused(path: Path, view: OperationView | None) -> None:
    """Removes the file when nothing was recorded, or when a request with the same key was faster."""
    if view is None or view.operation.subject_id != path.name:
        path.unlink(missing_ok=True)


@router.post(
    "/imports",
    status_code=202,
    summary="Make an image from a complete upload, a URL, an image, a snapshot, a volume or the store's own",
    responses=documented(401, 403, 404, 409, 422),
)
def make_image(
    core: CoreDep, actor: ActorDep, body: ImportImage, response: Response, key: IdempotencyKey = None
) -> OperationShown:
    told = Told(body.project, body.public, body.description, body.labels)
    source = Source(**body.source.model_dump())
    view = image_sources.import_image(core, actor, body.name, source, told, key=key)
    return OperationShown.of(actor, accepted(response, view))


# ---- one image --------------------------------------------------------------------------------------


@router.get(
    "/images/{name}", summary="One image, NAME or NAME@VERSION", responses=documented(401, 403, 404, 422)
)
def get_image(core: CoreDep, actor: ActorDep, name: str, project: ProjectQuery = None) -> ImageShown:
    return ImageShown.of(images.get_image(core, actor, name, project=project))


@router.patch(
    "/images/{name}",
    summary="Describe, label, protect, publish or rename an image",
    responses=documented(401, 403, 404, 409, 422),
)
def change_image(
    core: CoreDep, actor: ActorDep, name: str, body: ChangeImage, project: ProjectQuery = None
) -> ImageShown:
    changes = images.Changes(**body.model_dump())
    return ImageShown.of(images.change_image(core, actor, name, changes, project=project))


@router.delete(
    "/images/{name}",
    status_code=202,
    summary="Remove a version of an image, or all, if nothing depends on it",
    responses=documented(401, 403, 404, 409, 422),
)
def delete_image(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    response: Response,
    project: ProjectQuery = None,
    all_versions: Annotated[bool, Query(description="All versions of the image.")] = False,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = images.delete_image(core, actor, name, project=project, all_versions=all_versions, key=key)
    return OperationShown.of(actor, accepted(response, view))


@router.put(
    "/images/{name}/shares/{other}",
    summary="Let the project `other` use an image",
    responses=documented(401, 403, 404, 422),
)
def share_image(
    core: CoreDep, actor: ActorDep, name: str, other: str, project: ProjectQuery = None
) -> ImageShown:
    return ImageShown.of(images.share_image(core, actor, name, other, shared=True, project=project))


@router.delete(
    "/images/{name}/shares/{other}",
    summary="Let the project `other`, perhaps the own one, use an image no more; what runs there goes on",
    responses=documented(401, 403, 404, 422),
)
def unshare_image(
    core: CoreDep, actor: ActorDep, name: str, other: str, project: ProjectQuery = None, of: OwnerQuery = None
) -> ImageShown:
    return ImageShown.of(images.share_image(core, actor, name, other, shared=False, project=project, of=of))


@router.post(
    "/images/{name}/move",
    summary="Give all versions of an image to another project, or to the site",
    responses=documented(401, 403, 404, 409, 422),
)
def move_image(
    core: CoreDep, actor: ActorDep, name: str, body: MoveImage, project: ProjectQuery = None
) -> ImageShown:
    return ImageShown.of(images.move_image(core, actor, name, body.to, project=project))


@router.post(
    "/images/{name}/flatten",
    status_code=202,
    summary="Make an image independent of what it was made from",
    responses=documented(401, 403, 404, 409, 422),
)
def flatten_image(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    response: Response,
    project: ProjectQuery = None,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = images.flatten_image(core, actor, name, project=project, key=key)
    return OperationShown.of(actor, accepted(response, view))


@router.post(
    "/images/{name}/publish",
    status_code=202,
    summary="Write an independent copy of an image into the Ceph store, beside BMI's own",
    responses=documented(401, 403, 404, 409, 422),
)
def publish_image(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    body: PublishImage,
    response: Response,
    project: ProjectQuery = None,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = image_files.publish_image(core, actor, name, body.location, project=project, key=key)
    return OperationShown.of(actor, accepted(response, view))
