"""A service of out-of-band management that behaves as obmd's source says: what HIL redirects power calls to.

Admin calls want Basic authentication as `admin` and answer 404 without it; those of users want the node's
token in the query. Refusals have a status and no body. A boot device stays set until another one is.
"""

import base64
import json
import re
import secrets
from dataclasses import dataclass, field

from tests.hil.web import Answer, Request, Service, as_json

_PATH = re.compile(r"/node/(?P<node>[^/]+)(?:/(?P<what>[a-z_]+))?")
_BOOT_DEVICES = {"disk", "pxe", "none"}


@dataclass
class Machine:
    """What obmd knows of a node; one that is `stuck` takes orders and does not change its power."""

    token: str = field(default_factory=lambda: secrets.token_hex(16))
    power: str = "off"
    boot_device: str = "none"
    boots: list[str] = field(default_factory=list)
    stuck: bool = False


class Obm:
    """`machines` by name, to look at and to change by hand; `broken` makes every user's call a 500."""

    def __init__(self) -> None:
        self.admin_token = secrets.token_hex(16)
        self.machines: dict[str, Machine] = {}
        self.broken = False
        self.service = Service(self._answer)

    def uri(self, node: str) -> str:
        return f"{self.service.url}/node/{node}"

    def _answer(self, request: Request) -> Answer:
        found = _PATH.fullmatch(request.path)
        if found is None:
            return Answer(404)
        name, what = found["node"], found["what"]
        if what in {None, "token"}:
            return self._administer(request, name, what)
        if not re.fullmatch(r"[0-9a-fA-F]{32}", request.query.get("token", "")):
            return Answer(401)
        machine = self.machines.get(name)
        if machine is None:
            return Answer(404)
        if request.query["token"] != machine.token:
            return Answer(401)
        return Answer(500) if self.broken else _act(machine, request, f"{request.method} {what}")

    def _administer(self, request: Request, name: str, what: str | None) -> Answer:
        login = base64.b64encode(f"admin:{self.admin_token}".encode()).decode()
        if request.authorization != f"Basic {login}":
            return Answer(404)
        match f"{request.method} {what}":
            case "PUT None":
                if name in self.machines:
                    return Answer(500)
                self.machines[name] = Machine()
                return Answer()
            case "DELETE None":
                self.machines.pop(name, None)
                return Answer()
        machine = self.machines.get(name)
        if machine is None:
            return Answer(404)
        machine.token = secrets.token_hex(16)
        return Answer(200, as_json({"token": machine.token}) if request.method == "POST" else "")


def _act(machine: Machine, request: Request, call: str) -> Answer:
    match call:
        case "GET power_status":
            return Answer(200, as_json({"power_status": machine.power}))
        case "POST power_on":
            _turn(machine, "on")
        case "POST power_off":
            _turn(machine, "off")
        case "POST power_cycle":
            _turn(machine, "off")
            _turn(machine, "on")
        case "PUT boot_device":
            try:
                device = json.loads(request.body)["bootdev"]
            except (ValueError, KeyError):
                return Answer(400)
            if device not in _BOOT_DEVICES:
                return Answer(400)
            machine.boot_device = device
        case _:
            return Answer(404)
    return Answer()


def _turn(machine: Machine, power: str) -> None:
    if machine.stuck or machine.power == power:
        return
    machine.power = power
    if power == "on":
        machine.boots.append(machine.boot_device)
