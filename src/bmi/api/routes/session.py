"""Logging in and out."""

from typing import Annotated
from urllib.parse import urlencode

from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from bmi.api.audit import address_of, tell
from bmi.api.bodies import BeginOidcLogin, ChangePassword, LogIn, RedeemOidcLogin
from bmi.api.deps import ActorDep, CoreDep
from bmi.api.people_models import NewTokenShown, OidcLoginShown
from bmi.api.problems import documented
from bmi.errors import BmiError, UnauthenticatedError
from bmi.service import access, login, oidc
from bmi.service.attempts import Attempt

router = APIRouter(tags=["login"])

_PAGE = (
    "<!doctype html><title>BMI</title><p>You are known. Copy this code into the terminal in which you ran "
    "<code>bmi login</code>, and show it to nobody else:<pre>{code}</pre>"
)


@router.post(
    "/login",
    status_code=201,
    summary="Log in with a password; the token is shown this once",
    responses=documented(401, 403, 422, 429),
)
def log_in(request: Request, core: CoreDep, body: LogIn) -> NewTokenShown:
    user = login.known(core, body.user)
    tell(request, user)
    attempt = Attempt(address_of(request.scope), body.user)
    new = login.log_in(core, attempt, body.password.get_secret_value(), project=body.project)
    return NewTokenShown.of_new(new, access.view_of(core, new.token))


@router.delete("/login", status_code=204, summary="End the login", responses=documented(401, 409))
def log_out(core: CoreDep, actor: ActorDep) -> None:
    login.log_out(core, actor)


@router.put(
    "/password",
    status_code=204,
    summary="Change one's own password; ends the other logins",
    responses=documented(401, 403, 422, 429),
)
def change_password(request: Request, core: CoreDep, actor: ActorDep, body: ChangePassword) -> None:
    login.change_password(
        core,
        actor,
        address_of(request.scope),
        body.current.get_secret_value(),
        body.new.get_secret_value(),
    )


@router.post(
    "/login/oidc",
    status_code=201,
    summary="Begin a login at the OpenID provider",
    responses=documented(409, 422, 429),
)
def begin_oidc_login(request: Request, core: CoreDep, body: BeginOidcLogin) -> OidcLoginShown:
    address = address_of(request.scope)
    return OidcLoginShown(url=oidc.begin(core, address, challenge=body.challenge, redirect=body.redirect))


@router.get(
    "/login/oidc/callback",
    summary="Where the OpenID provider sends the browser back to",
    response_class=HTMLResponse,
    responses=documented(401, 403, 409, 422)
    | {303: {"description": "On to the caller's own machine, with the code"}},
)
async def finish_oidc_login(
    request: Request,
    core: CoreDep,
    state: Annotated[str, Query(max_length=200)],
    code: Annotated[str, Query(max_length=4000)] = "",
    error: Annotated[str, Query(max_length=1000)] = "",
) -> Response:
    begun = await run_sync(oidc.find, core, state)
    try:
        if error or not code:
            raise UnauthenticatedError(
                "The OpenID provider let nobody in.", remedy="Begin again: bmi login --oidc."
            )
        finished = await run_sync(oidc.finish, core, begun, code)
    except BmiError as refusal:
        if not begun.redirect:
            raise
        tell(request, None, refusal)
        return RedirectResponse(f"{begun.redirect}?{urlencode({'problem': str(refusal)})}", 303)
    tell(request, finished.user)
    if finished.redirect:
        return RedirectResponse(f"{finished.redirect}?{urlencode({'code': finished.code})}", 303)
    return HTMLResponse(_PAGE.format(code=finished.code))


@router.post(
    "/login/oidc/token",
    status_code=201,
    summary="Log in with the code of a finished login; the token is shown this once",
    responses=documented(401, 403, 422, 429),
)
def redeem_oidc_login(request: Request, core: CoreDep, body: RedeemOidcLogin) -> NewTokenShown:
    user, new = oidc.redeem(
        core, address_of(request.scope), body.code, verifier=body.verifier, project=body.project
    )
    tell(request, user)
    return NewTokenShown.of_new(new, access.view_of(core, new.token))
