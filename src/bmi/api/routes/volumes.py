"""Volumes: the disks of nodes, attached or not."""

from fastapi import APIRouter, Response

from bmi.api.bodies import CreateSnapshot, Diff, Rename, RollBack
from bmi.api.deps import ActorDep, BoundsDep, CoreDep, IdempotencyKey, ProjectQuery, accepted
from bmi.api.models import OperationShown, Page
from bmi.api.problems import documented
from bmi.api.storage_models import VolumeShown
from bmi.service import snapshots, volumes

router = APIRouter(prefix="/volumes", tags=["volumes"])


@router.get("", summary="The volumes of the caller's project, oldest first", responses=documented(401, 422))
def list_volumes(core: CoreDep, actor: ActorDep, bounds: BoundsDep) -> Page[VolumeShown]:
    found = volumes.list_volumes(core, actor, after=bounds.after, limit=bounds.fetch)
    return Page[VolumeShown].of(bounds, found, lambda view: view.volume.id, VolumeShown.of)


@router.post(
    "/diff",
    status_code=202,
    summary="Compare two volumes, snapshots or images; the operation's step has the result",
    responses=documented(401, 403, 404, 409, 422),
)
def diff(
    core: CoreDep,
    actor: ActorDep,
    body: Diff,
    response: Response,
    project: ProjectQuery = None,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = volumes.diff(core, actor, body.older, body.newer, project=project, key=key)
    return OperationShown.of(actor, accepted(response, view))


@router.get("/{name}", summary="One volume", responses=documented(401, 403, 404, 422))
def get_volume(core: CoreDep, actor: ActorDep, name: str, project: ProjectQuery = None) -> VolumeShown:
    return VolumeShown.of(volumes.get_volume(core, actor, name, project=project))


@router.patch("/{name}", summary="Rename a volume", responses=documented(401, 403, 404, 409, 422))
def rename_volume(
    core: CoreDep, actor: ActorDep, name: str, body: Rename, project: ProjectQuery = None
) -> VolumeShown:
    return VolumeShown.of(volumes.rename_volume(core, actor, name, body.name, project=project))


@router.delete(
    "/{name}",
    status_code=202,
    summary="Remove a volume that no node has",
    responses=documented(401, 403, 404, 409, 422),
)
def delete_volume(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    response: Response,
    project: ProjectQuery = None,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = volumes.delete_volume(core, actor, name, project=project, key=key)
    return OperationShown.of(actor, accepted(response, view))


@router.post(
    "/{name}/flatten",
    status_code=202,
    summary="Make a volume independent of what it was cloned from",
    responses=documented(401, 403, 404, 409, 422),
)
def flatten_volume(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    response: Response,
    project: ProjectQuery = None,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = volumes.flatten_volume(core, actor, name, project=project, key=key)
    return OperationShown.of(actor, accepted(response, view))


@router.post(
    "/{name}/roll-back",
    status_code=202,
    summary="Give a detached volume the bytes of a snapshot",
    responses=documented(401, 403, 404, 409, 422),
)
def roll_back_volume(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    body: RollBack,
    response: Response,
    project: ProjectQuery = None,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = volumes.roll_back_volume(
        core, actor, name, body.snapshot, project=project, force=body.force, key=key
    )
    return OperationShown.of(actor, accepted(response, view))


@router.post(
    "/{name}/snapshots",
    status_code=202,
    summary="Freeze a volume, whether a node has it or not",
    responses=documented(401, 403, 404, 409, 422),
)
def create_volume_snapshot(
    core: CoreDep,
    actor: ActorDep,
    name: str,
    body: CreateSnapshot,
    response: Response,
    project: ProjectQuery = None,
    key: IdempotencyKey = None,
) -> OperationShown:
    view = snapshots.create_volume_snapshot(core, actor, name, body.name, project=project, key=key)
    return OperationShown.of(actor, accepted(response, view))
