"""Writes down, before it is answered, every call that changes something and every refusal of a caller."""

import json
import logging
import re
import time
from urllib.parse import parse_qs

from anyio.to_thread import run_sync
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bmi.api.bodies import Quota
from bmi.api.envelope import is_file
from bmi.domain.nouns import Actor, Role, User
from bmi.errors import PROBLEM_BASE, BmiError, InternalError
from bmi.service import audit
from bmi.service.attempts import origin
from bmi.service.core import Core

log = logging.getLogger(__name__)

_LOOKING = {"GET", "HEAD", "OPTIONS"}
_REFUSED = {401, 403, 429}
# Of one token, or of nobody known from one address; one row says that there were more. Nobody fills the disk.
_REFUSALS_A_MINUTE = 120
_FLOOD = "flood"
_MAX_PROBLEM_BYTES = 1 << 16
# Whoever gives the token itself where its name is wanted, as to revoke it.
_TOKEN = re.compile(r"bmi_[^_/]+_[^/]+")


# What is told of a body beside its name: switches, numbers and roles; of nothing that may be a secret.
_PLAIN = {
    "create_user": ("admin",),
    "change_user": ("admin", "disabled", "link"),
    "set_password": ("end_tokens",),
    "set_member": ("role",),
    "create_token": ("role", "lifetime_s", "own"),
    "set_quota": tuple(Quota.model_fields),
    "create_network": ("vlan", "public"),
    "publish_network": ("public",),
    "change_image": ("public", "protected"),
    "allocate_nodes": ("count",),
    "cable": ("force",),
}


def address_of(scope: Scope) -> str:
    """Where the request came from; with `server.proxy`, what the proxy on this machine says (X-Forwarded-For)."""
    client = scope.get("client")
    return str(client[0]) if client else audit.NOBODY


def tell(request: Request, user: User | None, refusal: BmiError | None = None, *, detail: str = "") -> None:
    """Notes who a login without a token is of, what it gave them, and a refusal that its answer does not show."""
    request.state.user = user
    request.state.refusal = refusal
    request.state.detail = detail


class Audit:
    """ASGI middleware around the routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._minute = 0
        self._refusals: dict[str, int] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})
        said: list[bytes] = []
        held: list[Message] = []

        async def receive_and_keep() -> Message:
            message = await receive()
            if not is_file(scope["method"], scope["path"]):
                said.append(message.get("body", b""))
            return message

        async def write_then_send(message: Message) -> None:
            """A refusal's kind is in its body, which is short: it waits until that is read."""
            if message["type"] == "http.response.start" and message["status"] >= 400:
                held.append(message)
                return
            if held:
                begun = held.pop()
                body = message.get("body", b"")[:_MAX_PROBLEM_BYTES]
                await self._write(scope, said, begun["status"], _problem_of(body))
                await send(begun)
            elif message["type"] == "http.response.start":
                await self._write(scope, said, message["status"], None)
            await send(message)

        try:
            await self._app(scope, receive_and_keep, write_then_send)
        except Exception:
            await self._write(scope, said, InternalError.status, InternalError.code())
            raise

    async def _write(self, scope: Scope, said: list[bytes], status: int, problem: str | None) -> None:
        state = scope["state"]
        refusal: BmiError | None = state.get("refusal")
        if refusal:
            status, problem = refusal.status, refusal.code()
        if "action" not in state or (scope["method"] in _LOOKING and status not in _REFUSED):
            return
        actor: Actor | None = state.get("actor")
        user: User | None = state.get("user")
        address = address_of(scope)
        refusals = self._refusals_now(actor, address) if 400 <= status < 500 else 0
        if refusals > _REFUSALS_A_MINUTE + 1:
            return
        flooded = refusals > _REFUSALS_A_MINUTE
        body = _body_of(said)
        action: str = state["action"]
        deed = audit.Deed(
            actor=actor.name if actor else user.name if user else audit.NOBODY,
            user_id=actor.user_id if actor else user.id if user else None,
            token_id=actor.token_id if actor else None,
            project_id=actor.project_id if actor else None,
            address=address,
            action=_FLOOD if flooded else action,
            object=_object_of(scope, body),
            project=_text(body.get("project")) or _query_of(scope, "project") or None,
            status=status,
            problem=problem,
            detail=state.get("detail") or _detail_of(action, body, status),
        )
        core: Core = scope["app"].state.core
        try:
            await run_sync(audit.write, core, deed)
        except Exception:
            # What is done is done, and its caller is told; the server's log has what the table has not.
            log.exception("The audit log cannot be written: %s", deed)

    def _refusals_now(self, actor: Actor | None, address: str) -> int:
        """How many refusals this is in this minute, of the token or of where nobody known comes from."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._refusals = minute, {}
        who = actor.token_id if actor and actor.token_id else origin(address)
        count = self._refusals[who] = self._refusals.get(who, 0) + 1
        return count


def _problem_of(body: bytes) -> str | None:
    try:
        return str(json.loads(body)["type"]).removeprefix(PROBLEM_BASE)[:64]
    except (ValueError, KeyError, TypeError):
        return None


def _body_of(said: list[bytes]) -> dict[str, object]:
    try:
        body = json.loads(b"".join(said))
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _detail_of(action: str, body: dict[str, object], status: int) -> str:
    """The plain values of a body. What was not accepted may be anything: of that, no text but a role is told."""
    told = {name: body[name] for name in _PLAIN.get(action, ()) if name in body}
    accepted = status < 400
    return " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in told.items()
        if accepted or isinstance(value, int | float | None) or value in list(Role)
    )


def _object_of(scope: Scope, body: dict[str, object]) -> str:
    """The path, and the name that a new thing is given in it. Of no other field is anything told."""
    path = _TOKEN.sub("bmi_…", str(scope["path"]).removeprefix("/v1/"))
    if scope["method"] != "POST" or scope.get("path_params"):
        return path
    name = _text(body.get("name")) or _query_of(scope, "name")
    return _TOKEN.sub("bmi_…", f"{path}/{name}") if name else path


def _query_of(scope: Scope, name: str) -> str:
    query: bytes = scope["query_string"]
    return parse_qs(query.decode("latin-1")).get(name, [""])[0]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
