"""HIL, the Hardware Isolation Layer: the client of its REST interface (version 0) that all its drivers share.

BMI acts as an administrator of HIL, in the project that a node was claimed for. Which one that is stands beside
the node, as metadata that only administrators of HIL can write: a node whose project is another one was taken by
somebody else, and is not touched.
"""

import json
import logging
import ssl
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import httpx

from bmi.errors import ConfigError, DriverError, TimedOutError

Method = Literal["GET", "PUT", "POST", "DELETE"]

MARK = "bmi-project"
NATIVE = "vlan/native"
_MAX_ANSWER_BYTES = 16 << 20
_AT_ONCE = 8
# What waiting can help against; the other refusals (hil/errors.py) stay until somebody does something.
_PASSING = {"BlockedError", "IllegalStateError"}

# They write down whole URLs, and those of the OBM service contain its token.
for _talker in ("httpx", "httpcore"):
    logging.getLogger(_talker).setLevel(logging.WARNING)


@dataclass(frozen=True)
class HilNic:
    """A NIC, the switch port that HIL has it cabled to, and the networks it is on: channel -> name."""

    label: str
    mac: str
    switch: str | None
    port: str | None
    networks: Mapping[str, str]


@dataclass(frozen=True)
class HilNode:
    """A node as HIL shows it; `mark` is the project that BMI claimed it for."""

    name: str
    project: str | None
    mark: str | None
    nics: Mapping[str, HilNic]

    @property
    def is_taken(self) -> bool:
        """Whether somebody else has it."""
        return self.project is not None and self.project != self.mark

    def refuse_if_taken(self) -> None:
        """Raises DriverError for a node that somebody else has."""
        if self.is_taken:
            raise DriverError(
                f"The node {self.name} belongs to HIL's project {self.project}, which BMI did not give it to.",
                retryable=False,
                remedy="Have it detached from that project in HIL, or take the node out of BMI.",
            )


@dataclass(frozen=True)
class HilNetwork:
    """A network; no `projects` means that every project of HIL may use it."""

    name: str
    vlan: int | None
    projects: tuple[str, ...]


class Hil:
    """One HIL. All calls raise DriverError, with `http_status` and HIL's name of the error in its facts, and end
    within `timeout_s`; none is repeated.
    """

    def __init__(self, url: str, login: tuple[str, str], *, timeout_s: float, tls: ssl.SSLContext) -> None:
        self.url = url
        self._login = httpx.BasicAuth(*login)
        self._timeout_s = timeout_s
        # Spoken to directly: no proxy and no password file of the environment.
        self._http = httpx.Client(timeout=timeout_s, verify=tls, trust_env=False)

    @property
    def place(self) -> str:
        return urlsplit(self.url).netloc

    def call(self, method: Method, *path: str, body: Mapping[str, Any] | None = None) -> Any:
        """What HIL answers to a call on these parts of a path; None when it says nothing."""
        response, content = self._send(method, self._address(path), body, self._login)
        if response.is_redirect:
            raise self._stranger()
        return self._content(response, content)

    def manage(self, method: Method, node: str, what: str, body: Mapping[str, Any] | None = None) -> Any:
        """A call to a node's out-of-band management, which HIL redirects to the OBM service. It is enabled when it
        is not, and when the service no longer takes the token.
        """
        try:
            return self._manage(method, node, what, body)
        except DriverError as error:
            if error.facts.get("hil_error") not in {"BlockedError", "obm-token"}:
                raise
        self.call("PUT", "node", node, "obm", body={"enabled": True})
        return self._manage(method, node, what, body)

    def node(self, name: str) -> HilNode:
        """One node; raises DriverError."""
        shown = self.call("GET", "node", name)
        try:
            nics = [
                HilNic(
                    nic["label"], nic["macaddr"], nic.get("switch"), nic.get("port"), dict(nic["networks"])
                )
                for nic in shown["nics"]
            ]
            mark = _mark(shown.get("metadata", {}).get(MARK))
            return HilNode(shown["name"], shown["project"], mark, {nic.label: nic for nic in nics})
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise self._stranger() from error

    def find_nodes(self, names: Iterable[str]) -> dict[str, HilNode | DriverError]:
        """These nodes, or what is wrong with each."""

        def look(name: str) -> HilNode | DriverError:
            try:
                return self.node(name)
            except DriverError as error:
                return error

        wanted = sorted(set(names))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return dict(zip(wanted, pool.map(look, wanted), strict=True))

    def nodes(self) -> list[HilNode]:
        """All nodes that there are."""
        found = self.find_nodes(self.call("GET", "nodes", "all"))
        for shown in found.values():
            # One that was deleted between the two questions is not there.
            if isinstance(shown, DriverError) and not is_missing(shown):
                raise shown
        return [shown for shown in found.values() if isinstance(shown, HilNode)]

    def networks(self) -> dict[str, HilNetwork]:
        """All networks by name."""
        try:
            return {
                name: HilNetwork(name, _vlan(shown["network_id"]), tuple(shown["projects"] or ()))
                for name, shown in self.call("GET", "networks").items()
            }
        except (TypeError, KeyError, AttributeError) as error:
            raise self._stranger() from error

    def check(self) -> str:
        """Proves that HIL answers, and that the account is an administrator's; one sentence."""
        projects, nodes = self.call("GET", "projects"), self.call("GET", "nodes", "all")
        return f"HIL at {self.place} answers; it has {len(nodes)} nodes and {len(projects)} projects."

    # ---- the conversation ---------------------------------------------------------------------------

    def _address(self, path: Iterable[str]) -> str:
        return "/".join((f"{self.url}/v0", *(quote(part, safe="") for part in path)))

    def _manage(self, method: Method, node: str, what: str, body: Mapping[str, Any] | None) -> Any:
        response, content = self._send(method, self._address(("node", node, what)), body, self._login)
        if response.status_code != httpx.codes.TEMPORARY_REDIRECT:
            self._content(response, content)
            raise self._stranger()
        target = response.headers.get("Location", "")
        if urlsplit(target).scheme not in {"https", urlsplit(self.url).scheme}:
            raise self._stranger()
        # HIL's credentials are nothing to that service; the token in its address is nothing to a log.
        response, content = self._send(method, target, body, None)
        if response.is_success and not content:
            return None
        if response.is_success:
            return self._content(response, content)
        raise _unmanageable(node, urlsplit(target).netloc, response.status_code)

    def _send(
        self, method: Method, address: str, body: Mapping[str, Any] | None, login: httpx.BasicAuth | None
    ) -> tuple[httpx.Response, bytes]:
        """The whole answer: a time-out of a socket begins anew with every byte, this one does not."""
        place = urlsplit(address).netloc
        ends_at = time.monotonic() + self._timeout_s
        content = bytearray()
        try:
            with self._http.stream(method, address, json=body, auth=login) as response:
                for part in response.iter_bytes():
                    content += part
                    if time.monotonic() > ends_at or len(content) > _MAX_ANSWER_BYTES:
                        raise httpx.ReadTimeout("")
        except httpx.TimeoutException:
            slow = TimedOutError(
                f"{place} did not answer within {self._timeout_s:g} s.", remedy="Look at HIL's server."
            )
            raise slow from None
        except httpx.HTTPError as error:
            raise _unreachable(error, place) from None
        except (httpx.InvalidURL, UnicodeError):
            raise self._stranger() from None
        return response, bytes(content)

    def _content(self, response: httpx.Response, content: bytes) -> Any:
        try:
            said = json.loads(content) if content else None
        except ValueError:
            if response.is_success:
                raise self._stranger() from None
            said = None
        if response.is_error:
            raise self._refusal(response.status_code, said if isinstance(said, dict) else {})
        return said

    def _refusal(self, status: int, said: Mapping[str, Any]) -> DriverError:
        kind, message = str(said.get("type", "")), str(said.get("msg", ""))[:300]
        # HIL says of an unknown user what it says of everything that it does not know.
        if status == httpx.codes.UNAUTHORIZED or (kind == "NotFoundError" and message.startswith("User ")):
            remedy = "Correct BMI's credentials for HIL: they must be those of an administrator there."
        elif status >= httpx.codes.INTERNAL_SERVER_ERROR:
            remedy = "Look at the log of HIL's server."
        else:
            remedy = "Look at the object in HIL."
        return DriverError(
            f"HIL at {self.place} refused: {message}"
            if message
            else f"HIL at {self.place} answered {status}.",
            retryable=status >= httpx.codes.INTERNAL_SERVER_ERROR or kind in _PASSING,
            remedy=remedy,
            http_status=status,
            hil_error=kind,
        )

    def _stranger(self) -> DriverError:
        return DriverError(
            f"What answers at {self.place} does not speak HIL's version 0.",
            retryable=False,
            remedy="Give the address that HIL's own client has in HIL_ENDPOINT.",
        )


