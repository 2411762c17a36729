"""Images."""

from pathlib import Path
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request, Response

from bmi.api import uploads
from bmi.api.deps import (
    ActorDep,
    BoundsDep,
    CoreDep,
    IdempotencyKey,
    ProjectQuery,
    UploadsDir,
    accepted,
)
from bmi.api.models import ImageShown, OperationShown, Page
from bmi.api.problems import documented
from bmi.domain.nouns import Actor
from bmi.service import images
from bmi.service.core import Core, OperationView

router = APIRouter(prefix="/images", tags=["images"])

_FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


@router.get("", summary="The images that the caller may use, oldest first", responses=documented(401, 422))
def list_images(core: CoreDep, actor: ActorDep, bounds: BoundsDep) -> Page[ImageShown]:
    found = images.list_images(core, actor, after=bounds.after, limit=bounds.fetch)
    return Page[ImageShown].of(bounds, found, lambda view: view.image.id, ImageShown.of)


@router.post(
    "",
    status_code=202,
    summary="Import a disk image, raw or qcow2; the request's body is the file",
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
        bool,
        Query(
            description="Usable by every project, as an image without a project always is; for administrators."
        ),
    ] = False,
    key: IdempotencyKey = None,
) -> OperationShown:
    earlier = await run_sync(
        lambda: images.check_import(core, actor, name, project=project, public=public, key=key)
    )
    if earlier:
        return OperationShown.of(actor, accepted(response, earlier))
    max_bytes = core.settings.image.max_size_gib << 30
    uploads.check_announced(request, directory, max_bytes)
    with uploads.Upload(directory) as upload:
        await uploads.receive(request, upload, max_bytes)
        view = await run_sync(
            lambda: _take_in(core, actor, name, upload, project=project, public=public, key=key)
        )
    return OperationShown.of(actor, accepted(response, view))


def _take_in(
    core: Core,
    actor: Actor,
    name: str,
    upload: uploads.Upload,
    *,
    project: str | None,
    public: bool,
    key: str | None,
) -> OperationView:
    """Gives the file its name, then records the import; a worker may begin in the same moment."""
    upload_id = images.new_upload_id()
    path = upload.keep(upload_id)
    view: OperationView | None = None
    try:
        view = images.import_image(
            core,
            actor,
            name,
            upload_id=upload_id,
            sha256=upload.sha256,
            project=project,
            public=public,
            key=key,
        )
        return view
    finally:
        _forget_unused(path, view)


def _forget_unused(path: Path, view: OperationView | None) -> None:
    """Removes the file when nothing was recorded, or when a request with the same key was faster."""
    if view is None or view.operation.subject_id != path.name:
        path.unlink(missing_ok=True)


@router.get("/{name}", summary="One image", responses=documented(401, 403, 404, 422))
def get_image(core: CoreDep, actor: ActorDep, name: str, project: ProjectQuery = None) -> ImageShown:
    return ImageShown.of(images.get_image(core, actor, name, project=project))


@router.delete(
    "/{name}",
    status_code=202,
    summary="Remove an image that nothing depends on",
    responses=documented(401, 403, 404, 409, 422),
)
def delete_image(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    response: Response,
    project: ProjectQuery = None,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = images.delete_image(core, actor, name, project=project, key=key)
    return OperationShown.of(actor, accepted(response, view))
