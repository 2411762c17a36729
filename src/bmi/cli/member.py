"""bmi project member: who is in a project."""

import click

from bmi.cli import output
from bmi.cli.session import Session, pass_session

_COLUMNS: output.Columns = {"USER": lambda known: known["user"], "ROLE": lambda known: known["role"]}


@click.group()
def member() -> None:
    """Members: who may work in a project, and who may look."""


@member.command("list")
@click.argument("project")
@output.json_option
@pass_session
def list_members(session: Session, project: str) -> None:
    """List who is in a project."""
    output.items(session, session.client.list_members(project), _COLUMNS)


@member.command("set")
@click.argument("project")
@click.argument("user")
@click.option("--reader", is_flag=True, help="May only look.")
@output.json_option
@pass_session
def set_member(session: Session, project: str, user: str, reader: bool) -> None:
    """Make a user a member of a project, or a reader."""
    made = session.client.set_member(project, user, "reader" if reader else "member")
    if session.as_json:
        output.as_json(made)
    else:
        click.echo(f"{user} is a {made['role']} of {project}.")


@member.command()
@click.argument("project")
@click.argument("user")
@output.json_option
@pass_session
def remove(session: Session, project: str, user: str) -> None:
    """Take a user out of a project; their tokens for it open nothing any more."""
    session.client.remove_member(project, user)
    output.done(session, f"{user} is no longer in {project}.")
