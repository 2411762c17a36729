"""bmi network: what the NICs of nodes are on."""

import click

from bmi.cli import output
from bmi.cli.session import Session, pass_session
from bmi.cli.waiting import operated, wait_options

_LIST: output.Columns = {
    "NAME": lambda network: network["name"],
    "PROJECT": lambda network: network["project"],
    "VLAN": lambda network: network["vlan"],
    "BOOT": lambda network: network["boot"],
    "PUBLIC": lambda network: network["public"],
    "NODES": lambda network: " ".join(sorted({member["node"] for member in network["members"]})),
}
_SHOW: output.Columns = {
    "name": lambda network: network["name"],
    "project": lambda network: network["project"],
    "VLAN": lambda network: network["vlan"],
    "boots nodes": lambda network: network["boot"],
    "public": lambda network: network["public"],
    "shared with": lambda network: " ".join(network["shared_with"]),
    "members": lambda network: ", ".join(
        f"{member['node']} {member['nic']}{' (tagged)' if member['tagged'] else ''}"
        for member in network["members"]
    ),
    "created": lambda network: output.when(network["created_at"]),
}
_project_option = click.option("--project", help="For administrators: the project that is meant.")
_of_option = click.option("--of", metavar="PROJECT", help="Whose network is meant, if several have its name.")
_nic_option = click.option("--nic", default="boot", show_default=True, help="The NIC of the node.")


@click.group()
def network() -> None:
    """Networks: what the NICs of nodes are on."""


@network.command()
@click.argument("name")
@click.option("--vlan", type=click.IntRange(2, 4094), help="For administrators; by default a free one.")
@click.option("--public", is_flag=True, help="For administrators: every project may attach to it.")
@click.option("--project", help="For administrators: whose it is; by default the site's.")
@output.json_option
@pass_session
def create(session: Session, name: str, vlan: int | None, public: bool, project: str | None) -> None:
    """Make a network with a VLAN of its own."""
    made = session.client.create_network(name, project=project, vlan=vlan, public=public)
    output.item(session, made, _SHOW)


@network.command("list")
@output.json_option
@pass_session
def list_networks(session: Session) -> None:
    """List the networks that you may attach nodes to."""
    output.items(session, session.client.list_networks(), _LIST)


@network.command()
@click.argument("name")
@_project_option
@output.json_option
@pass_session
def show(session: Session, name: str, project: str | None) -> None:
    """Show one network, and your nodes on it."""
    output.item(session, session.client.get_network(name, project=project), _SHOW)


@network.command()
@click.argument("name")
@_project_option
@output.json_option
@pass_session
def delete(session: Session, name: str, project: str | None) -> None:
    """Forget a network that no node is on."""
    session.client.delete_network(name, project=project)
    output.done(session, f"Network {name} is deleted.")


@network.command()
@click.argument("name")
@click.option("--with", "other", help="The project that may attach to it as well.")
@click.option("--public", is_flag=True, help="For administrators: every project may.")
@_project_option
@output.json_option
@pass_session
def share(session: Session, name: str, other: str | None, public: bool, project: str | None) -> None:
    """Let another project, or all, attach nodes to a network."""
    _change(session, name, other, public=public, shared=True, project=project)


@network.command()
@click.argument("name")
@click.option("--with", "other", help="The project that may attach to it no more.")
@click.option("--public", is_flag=True, help="For administrators: no longer every project.")
@_of_option
@_project_option
@output.json_option
@pass_session
def unshare(
    session: Session, name: str, other: str | None, public: bool, of: str | None, project: str | None
) -> None:
    """Take a network back from another project, or from all; refused while nodes of theirs are on it. With your own
    project: do without one that is shared with you.
    """
    _change(session, name, other, public=public, shared=False, project=project, of=of)


def _change(
    session: Session,
    name: str,
    other: str | None,
    *,
    public: bool,
    shared: bool,
    project: str | None,
    of: str | None = None,
) -> None:
    if public == bool(other):
        raise click.UsageError("Give either --with or --public.")
    client = session.client
    if other is None:
        changed = client.publish_network(name, public=shared, project=project)
    elif shared:
        changed = client.share_network(name, other, project=project)
    else:
        changed = client.unshare_network(name, other, project=project, of=of)
    output.item(session, changed, _SHOW)


@network.command()
@click.argument("name")
@click.argument("node")
@_nic_option
@click.option("--tagged/--native", default=False, help="With its VLAN tag, or without.")
@_of_option
@wait_options
@pass_session
def attach(
    session: Session,
    name: str,
    node: str,
    nic: str,
    tagged: bool,
    of: str | None,
    wait: bool,
    timeout_s: float,
) -> None:
    """Put a NIC of a node on a network."""
    made = session.client.attach_network(name, node, nic=nic, tagged=tagged, of=of)
    operated(session, made, wait=wait, timeout_s=timeout_s)


@network.command()
@click.argument("name")
@click.argument("node")
@_nic_option
@_of_option
@wait_options
@pass_session
def detach(
    session: Session, name: str, node: str, nic: str, of: str | None, wait: bool, timeout_s: float
) -> None:
    """Take a NIC of a node off a network."""
    made = session.client.detach_network(name, node, nic=nic, of=of)
    operated(session, made, wait=wait, timeout_s=timeout_s)
