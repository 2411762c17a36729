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
    "VOLUME": lambda snapshot: snapshot["volume"],
    "IMAGE": lambda snapshot: snapshot["image"],
    "SIZE": lambda snapshot: output.size(snapshot["size_bytes"]),
    "UNIQUE": lambda snapshot: output.size(snapshot["unique_bytes"]),
    "CREATED": lambda snapshot: output.when(snapshot["created_at"]),
}


@click.group()
def snapshot() -> None:
    """Snapshots: frozen volumes, to boot other nodes from."""


@snapshot.command()
@click.argument("source", metavar="NODE")
@click.argument("name")
@click.option(
    "--volume", is_flag=True, help="NODE is the name of a volume instead: a detached one has no node."
)
@project_option
@wait_options
@pass_session
def create(
    session: Session,
    source: str,
    name: str,
    volume: bool,
    project: str | None,
    wait: bool,
    timeout_s: float,
) -> None:
    """Freeze the volume of an active node, on or off, or with --volume any volume."""
    if volume:
        made = session.client.create_volume_snapshot(source, name, project=project)
    else:
        made = session.client.create_snapshot(source, name)
    operated(session, made, wait=wait, timeout_s=timeout_s)


@snapshot.command()
@click.argument("name")
@click.option("--as", "image", required=True, help="The image that it becomes, or the next version of.")
@project_option
@wait_options
@pass_session
def promote(
    session: Session, name: str, image: str, project: str | None, wait: bool, timeout_s: float
) -> None:
    """Make an image of a snapshot, for the same project. Its volume lives on; nothing waits for a copy."""
    source = {"snapshot": name, "project": project}
    made = session.client.make_image(image, source, project=project)
    operated(session, made, wait=wait, timeout_s=timeout_s)


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
@click.argument("new_name")
@project_option
@output.json_option
@pass_session
def rename(session: Session, name: str, new_name: str, project: str | None) -> None:
    """Call a snapshot something else."""
    output.item(session, session.client.rename_snapshot(name, new_name, project=project), _COLUMNS)


@snapshot.command()
@click.argument("name")
@project_option
@wait_options
@pass_session
def delete(session: Session, name: str, project: str | None, wait: bool, timeout_s: float) -> None:
    """Delete a snapshot that nothing depends on."""
    operated(session, session.client.delete_snapshot(name, project=project), wait=wait, timeout_s=timeout_s)
