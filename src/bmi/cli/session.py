"""What every command is given: where the server is, who asks, and how to answer."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bmi.cli import logins
from bmi.errors import BmiError, ConfigError

if TYPE_CHECKING:  # these cost tenths of a second that `bmi --help` need not wait for
    from bmi.client import Client
    from bmi.config import Settings

# What a shell script can tell apart; the help of `bmi` lists the same.
FAILED, USAGE, NOT_FOUND, REFUSED, NOT_ALLOWED, UNREACHABLE = 1, 2, 3, 4, 5, 6
_EXIT_CODES = {401: NOT_ALLOWED, 403: NOT_ALLOWED, 404: NOT_FOUND, 503: UNREACHABLE, 507: REFUSED}
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # to compare with, not to bind


def exit_code(error: BmiError) -> int:
    """The exit code that tells scripts what kind of failure it was."""
    refused = REFUSED if 400 <= error.status < 500 else FAILED
    return _EXIT_CODES.get(error.status, refused)


@dataclass
class Session:
    """The global options, and what is made of them when it is needed."""

    config: Path | None
    url: str | None
    token_file: Path | None
    as_json: bool = False

    @cached_property
    def settings(self) -> "Settings":
        """The server's settings, for commands that run it or look for it."""
        from bmi.config import load  # noqa: PLC0415  # see TYPE_CHECKING above

        return load(self.config)

    @cached_property
    def client(self) -> "Client":
        """The server, asked with the token that was found."""
        from bmi.client import Client  # noqa: PLC0415  # see TYPE_CHECKING above

        return Client(self.server_url, self._token)

    @cached_property
    def visitor(self) -> "Client":
        """The server, asked without any token: to log in."""
        return self.as_somebody("")

    def as_somebody(self, token: str) -> "Client":
        """The server, asked with this token."""
        from bmi.client import Client  # noqa: PLC0415  # see TYPE_CHECKING above

        return Client(self.server_url, token)

    def close(self) -> None:
        """Closes the connections, if there are any."""
        for name in ("client", "visitor"):
            if name in vars(self):
                getattr(self, name).close()

    @cached_property
    def server_url(self) -> str:
        """Where the server is."""
        return self.url or self._configured_url

    @property
    def _configured_url(self) -> str:
        server = self.settings.server
        host = _ANY_ADDRESS.get(server.host, server.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{server.port}"

    @property
    def _token(self) -> str:
        """From --token-file, BMI_TOKEN, BMI_TOKEN_FILE or the login at this server; else, and only for the server
        of this machine's own configuration, its administrator's token, if this user can read it.
        """
        if self.token_file is not None:
            return _read(self.token_file)
        if token := os.environ.get("BMI_TOKEN"):
            return token.strip()
        if path := os.environ.get("BMI_TOKEN_FILE"):
            return _read(Path(path))
        if token := logins.find(self.server_url):
            return token
        if self.url is None and os.access(self.settings.admin_token_path, os.R_OK):
            return _read(self.settings.admin_token_path)
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The token cannot be read from {path}.", remedy="Name the file that holds it: --token-file."
        ) from error


pass_session = click.make_pass_decorator(Session)
