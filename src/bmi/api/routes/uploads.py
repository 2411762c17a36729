"""Resumable uploads: tus 1.0.0 (tus.io), core with the extensions creation, expiration and termination."""

import base64
import binascii
from email.utils import formatdate
from typing import Annotated

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, Query, Request, Response

from bmi.api import uploads
from bmi.api.deps import ActorDep, CoreDep, IntakeDep, ProjectQuery, UploadsDir
from bmi.api.image_models import UploadShown
from bmi.api.intake import Intake, Writer, receive
from bmi.api.problems import documented
from bmi.api.routes.images import ShaQuery, wrong_checksum
from bmi.domain.nouns import Actor, Upload
from bmi.errors import InvalidInputError, UnsupportedMediaTypeError, UnsupportedVersionError
from bmi.service import image_sources
from bmi.service import uploads as service
from bmi.service.core import Core
from bmi.service.image_sources import Told

router = APIRouter(prefix="/uploads", tags=["uploads"])

_VERSION = "1.0.0"
_MEDIA_TYPE = "application/offset+octet-stream"
_BYTES = {_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}

_Length = Annotated[int, Header(alias="Upload-Length", ge=0, le=1 << 62, description="The size of the file.")]
_Offset = Annotated[
    int, Header(alias="Upload-Offset", ge=0, description="Where in the file the body begins.")
]
_Metadata = Annotated[
    str, Header(alias="Upload-Metadata", max_length=4000, description="`filename` and its base64.")
]
_Version = Annotated[str, Header(alias="Tus-Resumable")]


def _check_version(said: str) -> None:
    if said != _VERSION:
        raise UnsupportedVersionError(
            f"tus {said[:20]} is not spoken here.", remedy=f"Send Tus-Resumable: {_VERSION}."
        )


def _filename(metadata: str) -> str:
    """The file's name in `key base64,key base64` (tus 1.0.0, creation)."""
    for pair in metadata.split(","):
        key, _, value = pair.strip().partition(" ")
        if key == "filename":
            try:
                return base64.b64decode(value, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError) as error:
                raise InvalidInputError(
                    "Upload-Metadata", "the file name is not base64.", remedy="Encode it, or leave it out."
                ) from error
    return ""


def _say(response: Response, upload: Upload, offset: int) -> None:
    response.headers["Upload-Offset"] = str(offset)
    response.headers["Upload-Length"] = str(upload.size_bytes)
    response.headers["Upload-Expires"] = formatdate(upload.expires_at, usegmt=True)


@router.options("", include_in_schema=False)
def describe_uploads(core: CoreDep) -> Response:
    return Response(
        status_code=204,
        headers={
            "Tus-Version": _VERSION,
            "Tus-Extension": "creation,expiration,termination",
            "Tus-Max-Size": str(core.settings.image.max_size_gib << 30),
        },
    )


@router.post(
    "",
    status_code=201,
    summary="Begin an upload in pieces (tus 1.0.0); Location says where they go",
    responses=documented(401, 403, 404, 409, 413, 422, 507),
)
def create_upload(
    core: CoreDep,
    actor: ActorDep,
    directory: UploadsDir,
    response: Response,
    length: _Length,
    metadata: _Metadata = "",
    sha256: ShaQuery = None,
    name: Annotated[
        str | None,
        Query(max_length=100, description="The image that it will be: what would be refused then is now."),
    ] = None,
    project: ProjectQuery = None,
    version: _Version = _VERSION,
) -> UploadShown:
    _check_version(version)
    if name is not None:
        image_sources.check_import(core, actor, name, Told(project=project), size_bytes=length)
    # What is too large here is too large for any disk.
    service.check_size(core, length)
    uploads.check_room(directory, length)
    upload = service.create_upload(core, actor, length, name=_filename(metadata), sha256=sha256)
    response.headers["Location"] = f"/v1/uploads/{upload.id}"
    _say(response, upload, 0)
    return UploadShown.of(upload, 0)


@router.get(
    "/{upload_id}",
    summary="An upload of the caller's token; HEAD tells the same in headers",
    responses=documented(401, 404),
)
def get_upload(
    core: CoreDep, actor: ActorDep, intake: IntakeDep, response: Response, upload_id: str
) -> UploadShown:
    upload = service.get_upload(core, actor, upload_id)
    offset = intake.offset(upload.id)
    _say(response, upload, offset)
    return UploadShown.of(upload, offset)


router.head("/{upload_id}", include_in_schema=False)(get_upload)


@router.patch(
    "/{upload_id}",
    status_code=204,
    summary="Send the next piece; what has come stays when the connection breaks",
    responses=documented(401, 404, 409, 413, 422, 507),
    openapi_extra={"requestBody": {"required": True, "content": _BYTES}},
)
async def append_upload(
    request: Request,
    core: CoreDep,
    actor: ActorDep,
    intake: IntakeDep,
    response: Response,
    upload_id: str,
    offset: _Offset,
    version: _Version = _VERSION,
) -> None:
    _check_version(version)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    upload = await run_sync(service.get_upload, core, actor, upload_id)
    if media_type != _MEDIA_TYPE:
        raise UnsupportedMediaTypeError(
            f"Content-Type {media_type[:80]!r} is not known here.", remedy=f"Use {_MEDIA_TYPE}."
        )
    with await run_sync(intake.writer, upload.id, offset, upload.size_bytes) as writer:
        try:
            await receive(request, writer)
        finally:
            noted = await run_sync(service.note_progress, core, upload)
        if writer.is_complete:
            await run_sync(_complete, core, actor, intake, upload, writer)
        _say(response, noted, writer.position)


def _complete(core: Core, actor: Actor, intake: Intake, upload: Upload, writer: Writer) -> None:
    """All has come: what it is from now on is fixed, or it is forgotten if it is not what was announced."""
    found = writer.finish()
    if upload.expected_sha256 and found != upload.expected_sha256:
        service.delete_upload(core, actor, upload.id)
        intake.remove(upload.id)
        raise wrong_checksum(found)
    service.note_progress(core, upload, sha256=found)


@router.delete("/{upload_id}", status_code=204, summary="Give an upload up", responses=documented(401, 404))
def delete_upload(core: CoreDep, actor: ActorDep, intake: IntakeDep, upload_id: str) -> None:
    service.delete_upload(core, actor, upload_id)
    intake.remove(upload_id)
