"""bmi node, bmi provision, bmi release: the machines."""

import os
import sys
from pathlib import Path
from typing import Any, Literal

import click

from bmi.cli import output
from bmi.cli.session import Session, pass_session
from bmi.cli.sizes import size
from bmi.cli.waiting import operated, seen_through, wait_options


def _nic(nic: dict[str, Any]) -> str:
    """Such as `data 52:54:00:12:34:57 (sw1 port13) on storage, backend tagged`."""
    networks = ", ".join(
        network["name"] + (" tagged" if network["tagged"] else "") for network in nic["networks"]
    )
    where = f" ({nic['switch']} {nic['port']})" if nic["switch"] else ""
    return f"{nic['name']} {nic['mac']}{where}{f' on {networks}' if networks else ''}"


_LIST: output.Columns = {
    "NAME": lambda node: node["name"],
    "STATE": lambda node: node["state"],
    "PROJECT": lambda node: node["project"],
    "LABELS": lambda node: " ".join(node["labels"]),
    "ADDRESS": lambda node: node["address"],
    "IMAGE": lambda node: node["image"],
    "MAC": lambda node: node["mac"],
    "OPERATION": lambda node: (node["operation"] or {}).get("kind"),
}
_SHOW: output.Columns = {
    "name": lambda node: node["name"],
    "state": lambda node: node["state"],
    "problem": lambda node: output.problem(node["problem"]),
    "project": lambda node: node["project"],
    "labels": lambda node: " ".join(node["labels"]),
    "address": lambda node: node["address"],
    "image": lambda node: node["image"],
    "snapshot": lambda node: node["snapshot"],
    "volume": lambda node: (
        node["volume"]
        and f"{node['volume']['name']} ({node['volume']['id']}), {output.size(node['volume']['size_bytes'])}, {node['volume']['state']}"
    ),
    "operation": lambda node: (
        node["operation"]
        and f"{node['operation']['id']} ({node['operation']['kind']}) is {node['operation']['state']}"
    ),
    "mac": lambda node: node["mac"],
    "switch port": lambda node: node["switch"] and f"{node['switch']} {node['port']}",
    "NICs": lambda node: "; ".join(map(_nic, node["nics"])),
    "BMC": lambda node: node["bmc"] and f"{node['bmc']['driver']}+{node['bmc']['address']}",
    "registered": lambda node: output.when(node["created_at"]),
}


@click.group()
def node() -> None:
    """Nodes: the machines, in the pool and in projects."""


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{file} cannot be read as text: {error}.") from error


