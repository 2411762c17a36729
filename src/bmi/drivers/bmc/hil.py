"""Power and boot device of HIL's nodes, through HIL: who has the node may use its management, nobody knows its BMC."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

from bmi.drivers.bmc import BmcAccess, PowerState
from bmi.drivers.hil import Hil, connect
from bmi.errors import DriverError, TimedOutError

_POLL_S = 0.25
_KEPT = 8


class HilBmc:
    """The OBM calls of HIL. A node's address is `https://HIL/node/NAME`; it needs a user name and a password only
    where they are not those that BMI has for HIL.
    """

    def __init__(
        self,
        url: str,
        username: str,
        password_file: str,
        timeout_s: float,
        off_timeout_s: float,
        ca_file: str,
    ) -> None:
        self._own = url.rstrip("/").removesuffix("/v0"), username
        self._password_file = password_file
        self._timeout_s = timeout_s
        self._off_timeout_s = off_timeout_s
        self._ca_file = ca_file
        self._at = functools.lru_cache(_KEPT)(self._connect)

    def power_state(self, access: BmcAccess) -> PowerState:
        with self._managed(access) as (hil, node):
            return _power_state(hil, node)

    def power_on(self, access: BmcAccess) -> None:
        with self._managed(access) as (hil, node):
            hil.manage("POST", node, "power_on")

    def power_off(self, access: BmcAccess) -> None:
        with self._managed(access) as (hil, node):
            hil.manage("POST", node, "power_off")
            deadline = time.monotonic() + self._off_timeout_s
            while _power_state(hil, node) != "off":
                if time.monotonic() > deadline:
                    raise TimedOutError(
                        f"HIL took the order to power node {node} off, but it is on after {self._off_timeout_s:g} s.",
                        remedy="Look at the node, and at the log of HIL's OBM service.",
                    )
                time.sleep(_POLL_S)

    def boot_network_once(self, access: BmcAccess) -> None:
        """The OBM service knows lasting boot devices only: the node goes on booting from the network."""
        with self._managed(access) as (hil, node):
            hil.manage("PUT", node, "boot_device", {"bootdev": "pxe"})

    def check(self, access: BmcAccess) -> str:
        with self._managed(access) as (hil, node):
            return f"HIL at {hil.place} manages node {node}, which is {_power_state(hil, node)}."

    @contextmanager
    def _managed(self, access: BmcAccess) -> Iterator[tuple[Hil, str]]:
        """The HIL and the node that are meant. One that somebody else has there is not touched, and one that nobody
        has is left with its management disabled, as whoever takes it next expects it.
        """
        hil, name = self._named(access)
        node = hil.node(name)
        node.refuse_if_taken()
        try:
            yield hil, name
        finally:
            if node.project is None:
                hil.call("PUT", "node", name, "obm", body={"enabled": False})

    def _named(self, access: BmcAccess) -> tuple[Hil, str]:
        base, _, name = access.address.rstrip("/").rpartition("/node/")
        base = base.removesuffix("/v0")
        if not base or "/" in name or "?" in name:
            raise DriverError(
                "A node's address in HIL is https://HIL/node/NAME.",
                retryable=False,
                remedy="Correct the node's BMC address.",
            )
        if access.username:
            return self._at(base, access.username, access.password), unquote(name)
        if base == self._own[0]:
            return self._at(*self._own, ""), unquote(name)
        raise DriverError(
            f"BMI has no credentials for {urlsplit(base).netloc}.",
            retryable=False,
            remedy="Use the HIL of [isolation], or give the node a user name and a password.",
        )

    def _connect(self, base: str, username: str, password: str) -> Hil:
        return connect(
            base,
            username,
            password=password,
            password_file=self._password_file,
            timeout_s=self._timeout_s,
            ca_file=self._ca_file,
        )


def _power_state(hil: Hil, node: str) -> PowerState:
    """The OBM service passes on what ipmitool said, such as `on` or `Chassis Power is on`."""
    said = hil.manage("GET", node, "power_status")
    words = str(said.get("power_status", "") if isinstance(said, dict) else "").lower().split()
    if words and words[-1] in {"on", "off"}:
        return "on" if words[-1] == "on" else "off"
    raise DriverError(f"HIL does not say whether node {node} is on.", remedy="Look at its OBM service.")


def create(
    *,
    url: str = "",
    username: str = "",
    password_file: str = "",
    timeout_s: float = 10,
    off_timeout_s: float = 30,
    ca_file: str = "",
) -> HilBmc:
    """Nodes of HIL; `url`, `username` and `password_file` are those of [isolation]. A call may take `timeout_s`, and
    turning a node off `off_timeout_s`.
    """
    return HilBmc(url, username, password_file, timeout_s, off_timeout_s, ca_file)
