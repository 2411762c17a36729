"""The audit log."""

from typing import Annotated

from fastapi import APIRouter, Query

from bmi.api.deps import ActorDep, BoundsDep, CoreDep
from bmi.api.models import Page
from bmi.api.people_models import AuditEntryShown
from bmi.api.problems import documented
from bmi.errors import InvalidInputError
from bmi.service import audit

router = APIRouter(prefix="/audit", tags=["audit"])

_MAX_ID = (1 << 31) - 1


@router.get("", summary="Who did what, or was refused it; newest first", responses=documented(401, 403, 422))
def list_audit(
    core: CoreDep,
    actor: ActorDep,
    bounds: BoundsDep,
    by: Annotated[str | None, Query(max_length=100, description="Only of this actor.")] = None,
    refused: Annotated[bool, Query(description="Only what was refused.")] = False,
) -> Page[AuditEntryShown]:
    before = bounds.after or str(_MAX_ID)
    if not (before.isascii() and before.isdigit() and int(before) <= _MAX_ID):
        raise InvalidInputError("after", f"{before!r} is not an entry.", remedy="Give `next` of a page.")
    found = audit.list_entries(core, actor, by=by, refused=refused, before=int(before), limit=bounds.fetch)
    return Page[AuditEntryShown].of(bounds, found, lambda entry: str(entry.id), AuditEntryShown.of)
