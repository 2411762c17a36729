"""Snapshots; they are made at /v1/nodes/{name}/snapshots and /v1/volumes/{name}/snapshots."""

from fastapi import APIRouter, Response

from bmi.api.bodies import Rename
from bmi.api.deps import ActorDep, BoundsDep, CoreDep, IdempotencyKey, ProjectQuery, accepted
from bmi.api.models import OperationShown, Page
from bmi.api.problems import documented
from bmi.api.storage_models import SnapshotShown
from bmi.service import snapshots

router = APIRouter(prefix="/snapshots", tags=["snapshots"])


@router.get("", summary="The snapshots of the caller's project, oldest first", responses=documented(401, 422))
def list_snapshots(core: CoreDep, actor: ActorDep, bounds: BoundsDep) -> Page[SnapshotShown]:
    found = snapshots.list_snapshots(core, actor, after=bounds.after, limit=bounds.fetch)
    return Page[SnapshotShown].of(bounds, found, lambda view: view.snapshot.id, SnapshotShown.of)


@router.get("/{name}", summary="One snapshot", responses=documented(401, 403, 404, 422))
def get_snapshot(core: CoreDep, actor: ActorDep, name: str, project: ProjectQuery = None) -> SnapshotShown:
    return SnapshotShown.of(snapshots.get_snapshot(core, actor, name, project=project))


@router.patch("/{name}", summary="Rename a snapshot", responses=documented(401, 403, 404, 409, 422))
def rename_snapshot(
    core: CoreDep, actor: ActorDep, name: str, body: Rename, project: ProjectQuery = None
) -> SnapshotShown:
    return SnapshotShown.of(snapshots.rename_snapshot(core, actor, name, body.name, project=project))


@router.delete(
    "/{name}",
    status_code=202,
    summary="Remove a snapshot that nothing depends on",
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
    view = snapshots.delete_snapshot(core, actor, name, project=project, key=key)
    return OperationShown.of(actor, accepted(response, view))