def _nics(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> list[dict[str, str]]:
    """As the API takes them. The name of a port may have slashes, that of a switch has none."""
    nics = []
    for text in given:
        name, equals, rest = text.partition("=")
        mac, at, where = rest.partition("@")
        switch, slash, port = where.partition("/")
        if not (name and equals and mac) or bool(at) != bool(switch and slash and port):
            raise click.BadParameter(f"{text!r} is not NAME=MAC[@SWITCH/PORT].")
        nics.append({"name": name, "mac": mac} | ({"switch": switch, "port": port} if at else {}))
    return nics


def _password(file: Path | None) -> str:
    """From the file, from BMI_BMC_PASSWORD, or asked for: never from the command line, which others can read."""
    if file is not None:
        return _text(file).rstrip("\r\n")
    if "BMI_BMC_PASSWORD" in os.environ:
        return os.environ["BMI_BMC_PASSWORD"]
    if sys.stdin.isatty():
        return str(click.prompt("BMC password", hide_input=True, err=True))
    raise click.UsageError("The BMC's password is missing: give --bmc-password-file or set BMI_BMC_PASSWORD.")


@node.command()
@click.argument("name")
@click.option("--mac", required=True, help="Address of the NIC that it boots from.")
@click.option("--bmc", required=True, metavar="DRIVER+URL", help="Such as redfish+https://10.0.0.5.")
@click.option(
    "--bmc-user",
    default="",
    help="User name at the BMC; the password comes from a file, BMI_BMC_PASSWORD or a prompt.",
)
@click.option("--bmc-password-file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--bmc-verify-tls/--no-bmc-verify-tls", default=True, help="Check the BMC's certificate.")
@click.option("--switch", help="The switch that it is cabled to.")
@click.option("--port", help="The port there.")
@click.option(
    "--nic",
    "nics",
    multiple=True,
    metavar="NAME=MAC[@SWITCH/PORT]",
    callback=_nics,
    help="Another NIC, and where it is cabled to. May be repeated.",
)
@click.option("--label", "labels", multiple=True, help="What it can be asked for by. May be repeated.")
@wait_options
@pass_session
def register(
    session: Session,
    name: str,
    mac: str,
    bmc: str,
    bmc_user: str,
    bmc_password_file: Path | None,
    bmc_verify_tls: bool,
    switch: str | None,
    port: str | None,
    nics: list[dict[str, str]],
    labels: tuple[str, ...],
    wait: bool,
    timeout_s: float,
) -> None:
    """Take a node into the pool: its port is closed, its BMC asked."""
    made = session.client.register_node(
        name,
        mac=mac,
        bmc=bmc,
        bmc_username=bmc_user,
        bmc_password=_password(bmc_password_file) if bmc_user or bmc_password_file else "",
        bmc_verify_tls=bmc_verify_tls,
        switch=switch,
        port=port,
        labels=labels,
        nics=nics,
    )
    operated(session, made, wait=wait, timeout_s=timeout_s)


@node.command()
@output.json_option
@pass_session
def pool(session: Session) -> None:
    """Show how many nodes are free, by their labels."""
    output.items(
        session,
        session.client.pool(),
        {"LABELS": lambda kind: " ".join(kind["labels"]), "FREE": lambda kind: kind["free"]},
    )


@node.command()
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="So many, or none.")
@click.option("--label", "labels", multiple=True, help="Only nodes with this label. May be repeated.")
@click.option("--project", help="For administrators: the project that gets them.")
@wait_options
@pass_session
def allocate(
    session: Session, count: int, labels: tuple[str, ...], project: str | None, wait: bool, timeout_s: float
) -> None:
    """Take free nodes out of the pool for a project."""
    made = session.client.allocate_nodes(count, labels=labels, project=project)
    for operation in made["operations"] if wait else []:
        seen_through(session, operation["id"], timeout_s)
    if session.as_json:
        output.as_json(made)
        return
    click.echo("\n".join(made["nodes"]))
    if made["operations"] and not wait:
        click.echo("They are being claimed where they are taken from: bmi operation list --live", err=True)


@node.command()
@click.argument("name")
@wait_options
@pass_session
def free(session: Session, name: str, wait: bool, timeout_s: float) -> None:
    """Give a node without a volume back to the pool."""
    operated(session, session.client.free_node(name), wait=wait, timeout_s=timeout_s)


@node.command("label")
@click.argument("name")
@click.argument("labels", nargs=-1)
@click.option("--remove", multiple=True, metavar="LABEL", help="Take this label away. May be repeated.")
@output.json_option
@pass_session
def label_node(session: Session, name: str, labels: tuple[str, ...], remove: tuple[str, ...]) -> None:
    """Label a node, so that it can be asked for by that."""
    if not labels and not remove:
        raise click.UsageError("Name a label.")
    output.item(session, session.client.label_node(name, add=labels, remove=remove), _SHOW)


@node.command("list")
@output.json_option
@pass_session
def list_nodes(session: Session) -> None:
    """List your project's nodes; an administrator's list has all."""
    output.items(session, session.client.list_nodes(), _LIST)


@node.command()
@click.argument("name")
@output.json_option
@pass_session
def show(session: Session, name: str) -> None:
    """Show one node."""
    output.item(session, session.client.get_node(name), _SHOW)


@node.command()
@click.argument("name")
@output.json_option
@pass_session
def events(session: Session, name: str) -> None:
    """Show a node's timeline."""
    output.items(
        session,
        session.client.list_events(name),
        {
            "TIME": lambda event: output.when(event["at"]),
            "STAGE": lambda event: event["stage"],
            "DETAIL": lambda event: event["detail"],
        },
    )


