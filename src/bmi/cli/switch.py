"""bmi switch: what the nodes are cabled to."""

import json
from typing import Any

import click

from bmi.cli import output
from bmi.cli.session import Session, pass_session


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


@switch.command()
@click.argument("name")
@click.option("--driver", required=True, help="How it is spoken to: ovs, fake, or one that is installed.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_options,
    help="For the driver, such as bridge=br0. May be repeated.",
)
@output.json_option
@pass_session
def register(session: Session, name: str, driver: str, options: dict[str, Any]) -> None:
    """Make a switch known."""
    made = session.client.register_switch(name, driver=driver, options=options)
    if session.as_json:
        output.as_json(made)
    else:
        click.echo(f"Switch {name} is registered.")


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
def remove(session: Session, name: str) -> None:
    """Forget a switch that no node is cabled to."""
    session.client.remove_switch(name)
    output.done(session, f"Switch {name} is removed.")
