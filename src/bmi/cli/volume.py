"""bmi volume: the disks of nodes, attached or not."""

import click

from bmi.cli import output
from bmi.cli.image import project_option
from bmi.cli.session import Session, pass_session
from bmi.cli.waiting import found_by, operated, timeout_option, wait_options

_COLUMNS: output.Columns = {
    "NAME": lambda volume: volume["name"],
    "STATE": lambda volume: volume["state"],
    "PROJECT": lambda volume: volume["project"],
    "NODE": lambda volume: volume["node"],
    "IMAGE": lambda volume: volume["image"],
    "SNAPSHOT": lambda volume: volume["snapshot"],
    "SIZE": lambda volume: output.size(volume["size_bytes"]),
    "UNIQUE": lambda volume: output.size(volume["unique_bytes"]),
    "CREATED": lambda volume: output.when(volume["created_at"]),
}


@click.group()
def volume() -> None:
    """Volumes: the disks of nodes; detached ones wait for another node."""


@volume.command("list")
@output.json_option
@pass_session
def list_volumes(session: Session) -> None:
    """List the volumes that you may see."""
    output.items(session, session.client.list_volumes(), _COLUMNS)


@volume.command()
@click.argument("name")
@project_option
@output.json_option
@pass_session
def show(session: Session, name: str, project: str | None) -> None:
    """Show one volume."""
    fields = {**_COLUMNS, "ID": lambda volume: volume["id"]}
    output.item(session, session.client.get_volume(name, project=project), fields)


@volume.command()
@click.argument("name")
@click.argument("new_name")
@project_option
@output.json_option
@pass_session
def rename(session: Session, name: str, new_name: str, project: str | None) -> None:
    """Call a volume something else."""
    output.item(session, session.client.rename_volume(name, new_name, project=project), _COLUMNS)


@volume.command()
@click.argument("name")
@project_option
@wait_options
@pass_session
def delete(session: Session, name: str, project: str | None, wait: bool, timeout_s: float) -> None:
    """Delete a volume that no node has, with all that is on it."""
    operated(session, session.client.delete_volume(name, project=project), wait=wait, timeout_s=timeout_s)


@volume.command()
@click.argument("name")
@project_option
@wait_options
@pass_session
def flatten(session: Session, name: str, project: str | None, wait: bool, timeout_s: float) -> None:
    """Make a volume independent of what it was cloned from. A node may run on it meanwhile."""
    operated(session, session.client.flatten_volume(name, project=project), wait=wait, timeout_s=timeout_s)


@volume.command()
@click.argument("name")
@click.argument("snapshot")
@click.option("--force", is_flag=True, help="Even if it is a snapshot of another volume.")
@project_option
@wait_options
@pass_session
def rollback(
    session: Session,
    name: str,
    snapshot: str,
    force: bool,
    project: str | None,
    wait: bool,
    timeout_s: float,
) -> None:
    """Give a detached volume the bytes of a snapshot; what it held since is lost.

    The volume of a node is rolled back with `bmi node rollback`.
    """
    made = session.client.roll_back_volume(name, snapshot, project=project, force=force)
    operated(session, made, wait=wait, timeout_s=timeout_s)


@volume.command()
@click.argument("older")
@click.argument("newer")
@project_option
@timeout_option
@output.json_option
@pass_session
def diff(session: Session, older: str, newer: str, project: str | None, timeout_s: float) -> None:
    """Show how much of a disk has changed between two points.

    Each is volume:NAME (as it is now), snapshot:NAME or image:NAME[@VERSION]; a name alone will do where only
    one of them has it. What is not counted is the same for certain; whole blocks count when a part of them
    may differ. With --json also where: the first thousand extents, as offset and length in bytes.
    """
    found = found_by(session, session.client.diff(older, newer, project=project), "compare", timeout_s)
    if session.as_json:
        output.as_json({"older": older, "newer": newer, **found})
    else:
        click.echo(f"{output.size(found['bytes'])} in {output.count(found['extents'], 'extent')} may differ.")
