"""bmi token: who may ask."""

import click

from bmi.cli import output
from bmi.cli.session import Session, pass_session


@click.group()
def token() -> None:
    """Tokens: who may use the API, for which project."""


@token.command()
@click.argument("name")
@click.option("--project", help="The project it is for; left out, it is an administrator's.")
@click.option("--days", type=click.FloatRange(min=0, min_open=True), help="Days until it expires.")
@output.json_option
@pass_session
def create(session: Session, name: str, project: str | None, days: float | None) -> None:
    """Create a token. Its secret is printed this once."""
    lifetime_s = days * 86400 if days else None
    made = session.client.create_token(name, project=project, lifetime_s=lifetime_s)
    if session.as_json:
        output.as_json(made)
    else:
        click.echo(made["secret"])


@token.command("list")
@output.json_option
@pass_session
def list_tokens(session: Session) -> None:
    """List the tokens, without their secrets."""
    output.items(
        session,
        session.client.list_tokens(),
        {
            "NAME": lambda known: known["name"],
            "ROLE": lambda known: known["role"],
            "PROJECT": lambda known: known["project"],
            "CREATED": lambda known: output.when(known["created_at"]),
            "EXPIRES": lambda known: output.when(known["expires_at"]),
        },
    )


@token.command()
@click.argument("name")
@output.json_option
@pass_session
def revoke(session: Session, name: str) -> None:
    """End a token at once."""
    session.client.revoke_token(name)
    output.done(session, f"Token {name} is revoked.")
