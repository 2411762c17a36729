"""Users, and the members of projects."""

from fastapi import APIRouter

from bmi.api.bodies import ChangeUser, CreateUser, SetMember, SetPassword
from bmi.api.deps import ActorDep, BoundsDep, CoreDep
from bmi.api.models import Page
from bmi.api.people_models import MemberShown, UserShown
from bmi.api.problems import documented
from bmi.service import users

router = APIRouter(tags=["users"])


@router.get("/users", summary="The users, by name", responses=documented(401, 403, 422))
def list_users(core: CoreDep, actor: ActorDep, bounds: BoundsDep) -> Page[UserShown]:
    found = users.list_users(core, actor, after=bounds.after, limit=bounds.fetch)
    return Page[UserShown].of(bounds, found, lambda view: view.user.name, UserShown.of)


@router.post("/users", status_code=201, summary="Make a user known", responses=documented(401, 403, 409, 422))
def create_user(core: CoreDep, actor: ActorDep, body: CreateUser) -> UserShown:
    password = body.password.get_secret_value() if body.password else None
    return UserShown.of(users.create_user(core, actor, body.name, admin=body.admin, password=password))


@router.get("/users/{name}", summary="One user", responses=documented(401, 403, 404))
def get_user(core: CoreDep, actor: ActorDep, name: str) -> UserShown:
    return UserShown.of(users.get_user(core, actor, name))


@router.patch(
    "/users/{name}",
    summary="Change what a user is, or whether they may log in",
    responses=documented(401, 403, 404, 409, 422),
)
def change_user(core: CoreDep, actor: ActorDep, name: str, body: ChangeUser) -> UserShown:
    link = (body.link.issuer, body.link.subject) if body.link else None
    return UserShown.of(
        users.change_user(core, actor, name, admin=body.admin, disabled=body.disabled, link=link)
    )


@router.put(
    "/users/{name}/password",
    status_code=204,
    summary="Set a user's password; ends their logins and a lock-out",
    responses=documented(401, 403, 404, 422),
)
def set_password(core: CoreDep, actor: ActorDep, name: str, body: SetPassword) -> None:
    password = body.password.get_secret_value() if body.password else None
    users.set_password(core, actor, name, password, end_tokens=body.end_tokens)


@router.delete(
    "/users/{name}/lock",
    status_code=204,
    summary="Forgive a user's failed logins",
    responses=documented(401, 403, 404),
)
def unlock_user(core: CoreDep, actor: ActorDep, name: str) -> None:
    users.unlock_user(core, actor, name)


@router.get("/projects/{name}/members", summary="Who is in a project", responses=documented(401, 404, 422))
def list_members(core: CoreDep, actor: ActorDep, name: str, bounds: BoundsDep) -> Page[MemberShown]:
    found = users.list_members(core, actor, name, after=bounds.after, limit=bounds.fetch)
    return Page[MemberShown].of(bounds, found, lambda view: view.user, MemberShown.of)


@router.put(
    "/projects/{name}/members/{user}",
    summary="Make a user a member or a reader of a project",
    responses=documented(401, 403, 404, 422),
)
def set_member(core: CoreDep, actor: ActorDep, name: str, user: str, body: SetMember) -> MemberShown:
    return MemberShown.of(users.set_member(core, actor, name, user, body.role))


@router.delete(
    "/projects/{name}/members/{user}",
    status_code=204,
    summary="Take a user out of a project",
    responses=documented(401, 403, 404, 409),
)
def remove_member(core: CoreDep, actor: ActorDep, name: str, user: str) -> None:
    users.remove_member(core, actor, name, user)
