"""Switches with a command line, over SSH by netmiko: one session a call, in which all is read, changed, saved and
read again. What the families have of their own is in one file each, as data and pure functions.
"""

import hashlib
import inspect
import logging
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import paramiko
from netmiko import (
    ConnectHandler,
    NetmikoAuthenticationException,
    NetmikoBaseException,
    NetmikoTimeoutException,
)
from netmiko.base_connection import BaseConnection

from bmi.drivers.switch import CLOSED, PortConfig, read_back
from bmi.errors import DriverError, TimedOutError

# What they log below this is the dialogue itself.
for _chatty in ("netmiko", "paramiko"):
    logging.getLogger(_chatty).setLevel(logging.CRITICAL)

# A line by which a switch says that it did not understand, or does not want to.
_COMPLAINT = re.compile(r"^\s*(%|\^|error|invalid|usage:|.*\b(error|failed|rejected)\b)", re.IGNORECASE)
_SHOWN_COMPLAINTS = 3


@dataclass(frozen=True)
class Seen:
    """A port as the switch shows it. One that is not `up`, administratively, passes nothing whatever else is
    said of it; one that is not `plain` is something that BMI does not make, or does not understand.
    """

    native: int | None = None
    tagged: frozenset[int] = field(default_factory=frozenset)
    up: bool = True
    plain: bool = True

    @property
    def config(self) -> PortConfig | None:
        if not self.up:
            return CLOSED
        try:
            return PortConfig(self.native, self.tagged) if self.plain else None
        except DriverError:
            return None  # VLAN 1, for example


@dataclass(frozen=True)
class Change:
    """A port, what it is, and what it shall be."""

    port: str
    was: Seen
    config: PortConfig


def vlans_of(changes: Sequence[Change]) -> list[int]:
    """All VLANs that these ports shall be on: they have to exist."""
    return sorted({vlan for change in changes for vlan in change.config.vlans})


Run = Callable[[BaseConnection, Sequence[str], float], str]


def in_config_mode(connection: BaseConnection, commands: Sequence[str], timeout_s: float) -> str:
    """Line by line: each counts as soon as it is said. What was to be said within something that cannot be
    entered is left unsaid: it would be taken for what comes before.
    """
    say = partial(
        connection.send_config_set, enter_config_mode=False, exit_config_mode=False, read_timeout=timeout_s
    )
    connection.config_mode()
    said = ""
    for block in _blocks(commands):
        entered = say(block[:1])
        said += entered if _complaints(entered) else entered + say(block[1:])
    connection.exit_config_mode()
    return said


def _blocks(commands: Sequence[str]) -> Iterator[list[str]]:
    """From what is entered to the `exit` from it."""
    block: list[str] = []
    for command in commands:
        block.append(command)
        if command == "exit":
            yield block
            block = []


def in_shell(connection: BaseConnection, commands: Sequence[str], timeout_s: float) -> str:
    """Programs of a Linux shell, one after the other."""
    said = [str(connection.send_command(command, read_timeout=timeout_s)) for command in commands]
    return "\n".join(said)


@dataclass(frozen=True)
class Family:
    """Switches that understand the same commands.

    `show` are the commands that show all, `parse` makes ports of what they print, and `commands` are those that
    make ports so: in an order in which no port is for any moment on more than it was or shall be on, and after
    which one that could not be entered has changed no other. `run` says them; `save` keeps them.
    """

    device_type: str
    show: tuple[str, ...]
    parse: Callable[[Sequence[str]], Mapping[str, Seen]]
    commands: Callable[[Sequence[Change], int], Sequence[str]]
    save: str | None
    run: Run = in_config_mode
    # A family whose ports cannot be without an untagged VLAN: what falls there must not be VLAN 1.
    needs_native: bool = False


