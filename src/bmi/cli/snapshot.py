"""bmi snapshot: frozen volumes."""

import click

from bmi.cli import output
from bmi.cli.image import project_option
from bmi.cli.session import Session, pass_session
from bmi.cli.waiting import operated, wait_options

_COLUMNS: output.Columns = {
    "NAME": lambda snapshot: snapshot["name"],
    "STATE": lambda snapshot: snapshot["state"],
    "PROJECT": lambda snapshot: snapshot["project"],
    "NODE": lambda snapshot: snapshot["node"],
    "IMAGE": lambda snapshot: snapshot["image"],
    "SIZE": lambda snapshot: output.size(snapshot["size_bytes"]),
    "CREATED": lambda snapshot: output.when(snapshot["created_at"]),
}


@click.group()
def snapshot() -> None:
    """Snapshots: frozen volumes, to boot other nodes from."""


@snapshot.command()
@click.argument("node")
@click.argument("name")
@wait_options
@pass_session
def create(session: Session, node: str, name: str, wait: bool, timeout_s: float) -> None:
    """Freeze the volume of an active node, while it runs."""
    operated(session, session.client.create_snapshot(node, name), wait=wait, timeout_s=timeout_s)


@snapshot.command("list")
@output.json_option
@pass_session
def list_snapshots(session: Session) -> None:
    """List the snapshots that you may see."""
    output.items(session, session.client.list_snapshots(), _COLUMNS)


@snapshot.command()
@click.argument("name")
@project_option
@output.json_option
@pass_session
def show(session: Session, name: str, project: str | None) -> None:
    """Show one snapshot."""
    output.item(session, session.client.get_snapshot(name, project=project), _COLUMNS)


@snapshot.command()
@click.argument("name")
@project_option
@wait_options
@pass_session
def delete(session: Session, name: str, project: str | None, wait: bool, timeout_s: float) -> None:
    """Delete a snapshot that no node was provisioned from."""
    operated(session, session.client.delete_snapshot(name, project=project), wait=wait, timeout_s=timeout_s)
