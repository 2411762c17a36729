"""HIL furnished through its own interface: the stand-in, and the real one where there is one.

`BMI_TEST_HIL=http://USER:PASSWORD@HOST:PORT` names a real one, with database authentication, the VLAN pool and mock
switches; docs/hil.md tells how one is started. Its power is then that of our OBM service, and its objects get names
of their own.
"""

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from bmi.drivers import load
from bmi.drivers.isolation import Isolation
from bmi.drivers.switch import PortConfig, Switch
from bmi.errors import DriverError
from tests.hil.obm import Machine, Obm
from tests.hil.server import HilServer

_REAL = os.environ.get("BMI_TEST_HIL", "")
KINDS = ["stand-in", *(["real"] if _REAL else [])]
_MOCK = "http://schema.massopencloud.org/haas/v0/switches/mock"


@dataclass
class Bench:
    """One HIL; `prefix` begins the name of everything in it. `server` is the stand-in, if it is that."""

    url: str
    login: tuple[str, str]
    obm: Obm
    password_file: Path
    http: httpx.Client
    prefix: str = ""
    server: HilServer | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What the drivers want."""
        return {"url": self.url, "username": self.login[0], "password_file": str(self.password_file)}

    def call(
        self, method: str, path: str, body: Any = None, *, login: tuple[str, str] | None = None
    ) -> httpx.Response:
        return self.http.request(method, f"{self.url}/v0{path}", json=body, auth=login or self.login)

    def do(self, method: str, path: str, body: Any = None) -> Any:
        """As `call`, which has to succeed."""
        answer = self.call(method, path, body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def project(self, name: str) -> str:
        self.do("PUT", f"/project/{self.prefix}{name}")
        return self.prefix + name

    def node(self, name: str, number: int, nics: Sequence[str] = ("boot",)) -> str:
        """A free node; its NICs are cabled."""
        node = self.prefix + name
        self.obm.machines[node] = Machine()
        obmd = {"uri": self.obm.uri(node), "admin_token": self.obm.admin_token}
        self.do("PUT", f"/node/{node}", {"obmd": obmd})
        for count, nic in enumerate(nics, start=1):
            self.nic(name, number, count, nic)
        return node

    def nic(self, name: str, number: int, count: int, nic: str) -> None:
        """The `count`th NIC of the node, cabled."""
        node, port = self.prefix + name, f"/switch/{self.prefix}tor/port/gi1/{number}/{count}"
        self.do("PUT", f"/node/{node}/nic/{nic}", {"macaddr": f"52:54:00:00:{number:02x}:{count:02x}"})
        self.do("PUT", port)
        self.do("POST", f"{port}/connect_nic", {"node": node, "nic": nic})


@contextmanager
def bench(kind: str, directory: Path) -> Iterator[Bench]:
    """With projects red and blue and free nodes n1 and n2; n1 has a NIC `data` beside `boot`."""
    password_file = directory / "hil-password"
    if kind == "real":
        at = urlsplit(_REAL)
        login = at.username or "", at.password or ""
        url, obm, server = f"{at.scheme}://{at.hostname}:{at.port}", Obm(), None
    else:
        server = HilServer()
        url, obm, login = server.url, server.obm, ("admin", server.users["admin"].password)
    password_file.write_text(f"{login[1]}\n")
    prefix = f"t{secrets.token_hex(4)}-" if server is None else ""
    http = httpx.Client(trust_env=False, verify=False, timeout=20)  # there is no TLS
    made = Bench(url, login, obm, password_file, http, prefix, server)
    try:
        made.do(
            "PUT",
            f"/switch/{prefix}tor",
            {"type": _MOCK, "hostname": "tor", "username": "user", "password": "password"},
        )
        made.project("red")
        made.project("blue")
        made.node("n1", 1, ("boot", "data"))
        made.node("n2", 2)
        yield made
    finally:
        http.close()
        if server:
            server.close()
        else:
            obm.service.close()


class Renamed:
    """HIL's switches with ports that are called as elsewhere: `port1` is that of node n1."""

    def __init__(self, switch: Switch) -> None:
        self._switch = switch

    def apply(self, ports: Mapping[str, PortConfig]) -> Mapping[str, PortConfig | DriverError]:
        asked = {f"n{port.removeprefix('port')}/boot": config for port, config in ports.items()}
        return {_called(port): found for port, found in self._switch.apply(asked).items()}

    def list(self) -> Mapping[str, PortConfig | None]:
        found = self._switch.list().items()
        return {_called(port): config for port, config in found if port.endswith("/boot")}

    def check(self) -> str:
        return self._switch.check()


def _called(port: str) -> str:
    return f"port{port.removeprefix('n').removesuffix('/boot')}"


@contextmanager
def switches(directory: Path) -> Iterator[Switch]:
    """The switches of the stand-in, for the contract that all switch drivers keep."""
    with bench("stand-in", directory) as site:
        isolation: Isolation = load("isolation", "hil")(**site.options)
        for node in ("n1", "n2"):
            isolation.claim(node, "red")
        yield Renamed(load("switch", "hil")(**site.options, poll_s=0.02))
