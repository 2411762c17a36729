"""bmi user: the people who may log in."""

import click

from bmi.cli import output
from bmi.cli.login import ask_password
from bmi.cli.session import Session, pass_session


@click.group()
def user() -> None:
    """Users: who may log in, and what they may do."""


_FIELDS: output.Columns = {
    "name": lambda known: known["name"],
    "admin": lambda known: known["admin"],
    "disabled": lambda known: known["disabled"],
    "password": lambda known: known["password"],
    "linked to": lambda known: f"{known['subject']} of {known['issuer']}" if known["subject"] else None,
    "projects": lambda known: ", ".join(f"{name} ({role})" for name, role in known["projects"].items()),
    "created": lambda known: output.when(known["created_at"]),
}


@user.command()
@click.argument("name")
@click.option("--admin", is_flag=True, help="May do everything.")
@click.option("--password", is_flag=True, help="Ask for a password, or read it from standard input.")
@output.json_option
@pass_session
def create(session: Session, name: str, admin: bool, password: bool) -> None:
    """Make a user known."""
    chosen = ask_password("Password", confirm=True) if password else None
    output.item(session, session.client.create_user(name, admin=admin, password=chosen), _FIELDS)


@user.command("list")
@output.json_option
@pass_session
def list_users(session: Session) -> None:
    """List the users."""
    columns = {name.upper(): read for name, read in _FIELDS.items()}
    output.items(session, session.client.list_users(), columns)


@user.command()
@click.argument("name")
@output.json_option
@pass_session
def show(session: Session, name: str) -> None:
    """Show one user."""
    output.item(session, session.client.get_user(name), _FIELDS)


@user.command()
@click.argument("name")
@output.json_option
@pass_session
def disable(session: Session, name: str) -> None:
    """Let a user do nothing any more; their tokens open nothing."""
    output.item(session, session.client.change_user(name, disabled=True), _FIELDS)


@user.command()
@click.argument("name")
@output.json_option
@pass_session
def enable(session: Session, name: str) -> None:
    """Let a disabled user in again; tokens that have not ended work again."""
    output.item(session, session.client.change_user(name, disabled=False), _FIELDS)


@user.command()
@click.argument("name")
@click.argument("state", type=click.Choice(["on", "off"]))
@output.json_option
@pass_session
def admin(session: Session, name: str, state: str) -> None:
    """Make a user an administrator, or no longer one."""
    output.item(session, session.client.change_user(name, admin=state == "on"), _FIELDS)


@user.command()
@click.argument("name")
@click.option("--remove", is_flag=True, help="Leave the user without a password.")
@click.option("--end-tokens", is_flag=True, help="End the tokens that they have made for themselves as well.")
@output.json_option
@pass_session
def password(session: Session, name: str, remove: bool, end_tokens: bool) -> None:
    """Set a user's password: asked for, or read from standard input. Ends their logins and a lock-out."""
    chosen = None if remove else ask_password("Password", confirm=True)
    session.client.set_password(name, chosen, end_tokens=end_tokens)
    output.done(session, f"The password of {name} is {'removed' if remove else 'set'}.")


@user.command()
@click.argument("name")
@output.json_option
@pass_session
def unlock(session: Session, name: str) -> None:
    """Forgive a user's failed logins, so that they may try again now."""
    session.client.unlock_user(name)
    output.done(session, f"{name} may log in.")


@user.command()
@click.argument("name")
@click.option("--issuer", help="The OpenID provider, as oidc.issuer has it.")
@click.option("--subject", help="What it calls the user.")
@click.option("--remove", is_flag=True, help="Link the user to nobody.")
@output.json_option
@pass_session
def link(session: Session, name: str, issuer: str | None, subject: str | None, remove: bool) -> None:
    """Let a user log in as a subject of an OpenID provider. Another link ends their logins."""
    if remove == bool(issuer or subject):
        raise click.UsageError("Give --issuer and --subject, or --remove.")
    output.item(session, session.client.change_user(name, link=(issuer or "", subject or "")), _FIELDS)
