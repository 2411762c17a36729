"""A server that behaves as HIL's documentation and source say (REST version 0, database authentication, VLAN pool,
network daemon), with its weak spots to be switched on.
"""

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from tests.hil.calls import CALLS
from tests.hil.state import NATIVE, Action, Caller, Hil, Refusal, User
from tests.hil.web import Answer, Request, Service


class HilServer(Hil):
    """All of HIL in memory; `changing()` around what a test does to it by hand while it works."""

    def __init__(self, *, tick_s: float = 0.1, pool: range = range(100, 201)) -> None:
        super().__init__(pool)
        self._lock = threading.RLock()
        self._end = threading.Event()
        self.service = Service(self._answer)
        self._daemon = threading.Thread(target=self._work, args=(tick_s,), daemon=True)
        self._daemon.start()

    @property
    def url(self) -> str:
        return self.service.url

    def close(self) -> None:
        self._end.set()
        self._daemon.join()
        self.service.close()
        self.obm.service.close()

    @contextmanager
    def changing(self) -> Iterator[None]:
        with self._lock:
            yield

    # ---- the network daemon -------------------------------------------------------------------------

    def _work(self, tick_s: float) -> None:
        while not self._end.wait(tick_s):
            with self._lock:
                pending = [action for action in self.actions if action.status == "PENDING"]
                self.most_pending = max(self.most_pending, len(pending))
                for action in [] if self.weak.stuck else pending:
                    self._apply(action)

    def _apply(self, action: Action) -> None:
        nic, weak = action.nic, self.weak
        if nic.port is None or nic.node == weak.passes_over:
            return  # only logged: it stays PENDING
        if weak.errors:
            weak.errors -= 1
            action.status = "ERROR"
            return
        action.status = "DONE"
        if weak.skips:
            weak.skips -= 1
            return
        wire = self.wires[nic.port]
        if action.kind == "revert_port":
            nic.networks.clear()
            wire.native, wire.tagged = None, set()
        elif action.network is None:
            vlan = int(self.networks[nic.networks.pop(action.channel)].vlan)
            if action.channel == NATIVE:
                wire.native = 1 if weak.falls_back else None
            else:
                wire.tagged.discard(vlan)
        else:
            nic.networks[action.channel] = action.network
            vlan = int(self.networks[action.network].vlan)
            if action.channel == NATIVE:
                wire.native = vlan
            else:
                wire.tagged.add(vlan)

    # ---- answering ----------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Answer:
        for call in CALLS:
            found = call.path.fullmatch(request.path)
            if found and request.method == call.method:
                break
        else:
            return Answer(404, "<title>404 Not Found</title>")
        try:
            said = _arguments(request, found.groupdict(), call.required, call.optional)
            with self._lock:
                return call.answer(Caller(self, self._login(request.authorization)), **said)
        except Refusal as refusal:
            return refusal.answer
        except httpx.HTTPError:
            return Answer(500, "<title>500 Internal Server Error</title>")

    def _login(self, authorization: str) -> User:
        kind, _, login = authorization.partition(" ")
        name, _, password = base64.b64decode(login).decode().partition(":")
        user = self.users.get(name)
        if kind == "Basic" and user is None:
            raise Refusal("NotFoundError", f"User {name} does not exist.")
        if user is None or user.password != password:
            raise Refusal(
                "AuthorizationError",
                "Authentication failed. Authentication is required to use this service.",
            )
        return user


def _arguments(
    request: Request, path: Mapping[str, str], required: Mapping[str, type], optional: Mapping[str, type]
) -> dict[str, Any]:
    """What the path and the body say. A body of another content type is none to HIL."""
    invalid = Refusal("ValidationError", "Request arguments are not valid for this request")
    said: dict[str, Any] = {}
    if request.body and "form" not in request.content_type:
        if request.method == "GET":
            raise Refusal("ValidationError", "GET request made with a non-empty request body")
        try:
            said = json.loads(request.body)
        except ValueError as error:
            raise Refusal("ValidationError", "The request body is not valid JSON") from error
    known = {**required, **optional}
    if said.keys() & path.keys() or not required.keys() <= said.keys() or not said.keys() <= known.keys():
        raise invalid
    if not all(isinstance(value, known[name]) for name, value in said.items()):
        raise invalid
    return said | dict(path)
