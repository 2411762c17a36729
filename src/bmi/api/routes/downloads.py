"""Images as files: prepared by an operation, then served with ranges and a checksum."""

import base64
import os
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse

from bmi.api.bodies import PrepareDownload
from bmi.api.deps import ActorDep, CoreDep, IdempotencyKey, ProjectQuery, accepted
from bmi.api.models import OperationShown
from bmi.api.problems import documented
from bmi.service import image_files

router = APIRouter(prefix="/images/{name}", tags=["images"])

_FILE = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
FormatQuery = Annotated[str, Query(alias="format", max_length=10, description="qcow2 or raw.")]


@router.post(
    "/downloads",
    status_code=202,
    summary="Prepare an image for download; it is kept for a day after it was last fetched",
    responses=documented(401, 403, 404, 409, 422),
)
def prepare_download(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    body: PrepareDownload,
    response: Response,
    project: ProjectQuery = None,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = image_files.prepare_download(core, actor, name, body.format, project=project, key=key)
    return OperationShown.of(actor, accepted(response, view))


@router.get(
    "/content",
    summary="The file of a prepared image, or ranges of it; Repr-Digest is its checksum (RFC 9530)",
    response_class=FileResponse,
    responses=documented(401, 403, 404, 409, 422) | {200: {"content": _FILE}, 206: {"content": _FILE}},
)
def get_content(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    image_format: FormatQuery = "qcow2",
    project: ProjectQuery = None,
) -> FileResponse:
    found = image_files.find_download(core, actor, name, image_format, project=project)
    # Whoever fetches it keeps it alive.
    with suppress(FileNotFoundError):
        os.utime(found.path)
    digest = base64.b64encode(bytes.fromhex(found.sha256)).decode()
    headers = {"ETag": f'"{found.sha256}"', "Repr-Digest": f"sha-256=:{digest}:"}
    return FileResponse(
        found.path, media_type="application/octet-stream", filename=found.name, headers=headers
    )


router.head("/content", include_in_schema=False)(get_content)
