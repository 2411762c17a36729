"""bmi project: tenants and their boot networks."""

import click

from bmi.cli import output
from bmi.cli.session import Session, pass_session
from bmi.cli.waiting import operated, wait_options

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
@wait_options
@pass_session
def create(
    session: Session, name: str, vlan: int | None, address: str | None, wait: bool, timeout_s: float
) -> None:
    """Create a project and open its boot network."""
    operated(
        session,
        session.client.create_project(name, vlan=vlan, address=address),
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
