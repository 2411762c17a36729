"""Tokens."""

from fastapi import APIRouter

from bmi.api.bodies import CreateToken
from bmi.api.deps import ActorDep, BoundsDep, CoreDep
from bmi.api.models import Page
from bmi.api.people_models import NewTokenShown, TokenShown
from bmi.api.problems import documented
from bmi.service import access

router = APIRouter(prefix="/tokens", tags=["tokens"])


@router.get(
    "",
    summary="The tokens of who has logged in, or all for an administrator, or the one that asks; without secrets",
    responses=documented(401, 422),
)
def list_tokens(core: CoreDep, actor: ActorDep, bounds: BoundsDep) -> Page[TokenShown]:
    found = access.list_tokens(core, actor, after=bounds.after, limit=bounds.fetch)
    return Page[TokenShown].of(bounds, found, lambda view: view.token.id, TokenShown.of)


@router.post(
    "",
    status_code=201,
    summary="Create a token; its secret is shown this once",
    responses=documented(401, 403, 404, 409, 422),
)
def create_token(core: CoreDep, actor: ActorDep, body: CreateToken) -> NewTokenShown:
    new = access.create_token(
        core,
        actor,
        body.name,
        project=body.project,
        role=body.role,
        lifetime_s=body.lifetime_s,
        own=body.own,
    )
    return NewTokenShown.of_new(new, access.view_of(core, new.token))


@router.delete(
    "/{name}",
    status_code=204,
    summary="End a token at once, by its name or its id",
    responses=documented(401, 404, 422),
)
def revoke_token(core: CoreDep, actor: ActorDep, name: str) -> None:
    access.revoke_token(core, actor, name)
