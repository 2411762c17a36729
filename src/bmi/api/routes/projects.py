"""Projects."""

from fastapi import APIRouter, Response

from bmi.api.bodies import CreateProject, Quota
from bmi.api.deps import ActorDep, BoundsDep, CoreDep, IdempotencyKey, accepted
from bmi.api.models import OperationShown, Page, ProjectShown
from bmi.api.problems import documented
from bmi.api.storage_models import UsageShown
from bmi.service import projects, quotas

router = APIRouter(prefix="/projects", tags=["projects"])


@router.get("", summary="The projects, by name", responses=documented(401, 422))
def list_projects(core: CoreDep, actor: ActorDep, bounds: BoundsDep) -> Page[ProjectShown]:
    found = projects.list_projects(core, actor, after=bounds.after, limit=bounds.fetch)
    return Page[ProjectShown].of(bounds, found, lambda view: view.project.name, ProjectShown.of)


@router.post(
    "",
    status_code=202,
    summary="Create a project and open its boot network",
    responses=documented(401, 403, 409, 422),
)
def create_project(
    core: CoreDep, actor: ActorDep, body: CreateProject, response: Response, key: IdempotencyKey = None
) -> OperationShown:
    view = projects.create_project(
        core, actor, body.name, vlan=body.vlan, address=body.address, claims_as=body.claims_as, key=key
    )
    return OperationShown.of(actor, accepted(response, view))


@router.get("/{name}", summary="One project", responses=documented(401, 404))
def get_project(core: CoreDep, actor: ActorDep, name: str) -> ProjectShown:
    return ProjectShown.of(projects.get_project(core, actor, name))


@router.delete(
    "/{name}",
    status_code=202,
    summary="Close a project's network and forget the project",
    responses=documented(401, 403, 404, 409),
)
def delete_project(
    core: CoreDep, actor: ActorDep, name: str, response: Response, key: IdempotencyKey = None
) -> OperationShown:
    return OperationShown.of(actor, accepted(response, projects.delete_project(core, actor, name, key=key)))


@router.get("/{name}/usage", summary="What a project holds and may hold", responses=documented(401, 404))
def project_usage(core: CoreDep, actor: ActorDep, name: str) -> UsageShown:
    return UsageShown.of(quotas.project_usage(core, actor, name))


@router.patch("/{name}/quota", summary="Change a project's limits", responses=documented(401, 403, 404, 422))
def set_quota(core: CoreDep, actor: ActorDep, name: str, body: Quota) -> UsageShown:
    return UsageShown.of(quotas.set_quota(core, actor, name, body.model_dump(exclude_unset=True)))
