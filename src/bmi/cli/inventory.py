"""bmi node sync: the nodes of the service that nodes are taken from."""

import click

from bmi.cli import output
from bmi.cli.session import Session, pass_session
from bmi.cli.waiting import found_by, timeout_option


@click.command()
@timeout_option
@output.json_option
@pass_session
def sync(session: Session, timeout_s: float) -> None:
    """Register the free nodes of the service in [isolation] (HIL, say) that BMI does not know yet.

    Free nodes whose NICs are others there by now get these.
    Nodes that belong to somebody there are left, and named with the reason.
    """
    found = found_by(session, session.client.sync_nodes(), "sync_nodes", timeout_s)
    if session.as_json:
        output.as_json(found)
        return
    for name in found["added"]:
        click.echo(f"{name} is being registered")
    for name in found["changed"]:
        click.echo(f"{name} has the NICs now that it has there")
    for name, why in found["left"].items():
        click.echo(f"{name} is left: {why}")
    click.echo(f"{output.count(found['nodes'], 'node')} there, {len(found['added'])} new.")
