"""bmi storage: whether everything is in the store that should be, and nothing else."""

import click

from bmi.cli import output
from bmi.cli.session import FAILED, Session, pass_session
from bmi.cli.waiting import found_by, timeout_option


@click.group()
def storage() -> None:
    """The store as a whole, for administrators."""


@storage.command()
@click.option("--repair", is_flag=True, help="Remove left-overs of BMI's own; mark what is lost as `error`.")
@timeout_option
@output.json_option
@pass_session
def check(session: Session, repair: bool, timeout_s: float) -> None:
    """Compare what is written down with the store and the exports, and measure what each disk holds.

    Prints every difference, and exits with 1 if one is left. What is not BMI's own is counted and left alone.
    """
    found = found_by(session, session.client.check_storage(repair=repair), "check_storage", timeout_s)
    if session.as_json:
        output.as_json(found)
    else:
        for one in found["differences"]:
            click.echo(f"{one['name']} {one['what']}{': mended' if one['mended'] else ''}")
        told = [f"{output.count(found['objects'], 'object')} as written down"]
        told.append(output.count(found["different"], "difference"))
        if found["strangers"]:
            told.append(f"{output.count(found['strangers'], 'stranger')} left alone")
        click.echo(f"{', '.join(told)}.")
    left = found["different"] - sum(one["mended"] for one in found["differences"])
    if left:
        click.echo(
            f"Error: {output.count(left, 'difference')} left. With --repair, BMI mends what is its own.",
            err=True,
        )
        raise click.exceptions.Exit(FAILED)
