"""The service beside BMI that nodes are taken from."""

from fastapi import APIRouter, Response

from bmi.api.deps import ActorDep, CoreDep, IdempotencyKey, accepted
from bmi.api.models import OperationShown
from bmi.api.problems import documented
from bmi.service import inventory

router = APIRouter(prefix="/nodes", tags=["nodes"])


@router.post(
    "/sync",
    status_code=202,
    summary="Register the nodes of the service that nodes are taken from; the operation's step has the result",
    responses=documented(401, 403, 409),
)
def sync_nodes(
    core: CoreDep, actor: ActorDep, response: Response, key: IdempotencyKey = None
) -> OperationShown:
    return OperationShown.of(actor, accepted(response, inventory.sync_nodes(core, actor, key=key)))
