"""bmi audit: who did what."""

import click

from bmi.cli import output
from bmi.cli.session import Session, pass_session


@click.group()
def audit() -> None:
    """The audit log: who did what, from where, and what came of it."""


@audit.command("list")
@click.option("--by", help="Only of this actor.")
@click.option("--refused", is_flag=True, help="Only what was refused.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="How many.")
@output.json_option
@pass_session
def list_audit(session: Session, by: str | None, refused: bool, limit: int) -> None:
    """List the newest entries, newest first."""
    output.items(
        session,
        session.client.list_audit(by=by, refused=refused, limit=limit),
        {
            "AT": lambda entry: output.when(entry["at"]),
            "ACTOR": lambda entry: entry["actor"],
            "ADDRESS": lambda entry: entry["address"],
            "ACTION": lambda entry: entry["action"],
            "OBJECT": lambda entry: entry["object"],
            "PROJECT": lambda entry: entry["project"],
            "STATUS": lambda entry: entry["status"],
            "PROBLEM": lambda entry: entry["problem"],
            "DETAIL": lambda entry: entry["detail"],
        },
    )
