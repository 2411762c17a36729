"""The store as a whole: what was made from what, and whether everything is there."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from bmi.api.bodies import CheckStorage
from bmi.api.deps import ActorDep, CoreDep, IdempotencyKey, ProjectQuery, accepted
from bmi.api.models import OperationShown
from bmi.api.problems import documented
from bmi.api.storage_models import KinShown, LineageShown
from bmi.service import lineage as family
from bmi.service import storage

router = APIRouter(tags=["storage"])


@router.get(
    "/lineage",
    summary="Images, volumes and snapshots by what they were made from",
    responses=documented(401, 403, 404, 422),
)
def lineage(
    core: CoreDep,
    actor: ActorDep,
    image: Annotated[
        str | None, Query(max_length=200, description="Only what comes of this image, or image@version.")
    ] = None,
    project: ProjectQuery = None,
) -> LineageShown:
    found = family.lineage(core, actor, image=image, project=project)
    return LineageShown(items=[KinShown.of(kin) for kin in found])


@router.post(
    "/storage/check",
    status_code=202,
    summary="Compare rows, store and exports; the operation's first step has the result",
    responses=documented(401, 403, 409, 422),
)
def check_storage(
    core: CoreDep, actor: ActorDep, body: CheckStorage, response: Response, key: IdempotencyKey = None
) -> OperationShown:
    view = storage.check_storage(core, actor, repair=body.repair, key=key)
    return OperationShown.of(actor, accepted(response, view))
