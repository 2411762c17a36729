"""bmi switch: what the nodes are cabled to."""

import csv
import json
from pathlib import Path
from typing import Any

import click

from bmi.cli import output
from bmi.cli.session import FAILED, Session, pass_session
from bmi.cli.waiting import found_by, timeout_option


@click.group()
def switch() -> None:
    """Switches: what the nodes are cabled to."""


def _options(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE pairs; a value that is JSON counts as that, any other as text."""
    options: dict[str, Any] = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE.")
        try:
            options[key] = json.loads(value)
        except ValueError:
            options[key] = value
    return options


_driver_options = click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_options,
    help="For the driver, such as bridge=br0. May be repeated.",
)


@switch.command()
@click.argument("name")
@click.option(
    "--driver",
    required=True,
    help="How it is spoken to, such as ovs or cisco_ios; docs/drivers.md lists all.",
)
@_driver_options
@output.json_option
@pass_session
def register(session: Session, name: str, driver: str, options: dict[str, Any]) -> None:
    """Make a switch known."""
    made = session.client.register_switch(name, driver=driver, options=options)
    if session.as_json:
        output.as_json(made)
    else:
        click.echo(f"Switch {name} is registered.")


@switch.command("set")
@click.argument("name")
@_driver_options
@output.json_option
@pass_session
def set_options(session: Session, name: str, options: dict[str, Any]) -> None:
    """Say anew how a switch is reached: after it was replaced, perhaps. What is not named stays; KEY=null drops it."""
    changed = session.client.change_switch(name, options=options)
    if session.as_json:
        output.as_json(changed)
    else:
        click.echo(f"Switch {name} is changed, and its ports are seen to: bmi switch check {name}")


@switch.command("list")
@output.json_option
@pass_session
def list_switches(session: Session) -> None:
    """List the switches."""
    output.items(
        session,
        session.client.list_switches(),
        {
            "NAME": lambda known: known["name"],
            "DRIVER": lambda known: known["driver"],
            "OPTIONS": lambda known: " ".join(f"{key}={value}" for key, value in known["options"].items()),
        },
    )


@switch.command()
@click.argument("name")
@output.json_option
@pass_session
def show(session: Session, name: str) -> None:
    """Show a switch and its ports: what each should be, and whether the switch was seen to have it so."""
    known, ports = session.client.get_switch(name), session.client.list_ports(name)
    if session.as_json:
        output.as_json({**known, "ports": ports})
        return
    click.echo(f"{name}: {known['driver']}, {output.count(len(ports), 'port')}")
    output.items(
        session,
        ports,
        {
            "PORT": lambda port: port["name"],
            "NODE": lambda port: port["node"],
            "NIC": lambda port: port["nic"],
            "SHOULD BE": _config,
            "IS SO": lambda port: port["settled"],
            "PROBLEM": lambda port: output.problem(port["problem"]),
        },
    )


def _config(port: Any) -> str:
    vlans = [str(port["native"])] if port["native"] else []
    return " ".join([*vlans, *(f"{vlan}t" for vlan in port["tagged"])]) or "closed"


@switch.command()
@click.argument("name")
@click.option(
    "--force",
    is_flag=True,
    help="Even with nodes cabled to it, or ports that were not seen closed: the hardware is gone.",
)
@output.json_option
@pass_session
def delete(session: Session, name: str, force: bool) -> None:
    """Forget a switch that no node is cabled to.

    With --force, nodes that are not in use are cabled to nothing from then on.
    """
    session.client.remove_switch(name, force=force)
    output.done(session, f"Switch {name} is removed.")


@switch.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Even off ports that were not seen closed: they are gone.")
@output.json_option
@pass_session
def cable(session: Session, file: Path, force: bool) -> None:
    """Say what is cabled to which port, from FILE: all of it, or nothing when a line is wrong.

    FILE is CSV with a first line of names, or JSON: a list of objects. The names are switch, port, node, nic
    (left out: boot) and, for a NIC that is not known yet, mac. A port without a node is kept closed.
    """
    number = session.client.cable(_cables(file), force=force)
    if session.as_json:
        output.as_json({"cables": number})
    else:
        click.echo(f"{output.count(number, 'cable')} taken down.")


def _cables(file: Path) -> list[dict[str, str]]:
    text = file.read_text(encoding="utf-8-sig")
    try:
        listed = json.loads(text) if file.suffix == ".json" else list(csv.DictReader(text.splitlines()))
    except (ValueError, csv.Error) as error:
        raise click.BadParameter(f"{file} cannot be read: {error}") from error
    if not isinstance(listed, list) or not all(isinstance(one, dict) and None not in one for one in listed):
        raise click.BadParameter(
            f"{file} is no list of cables, or a line has more cells than there are names."
        )
    return [{name: cell for name, cell in one.items() if cell not in {None, ""}} for one in listed]


@switch.command()
@click.argument("name")
@timeout_option
@output.json_option
@pass_session
def check(session: Session, name: str, timeout_s: float) -> None:
    """Ask whether a switch answers, and would take changes."""
    said = found_by(session, session.client.check_switch(name), "ask_switch", timeout_s)
    if session.as_json:
        output.as_json(said)
    else:
        click.echo(said["found"])


@switch.command()
@click.argument("name")
@timeout_option
@output.json_option
@pass_session
def diff(session: Session, name: str, timeout_s: float) -> None:
    """Show the ports that are not what they should be; exits with 1 if there are any."""
    found = found_by(session, session.client.check_switch(name), "compare_ports", timeout_s)
    _tell(session, name, found)


@switch.command()
@click.argument("name")
@click.option("--widen", is_flag=True, help="Also give ports back what they should be on.")
@timeout_option
@output.json_option
@pass_session
def repair(session: Session, name: str, widen: bool, timeout_s: float) -> None:
    """Take ports off what they should not be on; with --widen, make them all that they should be."""
    asked = session.client.check_switch(name, repair=True, widen=widen)
    _tell(session, name, found_by(session, asked, "compare_ports", timeout_s))


def _tell(session: Session, name: str, found: dict[str, Any]) -> None:
    left = [one for one in found["differences"] if not one["mended"]]
    if session.as_json:
        output.as_json(found)
    else:
        for one in found["differences"]:
            mended = ": mended" if one["mended"] else ""
            click.echo(f"Port {one['port']} should be {one['wanted']}, and is {one['found']}{mended}.")
        others = f", {output.count(found['others'], 'other')} left alone" if found["others"] else ""
        told = f"{output.count(found['ports'], 'port')}{others}, {output.count(len(left), 'difference')} left"
        click.echo(f"Switch {name}: {told}.")
    if left:
        remedy = f"`bmi switch repair {name}` takes away what is too much, `--widen` also gives back what is missing."
        click.echo(f"Error: {output.count(len(left), 'difference')} left. {remedy}", err=True)
        raise click.exceptions.Exit(FAILED)
