"""bmi project: tenants and their boot networks."""

from typing import TYPE_CHECKING

import click

from bmi.cli import output
from bmi.cli.session import Session, pass_session
from bmi.cli.sizes import NO_LIMIT, limit
from bmi.cli.waiting import operated, wait_options

if TYPE_CHECKING:
    from bmi.client.documents import Usage

_COLUMNS: output.Columns = {
    "NAME": lambda project: project["name"],
    "VLAN": lambda project: (project["network"] or {}).get("vlan"),
    "ADDRESS": lambda project: (project["network"] or {}).get("address"),
    "NETWORK": lambda project: (project["network"] or {}).get("state"),
    "CREATED": lambda project: output.when(project["created_at"]),
}


@click.group()
def project() -> None:
    """Projects: who shares nodes, images and a network."""


@project.command()
@click.argument("name")
@click.option("--vlan", type=click.IntRange(2, 4094), help="VLAN of its boot network; by default a free one.")
@click.option("--address", help="BMI's own address in it, like 10.96.1.1/24; by default from the pool.")
@click.option("--claims-as", help="Its name where nodes are taken from (HIL, say); by default the same.")
@wait_options
@pass_session
def create(
    session: Session,
    name: str,
    vlan: int | None,
    address: str | None,
    claims_as: str | None,
    wait: bool,
    timeout_s: float,
) -> None:
    """Create a project and open its boot network."""
    operated(
        session,
        session.client.create_project(name, vlan=vlan, address=address, claims_as=claims_as),
        wait=wait,
        timeout_s=timeout_s,
    )


@project.command("list")
@output.json_option
@pass_session
def list_projects(session: Session) -> None:
    """List the projects."""
    output.items(session, session.client.list_projects(), _COLUMNS)


@project.command()
@click.argument("name")
@output.json_option
@pass_session
def show(session: Session, name: str) -> None:
    """Show one project."""
    output.item(session, session.client.get_project(name), _COLUMNS)


@project.command()
@click.argument("name")
@wait_options
@pass_session
def delete(session: Session, name: str, wait: bool, timeout_s: float) -> None:
    """Delete a project that holds nothing any more."""
    operated(session, session.client.delete_project(name), wait=wait, timeout_s=timeout_s)


@project.command()
@click.argument("name")
@click.option("--nodes", type=limit, metavar="NUMBER", help="How many nodes; `none` lifts a limit.")
@click.option("--networks", type=limit, metavar="NUMBER", help="How many networks beside its boot network.")
@click.option("--volumes", type=limit, metavar="NUMBER", help="How many volumes.")
@click.option("--volume-bytes", type=limit, metavar="SIZE", help="Their sizes in all, like 1TiB.")
@click.option("--snapshots", type=limit, metavar="NUMBER", help="How many snapshots.")
@click.option("--images", type=limit, metavar="NUMBER", help="How many versions of images.")
@click.option("--image-bytes", type=limit, metavar="SIZE", help="Their sizes in all.")
@click.option(
    "--unique-bytes", type=limit, metavar="SIZE", help="What the project alone may hold in the store."
)
@output.json_option
@pass_session
def quota(session: Session, /, name: str, **limits: int | None) -> None:
    """Limit what a project may have; limits that are not named stay. What it has already stays as well."""
    said = {what: None if value == NO_LIMIT else value for what, value in limits.items() if value is not None}
    if not said:
        raise click.UsageError("Name a limit; `bmi project usage` shows those there are.")
    _show_usage(session, session.client.set_quota(name, **said))


@project.command()
@click.argument("name", required=False)
@output.json_option
@pass_session
def usage(session: Session, name: str | None) -> None:
    """Show what a project holds and may hold; by default your own.

    The bytes of volumes and images are the sizes of the disks. The unique bytes are what only this project's
    objects hold in the store, as last measured.
    """
    _show_usage(session, session.client.project_usage(name or _own(session)))


def _own(session: Session) -> str:
    own = session.client.whoami()["project"]
    if own is None:
        raise click.UsageError("Say of which project: an administrator has none.")
    return own


def _show_usage(session: Session, found: "Usage") -> None:
    if session.as_json:
        output.as_json(found)
        return

    def told(what: str, amounts: dict[str, int]) -> object:
        amount = amounts.get(what)
        return output.size(amount) if what.endswith("_bytes") else amount

    output.items(
        session,
        list(found["held"]),
        {
            "WHAT": lambda what: what.replace("_", " "),
            "HELD": lambda what: told(what, found["held"]),
            "LIMIT": lambda what: told(what, found["quota"]),
        },
    )
    if found["measured_at"]:
        click.echo(f"The unique bytes were measured at {output.when(found['measured_at'])} or later.")