@node.command()
@click.argument("name")
@click.argument("action", type=click.Choice(["on", "off", "cycle"]))
@wait_options
@pass_session
def power(
    session: Session, name: str, action: Literal["on", "off", "cycle"], wait: bool, timeout_s: float
) -> None:
    """Power an active node on, off, or off and on."""
    operated(session, session.client.power_node(name, action), wait=wait, timeout_s=timeout_s)


@node.command()
@click.argument("name")
@click.argument("snapshot")
@click.option("--force", is_flag=True, help="Even if it is a snapshot of another volume.")
@wait_options
@pass_session
def rollback(session: Session, name: str, snapshot: str, force: bool, wait: bool, timeout_s: float) -> None:
    """Give the volume of a node that is off the bytes of a snapshot; what it held since is lost."""
    made = session.client.roll_back_node(name, snapshot, force=force)
    operated(session, made, wait=wait, timeout_s=timeout_s)


@node.command()
@click.argument("name")
@wait_options
@pass_session
def delete(session: Session, name: str, wait: bool, timeout_s: float) -> None:
    """Take a node out of the pool."""
    operated(session, session.client.delete_node(name), wait=wait, timeout_s=timeout_s)


@click.command()
@click.argument("node")
@click.option("--image", help="Boot from a clone of this image.")
@click.option("--snapshot", help="Boot from a clone of this snapshot.")
@click.option("--volume", help="Boot from this detached volume, which keeps its identity.")
@click.option(
    "--size", "size_bytes", type=size, metavar="SIZE", help="Make the clone this large, like 40GiB."
)
@click.option("--project", help="For administrators: the project that gets the node.")
@click.option("--hostname", help="By default the node's name.")
@click.option(
    "--ssh-key",
    "ssh_key_files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with public keys that may log in. May be repeated.",
)
@click.option(
    "--user-data",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with cloud-init user-data.",
)
@wait_options
@pass_session
def provision(
    session: Session,
    node: str,
    image: str | None,
    snapshot: str | None,
    volume: str | None,
    size_bytes: int | None,
    project: str | None,
    hostname: str | None,
    ssh_key_files: tuple[Path, ...],
    user_data: Path | None,
    wait: bool,
    timeout_s: float,
) -> None:
    """Boot a node of your project from a fresh clone of an image or a snapshot, or from a detached volume."""
    if [image, snapshot, volume].count(None) != 2:
        raise click.UsageError("Give exactly one of --image, --snapshot and --volume.")
    made = session.client.provision_node(
        node,
        image=image,
        snapshot=snapshot,
        volume=volume,
        size_bytes=size_bytes,
        project=project,
        hostname=hostname,
        ssh_keys=[key for file in ssh_key_files for key in _public_keys(file)],
        user_data=_text(user_data) if user_data else "",
    )
    operated(session, made, wait=wait, timeout_s=timeout_s)


def _public_keys(file: Path) -> list[str]:
    """The lines of an OpenSSH .pub or authorized_keys file, comments aside (sshd(8))."""
    lines = [line.strip() for line in _text(file).splitlines()]
    if any("PRIVATE KEY" in line for line in lines):
        raise click.BadParameter(
            f"{file} is a private key; give the .pub file beside it.", param_hint="--ssh-key"
        )
    return [line for line in lines if line and not line.startswith("#")]


@click.command()
@click.argument("node")
@click.option("--keep-volume", is_flag=True, help="Detach the volume instead of deleting it.")
@click.option("--as", "keep_as", metavar="NAME", help="What to call the volume from then on.")
@wait_options
@pass_session
def release(
    session: Session, node: str, keep_volume: bool, keep_as: str | None, wait: bool, timeout_s: float
) -> None:
    """Empty a node: off, its port closed, its volume gone, or with --keep-volume detached.

    It stays your project's; `bmi node free` gives it back to the pool.
    """
    if keep_as and not keep_volume:
        raise click.UsageError("--as goes with --keep-volume.")
    made = session.client.release_node(node, keep_volume=keep_volume, keep_as=keep_as)
    operated(session, made, wait=wait, timeout_s=timeout_s)
