"""Snapshots; they are made at /v1/nodes/{name}/snapshots."""

from fastapi import APIRouter, Response

from bmi.api.deps import ActorDep, BoundsDep, CoreDep, IdempotencyKey, ProjectQuery, accepted
from bmi.api.models import OperationShown, Page, SnapshotShown
from bmi.api.problems import documented
from bmi.service import images

router = APIRouter(prefix="/snapshots", tags=["snapshots"])


@router.get("", summary="The snapshots of the caller's project, oldest first", responses=documented(401, 422))
def list_snapshots(core: CoreDep, actor: ActorDep, bounds: BoundsDep) -> Page[SnapshotShown]:
    found = images.list_snapshots(core, actor, after=bounds.after, limit=bounds.fetch)
    return Page[SnapshotShown].of(bounds, found, lambda view: view.snapshot.id, SnapshotShown.of)


@router.get("/{name}", summary="One snapshot", responses=documented(401, 403, 404, 422))
def get_snapshot(core: CoreDep, actor: ActorDep, name: str, project: ProjectQuery = None) -> SnapshotShown:
    return SnapshotShown.of(images.get_snapshot(core, actor, name, project=project))


@router.delete(
    "/{name}",
    status_code=202,
    summary="Remove a snapshot that no node was provisioned from",
    responses=documented(401, 403, 404, 409, 422),
)
def delete_snapshot(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    response: Response,
    project: ProjectQuery = None,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = images.delete_snapshot(core, actor, name, project=project, key=key)
    return OperationShown.of(actor, accepted(response, view))