class PinnedKey(paramiko.MissingHostKeyPolicy):
    """Takes the host key with this fingerprint, as `ssh-keygen -l` prints it, and no other."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint.removeprefix("SHA256:").rstrip("=")

    def missing_host_key(self, _client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        found = b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
        if found != self._fingerprint:
            raise paramiko.SSHException(f"Server {hostname!r} has another host key: SHA256:{found}.")


@dataclass(frozen=True)
class Access:
    """How a switch is reached and how it knows us; secrets are read from their files at each session."""

    host: str
    username: str
    port: int = 22
    password_file: str = ""
    key_file: str = ""
    enable_password_file: str = ""
    fingerprint: str = ""
    known_hosts: str = ""
    timeout_s: float = 15


@dataclass(frozen=True)
class SshSwitch:
    """One switch of a family."""

    family: Family
    access: Access
    unused_vlan: int

    def apply(self, ports: Mapping[str, PortConfig]) -> Mapping[str, PortConfig | DriverError]:
        refused = {port: error for port, config in ports.items() if (error := self._refusal(port, config))}
        asked = {port: config for port, config in ports.items() if port not in refused}
        with self._session() as connection:
            seen = self._look(connection)
            changes = [
                Change(port, seen[port], config)
                for port, config in asked.items()
                if port in seen and seen[port].config != config
            ]
            said = ""
            if changes:
                said = self._say(connection, self.family.commands(changes, self.unused_vlan))
                seen = self._look(connection)
        found = read_back(asked, {port: state.config for port, state in seen.items()})
        return {port: _with_complaints(result, said) for port, result in found.items()} | refused

    def list(self) -> Mapping[str, PortConfig | None]:
        with self._session() as connection:
            return {port: state.config for port, state in self._look(connection).items()}

    def check(self) -> str:
        """Also says nothing in configuration mode: an account that may only look cannot be used."""
        began = time.monotonic()
        with self._session() as connection:
            ports = self._look(connection)
            if self.family.run is in_config_mode:
                connection.config_mode()
                connection.exit_config_mode()
        seconds = time.monotonic() - began
        return f"Switch {self.access.host} answers within {seconds:.1f} s and has {len(ports)} ports."

    # ---- within a session -------------------------------------------------------------------------

    def _look(self, connection: BaseConnection) -> Mapping[str, Seen]:
        printed = [
            str(connection.send_command(show, read_timeout=self.access.timeout_s))
            for show in self.family.show
        ]
        return self.family.parse(printed)

    def _say(self, connection: BaseConnection, commands: Sequence[str]) -> str:
        said = self.family.run(connection, commands, self.access.timeout_s)
        if self.family.save:
            said += str(connection.send_command(self.family.save, read_timeout=4 * self.access.timeout_s))
        return said

    def _refusal(self, port: str, config: PortConfig) -> DriverError | None:
        if self.unused_vlan in config.vlans:
            return DriverError(
                f"Port {port} cannot be on VLAN {self.unused_vlan}, which stands for none on this switch.",
                retryable=False,
                remedy="Name another in the switch's option unused_vlan.",
            )
        if self.family.needs_native and config.tagged and config.native is None:
            return DriverError(
                f"Port {port} cannot be without an untagged VLAN on a switch of this kind.",
                retryable=False,
                remedy="Attach one of its networks natively.",
            )
        return None

    @contextmanager
    def _session(self) -> Iterator[BaseConnection]:
        """Raises DriverError, retryable where time may help."""
        access = self.access
        connection = _connection(self.family.device_type, access)
        where = f"Switch {access.host}"
        try:
            connection._open()  # noqa: SLF001  # the one way to set a policy for host keys before
            if access.enable_password_file:
                connection.enable()
            yield connection
        except NetmikoAuthenticationException as error:
            raise DriverError(
                f"{where} does not let {access.username!r} in.",
                retryable=False,
                remedy="See the username and the password or key file in the switch's options.",
            ) from error
        except (NetmikoTimeoutException, NetmikoBaseException) as error:
            if "host key" in str(error) or "not found in known_hosts" in str(error):
                raise DriverError(
                    f"{where} has not the host key that is expected.",
                    retryable=False,
                    remedy="Compare its key with `ssh-keyscan`, and set the option fingerprint or known_hosts.",
                ) from error
            raise TimedOutError(f"{where} does not answer: {_first_line(error)}") from error
        except (OSError, EOFError, ValueError, paramiko.SSHException) as error:
            raise DriverError(f"The session with {where.lower()} broke off: {_first_line(error)}") from error
        finally:
            with suppress(Exception):
                connection.disconnect()


def _connection(device_type: str, access: Access) -> BaseConnection:
    """Not yet connected."""
    connection: BaseConnection = ConnectHandler(
        device_type=device_type,
        host=access.host,
        port=access.port,
        username=access.username,
        password=_secret(access.password_file),
        secret=_secret(access.enable_password_file) or "",
        use_keys=bool(access.key_file),
        key_file=access.key_file or None,
        allow_agent=False,
        ssh_strict=True,
        system_host_keys=not (access.fingerprint or access.known_hosts),
        alt_host_keys=bool(access.known_hosts),
        alt_key_file=access.known_hosts,
        conn_timeout=access.timeout_s,
        auth_timeout=access.timeout_s,
        banner_timeout=access.timeout_s,
        blocking_timeout=access.timeout_s,
        auto_connect=False,
    )
    if access.fingerprint:
        connection.key_policy = PinnedKey(access.fingerprint)
    return connection


def _secret(path: str) -> str | None:
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise DriverError(
            f"The file {path} cannot be read: {error.strerror}.",
            retryable=False,
            remedy="Put the switch's password there, readable for the server alone.",
        ) from error


def _complaints(said: str) -> list[str]:
    return [line.strip() for line in said.splitlines() if _COMPLAINT.match(line) and len(line.strip()) > 1]


def _with_complaints(result: PortConfig | DriverError, said: str) -> PortConfig | DriverError:
    """What the switch said against it, with the error that came of it."""
    complaints = _complaints(said)
    if isinstance(result, PortConfig) or not complaints:
        return result
    told = "; ".join(dict.fromkeys(complaints[:_SHOWN_COMPLAINTS]))
    return DriverError(f"{result} The switch said: {told}", retryable=result.retryable, remedy=result.remedy)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _create(
    family: Family,
    *,
    host: str,
    username: str,
    password_file: str = "",
    key_file: str = "",
    port: int = 22,
    enable_password_file: str = "",
    fingerprint: str = "",
    known_hosts: str = "",
    unused_vlan: int = 4094,
    timeout_s: float = 15,
) -> SshSwitch:
    """A switch at `host`, whose host key has the `fingerprint` (as `ssh-keygen -l` prints it) or is in the file
    `known_hosts` (that of the server's user when neither is given). `unused_vlan` is one that nothing uses, for
    settings that must name a VLAN and mean none; `timeout_s` bounds each answer.
    """
    access = Access(
        host,
        username,
        port,
        password_file,
        key_file,
        enable_password_file,
        fingerprint,
        known_hosts,
        timeout_s,
    )
    return SshSwitch(family, access, unused_vlan)


def options_of(factory: Callable[..., SshSwitch]) -> inspect.Signature:
    """What a factory takes that passes on, as `**access`, what every family does."""
    own = [p for p in inspect.signature(factory).parameters.values() if p.kind is not p.VAR_KEYWORD]
    shared = [p for p in inspect.signature(_create).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return inspect.Signature(own + shared)


def creates(family: Family) -> Any:
    """The `create` of a family's module."""
    create = partial(_create, family)
    create.__doc__ = _create.__doc__
    return create
