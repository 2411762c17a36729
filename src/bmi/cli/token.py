"""bmi token: who may ask."""

import click

from bmi.cli import output
from bmi.cli.session import Session, pass_session


@click.group()
def token() -> None:
    """Tokens: who may use the API, for which project."""


@token.command()
@click.argument("name")
@click.option("--project", help="The project it is for; left out, an administrator's, or that of your login.")
@click.option("--reader", is_flag=True, help="May only look.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="Days until it expires.")
@click.option("--own", is_flag=True, help="For administrators: your own, instead of a service's.")
@output.json_option
@pass_session
def create(
    session: Session, name: str, project: str | None, reader: bool, days: float | None, own: bool
) -> None:
    """Create a token. Its secret is printed this once.

    Administrators create tokens of services, which last until they are revoked. Everybody who has logged in
    creates tokens of their own: they last 30 days, and never allow more than their owner still may.
    """
    made = session.client.create_token(
        name,
        project=project,
        role="reader" if reader else None,
        lifetime_s=days * 86400 if days else None,
        own=own,
    )
    if session.as_json:
        output.as_json(made)
    else:
        click.echo(made["secret"])


@token.command("list")
@output.json_option
@pass_session
def list_tokens(session: Session) -> None:
    """List your tokens, or all for an administrator, without their secrets."""
    output.items(
        session,
        session.client.list_tokens(),
        {
            "NAME": lambda known: known["name"],
            "USER": lambda known: known["user"],
            "ROLE": lambda known: known["role"],
            "PROJECT": lambda known: known["project"],
            "CREATED": lambda known: output.when(known["created_at"]),
            "EXPIRES": lambda known: output.when(known["expires_at"]),
            "ID": lambda known: known["id"],
        },
    )


@token.command()
@click.argument("name")
@output.json_option
@pass_session
def revoke(session: Session, name: str) -> None:
    """End a token at once, by its name or, for administrators, anybody's by its id."""
    session.client.revoke_token(name)
    output.done(session, f"Token {name} is revoked.")
