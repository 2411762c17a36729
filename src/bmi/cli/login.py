"""bmi login, logout and whoami: who is asking."""

import base64
import hashlib
import secrets
import sys
import time
import webbrowser
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qs, urlsplit

import click

from bmi.cli import logins, output
from bmi.cli.session import Session, pass_session
from bmi.errors import TimedOutError, UnauthenticatedError

if TYPE_CHECKING:  # see bmi.cli.session
    from bmi.client.documents import NewToken

_PATIENCE_S = 600


def ask_password(prompt: str, *, confirm: bool = False) -> str:
    """A password from the terminal, without echo; or the next line of what is piped in."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    return str(click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True))


@click.command()
@click.option("--user", help="Who you are; asked for when left out.")
@click.option("--project", help="The project to work in; needed only by who is in several.")
@click.option("--oidc", is_flag=True, help="Log in at the site's OpenID provider.")
@click.option(
    "--no-browser", is_flag=True, help="Print the provider's address, and ask for the code it ends with."
)
@output.json_option
@pass_session
def login(session: Session, user: str | None, project: str | None, oidc: bool, no_browser: bool) -> None:
    """Log in, for this and later commands.

    The password is asked for, or read from standard input. The token is kept in
    $XDG_CONFIG_HOME/bmi/logins.json until it ends; BMI_TOKEN is still used before it.
    """
    if oidc or no_browser:
        made = _oidc(session, project, with_browser=not no_browser)
    else:
        name = user or str(click.prompt("User", err=True))
        made = session.visitor.log_in(name, ask_password("Password"), project=project)
    path = logins.keep(session.server_url, made["secret"])
    if session.as_json:
        output.as_json({name: value for name, value in made.items() if name != "secret"})
        return
    place = f"project {made['project']}, as {made['role']}" if made["project"] else "administrator"
    click.echo(f"Logged in as {made['user']} ({place}) until {output.when(made['expires_at'])}. See {path}.")


@click.command()
@output.json_option
@pass_session
def logout(session: Session) -> None:
    """End the login."""
    kept = logins.find(session.server_url)
    if not kept:
        raise UnauthenticatedError(
            f"You are not logged in at {session.server_url}.", remedy="See bmi whoami."
        )
    with session.as_somebody(kept) as client, suppress(UnauthenticatedError):  # it may have ended by itself
        client.log_out()
    logins.forget(session.server_url)
    output.done(session, "Logged out.")


@click.command()
@output.json_option
@pass_session
def whoami(session: Session) -> None:
    """Show whose token is used."""
    output.item(
        session,
        session.client.whoami(),
        {
            "name": lambda me: me["name"],
            "role": lambda me: me["role"],
            "project": lambda me: me["project"],
            "expires": lambda me: output.when(me["expires_at"]),
        },
    )


@click.command()
@output.json_option
@pass_session
def password(session: Session) -> None:
    """Change your own password; ends your other logins."""
    current = ask_password("Current password")
    session.client.change_password(current, ask_password("New password", confirm=True))
    output.done(session, "The password is changed.")


# ---- OpenID -----------------------------------------------------------------------------------------


def _oidc(session: Session, project: str | None, *, with_browser: bool) -> "NewToken":
    verifier = secrets.token_urlsafe(32)
    digest = hashlib.sha256(verifier.encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    word = f"Go on only where you are asked about the login {challenge[:6]}."
    if not with_browser:
        url = session.visitor.begin_oidc_login(challenge)
        click.echo(f"Open this address:\n\n{url}\n\n{word}", err=True)
        code = str(click.prompt("Code", err=True))
    else:
        with _Loopback() as loopback:
            url = session.visitor.begin_oidc_login(challenge, redirect=loopback.url)
            click.echo(f"Log in in your browser:\n\n{url}\n\n{word}", err=True)
            webbrowser.open(url)
            code = loopback.await_code()
    return session.visitor.redeem_oidc_login(code.strip(), verifier, project=project)


class _Loopback:
    """Waits on this machine's own address for the browser to come back (RFC 8252, 7.3)."""

    def __init__(self) -> None:
        # A path that nobody else on this machine knows.
        path = f"/{secrets.token_urlsafe(16)}"
        self._answer: dict[str, list[str]] = {}
        answers = self._answer

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                asked = urlsplit(self.path)
                if asked.path != path:
                    self.send_error(404)
                    return
                answers.update(parse_qs(asked.query))
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.end_headers()
                self.wfile.write(b"Go back to your terminal.\n")

            def log_message(self, *_said: object) -> None:
                """Says nothing: the address has the code in it."""

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._server.timeout = 1
        self.url = f"http://127.0.0.1:{self._server.server_port}{path}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._server.server_close()

    def await_code(self) -> str:
        """The code that the browser brings; raises UnauthenticatedError when it brings a refusal."""
        deadline = time.monotonic() + _PATIENCE_S
        while not self._answer:
            if time.monotonic() > deadline:
                raise TimedOutError("Nobody has logged in.", remedy="Try again, perhaps with --no-browser.")
            self._server.handle_request()
        if "code" not in self._answer:
            # What the server says has its remedy in it.
            said = self._answer.get("problem")
            raise UnauthenticatedError(
                said[0] if said else "The login failed.",
                remedy="" if said else "Try again: bmi login --oidc.",
            )
        return self._answer["code"][0]
