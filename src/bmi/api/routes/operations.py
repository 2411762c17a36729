"""Operations: watched, cancelled, retried."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from bmi.api.deps import ActorDep, BoundsDep, CoreDep, accepted
from bmi.api.models import OperationShown, Page
from bmi.api.problems import documented
from bmi.service import operations

router = APIRouter(prefix="/operations", tags=["operations"])


@router.get("", summary="The operations, newest first", responses=documented(401, 422))
def list_operations(
    core: CoreDep,
    actor: ActorDep,
    bounds: BoundsDep,
    live: Annotated[bool, Query(description="Only those that have not ended.")] = False,
    subject: Annotated[str, Query(max_length=100, description="Only those on what is called so.")] = "",
) -> Page[OperationShown]:
    found = operations.list_operations(
        core, actor, live=live, subject=subject, before=bounds.after, limit=bounds.fetch
    )
    return Page[OperationShown].of(
        bounds, found, lambda view: view.operation.id, lambda view: OperationShown.of(actor, view)
    )


@router.get("/{operation_id}", summary="One operation with its steps", responses=documented(401, 404))
def get_operation(core: CoreDep, actor: ActorDep, operation_id: str) -> OperationShown:
    return OperationShown.of(actor, operations.get_operation(core, actor, operation_id))


@router.post(
    "/{operation_id}/cancel",
    status_code=202,
    summary="End an operation; what it did is undone",
    responses=documented(401, 403, 404, 409),
)
def cancel_operation(core: CoreDep, actor: ActorDep, operation_id: str, response: Response) -> OperationShown:
    view = operations.cancel_operation(core, actor, operation_id)
    return OperationShown.of(actor, accepted(response, view))


@router.post(
    "/{operation_id}/retry",
    status_code=202,
    summary="Go on with a failed operation where it failed",
    responses=documented(401, 403, 404, 409),
)
def retry_operation(core: CoreDep, actor: ActorDep, operation_id: str, response: Response) -> OperationShown:
    view = operations.retry_operation(core, actor, operation_id)
    return OperationShown.of(actor, accepted(response, view))
