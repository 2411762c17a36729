"""Logging in and out."""

from functools import partial
from html import escape
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from bmi.api.audit import address_of, tell
from bmi.api.bodies import BeginOidcLogin, ChangePassword, LogIn, RedeemOidcLogin
from bmi.api.deps import ActorDep, CoreDep, LoginTurnsDep
from bmi.api.models import time_of
from bmi.api.people_models import NewTokenShown, OidcLoginShown
from bmi.api.problems import documented
from bmi.domain.nouns import User
from bmi.errors import BmiError, UnauthenticatedError
from bmi.service import access, login, oidc
from bmi.service.access import NewToken
from bmi.service.attempts import Attempt
from bmi.service.core import Core

router = APIRouter(tags=["login"])

# It goes on where it is, with the state and the code in its address.
_QUESTION = (
    "<!doctype html><title>BMI</title><p>The login <b>{word}</b> at BMI was begun from {address} at {time}."
    "<p>Whoever began it will act under your name. Go on only if that is you, and your terminal shows "
    "<b>{word}</b>; if another person sent you here, close this page."
    '<form method="post"><button>Yes, this is my login</button></form>'
)
_CODE = (
    "<!doctype html><title>BMI</title><p>You are known. Copy this code into the terminal in which you ran "
    "<code>bmi login</code>, and show it to nobody else:<pre>{code}</pre>"
)

StateQuery = Annotated[str, Query(max_length=200)]
CodeQuery = Annotated[str, Query(max_length=4000)]


@router.post(
    "/login",
    status_code=201,
    summary="Log in with a password; the token is shown this once",
    responses=documented(401, 403, 422, 429, 503),
)
async def log_in(request: Request, core: CoreDep, turns: LoginTurnsDep, body: LogIn) -> NewTokenShown:
    def work() -> NewTokenShown:
        tell(request, login.known(core, body.user))
        attempt = Attempt(address_of(request.scope), body.user)
        return _shown(
            core, login.log_in(core, attempt, body.password.get_secret_value(), project=body.project)
        )

    return await turns.run(work)


def _shown(core: Core, new: NewToken) -> NewTokenShown:
    return NewTokenShown.of_new(new, access.view_of(core, new.token))


@router.delete("/login", status_code=204, summary="End the login", responses=documented(401, 409))
def log_out(core: CoreDep, actor: ActorDep) -> None:
    login.log_out(core, actor)


@router.put(
    "/password",
    status_code=204,
    summary="Change one's own password; ends the other logins",
    responses=documented(401, 403, 409, 422, 429, 503),
)
async def change_password(
    request: Request, core: CoreDep, actor: ActorDep, turns: LoginTurnsDep, body: ChangePassword
) -> None:
    current, new = body.current.get_secret_value(), body.new.get_secret_value()
    await turns.run(partial(login.change_password, core, actor, address_of(request.scope), current, new))


@router.post(
    "/login/oidc",
    status_code=201,
    summary="Begin a login at the OpenID provider",
    responses=documented(409, 422, 429, 503),
)
async def begin_oidc_login(
    request: Request, core: CoreDep, turns: LoginTurnsDep, body: BeginOidcLogin
) -> OidcLoginShown:
    address = address_of(request.scope)
    begin = partial(oidc.begin, core, address, challenge=body.challenge, redirect=body.redirect)
    return OidcLoginShown(url=await turns.run(begin))


@router.get(
    "/login/oidc/callback",
    summary="Where the OpenID provider sends the browser back to: asks whose login it is",
    response_class=HTMLResponse,
    responses=documented(401, 422, 503)
    | {303: {"description": "On to the caller's own machine, without a code"}},
)
async def confirm_oidc_login(
    request: Request,
    core: CoreDep,
    turns: LoginTurnsDep,
    state: StateQuery,
    code: CodeQuery = "",
    error: Annotated[str, Query(max_length=1000)] = "",
) -> Response:
    begun = await turns.run(partial(oidc.find, core, state))
    if error or not code:
        refusal = UnauthenticatedError(
            "The OpenID provider let nobody in.", remedy="Begin again: bmi login --oidc."
        )
        return _refused(request, begun.login.redirect, refusal)
    time = f"{time_of(begun.at):%Y-%m-%d %H:%M:%S} UTC"
    return HTMLResponse(_QUESTION.format(address=escape(begun.address), time=time, word=escape(begun.word)))


@router.post(
    "/login/oidc/callback",
    summary="Where the person says that it is theirs; ends the login at the OpenID provider",
    response_class=HTMLResponse,
    responses=documented(401, 403, 409, 422, 503)
    | {303: {"description": "On to the caller's own machine, with the code"}},
)
async def finish_oidc_login(
    request: Request, core: CoreDep, turns: LoginTurnsDep, state: StateQuery, code: CodeQuery
) -> Response:
    begun = await turns.run(partial(oidc.find, core, state))
    try:
        finished = await turns.run(partial(oidc.finish, core, begun.login, code))
    except BmiError as refusal:
        return _refused(request, begun.login.redirect, refusal)
    tell(request, finished.user, detail=_rights(finished))
    if finished.redirect:
        return RedirectResponse(f"{finished.redirect}?{urlencode({'code': finished.code})}", 303)
    return HTMLResponse(_CODE.format(code=finished.code))


def _rights(finished: oidc.Finished) -> str:
    if finished.rights is None:
        return ""
    return f"rights={','.join(finished.rights) or 'none'}"


def _refused(request: Request, redirect: str, refusal: BmiError) -> Response:
    """Tells the caller's own machine, where it waits."""
    if not redirect:
        raise refusal
    tell(request, None, refusal)
    return RedirectResponse(f"{redirect}?{urlencode({'problem': str(refusal)})}", 303)


@router.post(
    "/login/oidc/token",
    status_code=201,
    summary="Log in with the code of a finished login; the token is shown this once",
    responses=documented(401, 403, 422, 429, 503),
)
async def redeem_oidc_login(
    request: Request, core: CoreDep, turns: LoginTurnsDep, body: RedeemOidcLogin
) -> NewTokenShown:
    def work() -> tuple[User, NewTokenShown]:
        address = address_of(request.scope)
        user, new = oidc.redeem(core, address, body.code, verifier=body.verifier, project=body.project)
        return user, _shown(core, new)

    user, shown = await turns.run(work)
    tell(request, user)
    return shown
