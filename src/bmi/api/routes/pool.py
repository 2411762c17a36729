"""The pool of free nodes."""

from fastapi import APIRouter

from bmi.api.bodies import Allocate
from bmi.api.deps import ActorDep, CoreDep, IdempotencyKey
from bmi.api.models import AllocationShown, PoolShown
from bmi.api.problems import documented
from bmi.service import allocation

router = APIRouter(prefix="/pool", tags=["nodes"])


@router.get("", summary="How many nodes are free, by their labels", responses=documented(401))
def show_pool(core: CoreDep) -> PoolShown:
    return PoolShown.of(allocation.pool(core))


@router.post(
    "/allocate",
    status_code=201,
    summary="Give free nodes to a project: as many as asked for, or none",
    responses=documented(401, 403, 404, 409, 422),
)
def allocate_nodes(
    core: CoreDep, actor: ActorDep, body: Allocate, key: IdempotencyKey = None
) -> AllocationShown:
    made = allocation.allocate_nodes(
        core, actor, body.count, labels=body.labels, project=body.project, key=key
    )
    return AllocationShown.of(actor, made)
