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
from dataclasses import dataclass, replace
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

from bmi.drivers.switch import CLOSED, PortConfig, no_port, read_back
from bmi.drivers.switch.family import (
    Change,
    Family,
    Patience,
    Seen,
    complaints,
    in_config_mode,
    refusals,
    vlans_of,
)
from bmi.errors import DriverError, TimedOutError

# What they log below this is the dialogue itself.
for _chatty in ("netmiko", "paramiko"):
    logging.getLogger(_chatty).setLevel(logging.CRITICAL)

_SHOWN_COMPLAINTS = 3
# What a session that changes ports may take, and each of them on top: less than it takes until it is given up.
_SESSION_S = 60
_SESSION_PORT_S = 4


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
        if not asked:
            return refused
        patience = Patience(
            self.access.timeout_s, time.monotonic() + _SESSION_S + len(asked) * _SESSION_PORT_S
        )
        with self._session() as connection:
            seen = self._look(connection)
            changes = [
                Change(port, seen[port], config)
                for port, config in asked.items()
                if port in seen and seen[port].config != config
            ]
            # What can be closed is, whatever becomes of the others.
            said = self._change(connection, [one for one in changes if one.config == CLOSED], patience)
            opening = [one for one in changes if one.config != CLOSED]
            opened, unmade = self._make_vlans(connection, opening, patience)
            said += unmade + self._change(connection, opened, patience)
            if changes:
                try:
                    seen = self._look(connection)
                except DriverError:
                    self._change(connection, [replace(one, config=CLOSED) for one in opened], patience)
                    raise
            if wider := [one for one in changes if one.is_exceeded_by(seen.get(one.port, Seen(up=False)))]:
                closing = [Change(one.port, seen[one.port], CLOSED) for one in wider]
                said += self._change(connection, closing, patience)
                seen = self._look(connection)
            unsaved = self._save(connection)
        found = read_back(asked, {port: state.config for port, state in seen.items()})
        if not self.family.ports_vanish:
            found |= {port: no_port(port) for port in asked.keys() - seen.keys()}
        told = {port: _with_complaints(result, said) for port, result in found.items()}
        return (dict.fromkeys(told, unsaved) if unsaved else told) | refused

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
        """Raises DriverError when anything of it was not shown: what is not seen would pass for closed."""
        printed = [
            str(connection.send_command(show, read_timeout=self.access.timeout_s))
            for show in self.family.show
        ]
        refused = [line for text in printed for line in refusals(text)]
        seen = {} if refused else self.family.parse(printed)
        if refused or not (seen or self.family.ports_vanish):
            why = f": {refused[0]}" if refused else ", none at all."
            raise DriverError(
                f"Switch {self.access.host} does not show its ports{why}",
                remedy=f"Try as {self.access.username} on the switch itself: {'; '.join(self.family.show)}",
            )
        return seen

    def _change(self, connection: BaseConnection, changes: Sequence[Change], patience: Patience) -> str:
        """Returns what was said against it. Where one refused port keeps all from being changed, each is alone then."""
        if not changes:
            return ""
        family = self.family
        said = family.run(family, connection, family.commands(changes, self._unused_vlan), patience)
        if said and family.all_or_nothing and len(changes) > 1:
            return "\n".join(self._change(connection, [one], patience) for one in changes)
        return said

    def _make_vlans(
        self, connection: BaseConnection, changes: Sequence[Change], patience: Patience
    ) -> tuple[Sequence[Change], str]:
        """The changes whose VLANs there are, and what was said against the others: on most switches a port can be put
        on a VLAN that is not there, reads well then, and reaches nothing.
        """
        if self.family.vlan is None:
            return changes, ""
        unmade, said = set[int](), ""
        for vlan in vlans_of(changes):
            if told := self.family.run(self.family, connection, [self.family.vlan(vlan)], patience):
                unmade.add(vlan)
                said += f"{told}\n"
        return [change for change in changes if not change.config.vlans & unmade], said

    def _save(self, connection: BaseConnection) -> DriverError | None:
        """Also what an earlier session has changed that did not get so far."""
        line = self.family.save_line()
        if line is None:
            return None
        said = str(connection.send_command(line, read_timeout=4 * self.access.timeout_s))
        if told := complaints(said):
            return DriverError(
                f"Switch {self.access.host} does not save its configuration: {told[0]}",
                remedy=f"Try on the switch itself: {self.family.save}",
            )
        return None

    @property
    def _unused_vlan(self) -> int:
        return self.unused_vlan or self.family.unused_vlan

    def _refusal(self, port: str, config: PortConfig) -> DriverError | None:
        if self._unused_vlan in config.vlans:
            return DriverError(
                f"Port {port} cannot be on VLAN {self._unused_vlan}, which stands for none on this switch.",
                retryable=False,
                remedy="Name another in the switch's option unused_vlan.",
            )
        if kept := sorted(config.vlans & set(self.family.reserved)):
            return DriverError(
                f"Port {port} cannot be on VLAN {kept[0]}, which switches of this kind keep for themselves.",
                retryable=False,
                remedy="Give BMI only VLANs that all your switches have ([networks] vlans).",
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
            if re.search("host key|not found in known_hosts", str(error), re.IGNORECASE):
                raise DriverError(
                    f"{where} has not the host key that is expected.",
                    retryable=False,
                    remedy="Compare its key with `ssh-keyscan`, and set the option fingerprint or known_hosts.",
                ) from error
            raise TimedOutError(
                f"{where} does not answer: {_first_line(error)}",
                remedy=f"See whether the server reaches it: ssh -p {access.port} {access.username}@{access.host}",
            ) from error
        except (OSError, EOFError, ValueError, paramiko.SSHException) as error:
            raise DriverError(
                f"The session with {where.lower()} broke off: {_first_line(error)}",
                remedy="The switch's own log may say why. It is tried again.",
            ) from error
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


def _with_complaints(result: PortConfig | DriverError, said: str) -> PortConfig | DriverError:
    """What the switch said against it, with the error that came of it."""
    against = list(dict.fromkeys(complaints(said)))
    if isinstance(result, PortConfig) or not against:
        return result
    told = "; ".join(against[:_SHOWN_COMPLAINTS])
    return DriverError(f"{result} The switch said: {told}", retryable=result.retryable, remedy=result.remedy)


def _first_line(error: BaseException) -> str:
    """Without netmiko's headline, which says that there was an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.endswith("connection creation:")]
    return next(iter(told), type(error).__name__)


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
    unused_vlan: int = 0,
    timeout_s: float = 15,
) -> SshSwitch:
    """A switch at `host`, whose host key has the `fingerprint` (as `ssh-keygen -l` prints it) or is in the file
    `known_hosts` (that of the server's user when neither is given). `unused_vlan` is one that nothing uses, for
    settings that must name a VLAN and mean none (0: the one that suits this kind of switch); `timeout_s` bounds
    each answer.
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