def is_missing(error: DriverError) -> bool:
    """Whether HIL does not know the object."""
    return error.facts.get("hil_error") == "NotFoundError"


def _mark(said: str | None) -> str | None:
    """The project in a node's metadata, which HIL shows as the text of a JSON value."""
    value = json.loads(said) if said is not None else None
    return value if isinstance(value, str) else None


def _vlan(said: object) -> int | None:
    """The VLAN of a network id; another network allocator than that of VLANs has ids of another kind."""
    return int(str(said)) if str(said).isdecimal() else None


def _unmanageable(node: str, place: str, status: int) -> DriverError:
    """The OBM service (obmd) says no with nothing but a status."""
    facts: dict[str, Any] = {"http_status": status}
    if status == httpx.codes.UNAUTHORIZED:
        facts["hil_error"] = "obm-token"
    return DriverError(
        f"HIL's OBM service at {place} answered {status} for node {node}.",
        retryable=status >= httpx.codes.INTERNAL_SERVER_ERROR or status == httpx.codes.UNAUTHORIZED,
        remedy="Look at the log of that service, and at how the node is registered there.",
        **facts,
    )


def _unreachable(error: httpx.HTTPError, place: str) -> DriverError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return DriverError(
                f"The certificate of {place} cannot be verified.",
                retryable=False,
                remedy="Give BMI the file of its CA: option ca_file.",
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError):
        return DriverError(
            f"{place} cannot be reached.", remedy="Check its address, and that HIL's server runs."
        )
    return DriverError(f"{place} broke the conversation off.", remedy="Look at the log of HIL's server.")


def connect(
    url: str,
    username: str,
    *,
    password: str = "",
    password_file: str = "",
    timeout_s: float,
    ca_file: str = "",
) -> Hil:
    """HIL at `url` (as in HIL_ENDPOINT, without /v0), with a password or the file of one; raises ConfigError."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise ConfigError(
            "The address of HIL is not https://HOST, without user and password.",
            remedy="Set options.url in [isolation].",
        )
    try:
        secret = password or Path(password_file).read_text(encoding="utf-8").strip()
        tls = ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise ConfigError(
            f"A file that HIL needs cannot be read: {error}.",
            remedy="Set options.password_file and options.ca_file in [isolation].",
        ) from error
    return Hil(url.rstrip("/").removesuffix("/v0"), (username, secret), timeout_s=timeout_s, tls=tls)
