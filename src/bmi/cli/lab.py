"""bmi lab: virtual bare metal to try BMI out on."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bmi.cli import output
from bmi.cli.session import Session, pass_session
from bmi.errors import NotFoundError

if TYPE_CHECKING:
    from bmi.lab.lab import Lab

_directory = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/var/lib/bmi-lab"),
    show_default=True,
    help="Where everything of the lab is.",
)


@click.group()
def lab() -> None:
    """A lab: virtual nodes with BMCs behind a real switch."""


@lab.command()
@click.option("--nodes", type=click.IntRange(1, 250), default=3, show_default=True)
@click.option("--name", default="lab", show_default=True, help="Unique on this machine.")
@click.option("--memory-mib", type=click.IntRange(min=256), default=1024, show_default=True)
@click.option("--disk-gib", type=click.IntRange(min=0), default=0, show_default=True, help="Local disk.")
@_directory
@output.json_option
@pass_session
def up(session: Session, nodes: int, name: str, memory_mib: int, disk_gib: int, directory: Path) -> None:
    """Bring a lab up and print how to register its nodes. Needs root."""
    from bmi.lab.lab import Lab  # noqa: PLC0415  # brings drivers along

    made = Lab.up(directory, nodes=nodes, name=name, memory_mib=memory_mib, disk_gib=disk_gib)
    if session.as_json:
        output.as_json(_described(made))
        return
    click.echo(f"The lab {made.name} is up. In bmi.toml:\n")
    click.echo(_uplink(made))
    click.echo("To register it:\n")
    for command in _commands(made):
        click.echo(shlex.join(command))


@lab.command()
@_directory
@output.json_option
@pass_session
def down(session: Session, directory: Path) -> None:
    """End and remove everything of a lab."""
    from bmi.lab.lab import Lab  # noqa: PLC0415  # brings drivers along

    try:
        Lab.open(directory).down()
    except NotFoundError:
        output.done(session, f"There is no lab in {directory}.")
    else:
        output.done(session, "The lab is down.")


@lab.command()
@_directory
@output.json_option
@pass_session
def status(session: Session, directory: Path) -> None:
    """Show what of a lab runs."""
    from bmi.lab.lab import Lab  # noqa: PLC0415  # brings drivers along

    opened = Lab.open(directory)
    state = opened.status()
    if session.as_json:
        parts = {"switch_answers": state.switch_answers, "bmc_answers": state.bmc_answers}
        output.as_json(_described(opened) | parts | {"power": state.power})
        return
    click.echo(
        f"Switch answers: {output.text(state.switch_answers)}; BMCs answer: {output.text(state.bmc_answers)}\n"
    )
    output.items(
        session,
        opened.nodes,
        {
            "NODE": lambda node: node.name,
            "POWER": lambda node: state.power[node.name],
            "MAC": lambda node: node.mac,
            "PORT": lambda node: node.switch_port,
            "CONSOLE": lambda node: node.console_path,
        },
    )


def _described(lab: "Lab") -> dict[str, Any]:
    return {
        "name": lab.name,
        "netns": lab.netns,
        "switch": {"driver": "ovs", "options": {"bridge": lab.bridge, "db": lab.switch_db}},
        "bmc_username": lab.bmc_username,
        "bmc_password_file": str(lab.bmc_password_file),
        "nodes": [
            {
                "name": node.name,
                "mac": node.mac,
                "port": node.switch_port,
                "bmc": node.bmc_url,
                "console": str(node.console_path),
            }
            for node in lab.nodes
        ],
    }


def _uplink(lab: "Lab") -> str:
    return (
        '[uplink]\ndriver = "ovs"\n'
        f'options = {{ bridge = "{lab.bridge}", db = "{lab.switch_db}", netns = "{lab.netns}" }}\n'
    )


def _commands(lab: "Lab") -> list[list[str]]:
    options = ["--option", f"bridge={lab.bridge}", "--option", f"db={lab.switch_db}"]
    credentials = ["--bmc-user", lab.bmc_username, "--bmc-password-file", str(lab.bmc_password_file)]
    register = ["bmi", "node", "register", *credentials]
    cabling = ["--switch", lab.name, "--port"]
    return [
        ["bmi", "switch", "register", lab.name, "--driver", "ovs", *options],
        *(
            [*register, node.name, "--mac", node.mac, "--bmc", node.bmc_url, *cabling, node.switch_port]
            for node in lab.nodes
        ),
    ]
