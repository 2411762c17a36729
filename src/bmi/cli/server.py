"""bmi server: runs it, or looks whether it could run."""

import click

from bmi.cli import output
from bmi.cli.session import FAILED, Session, pass_session
from bmi.errors import BmiError


@click.group()
def server() -> None:
    """Run the server on this machine."""


@server.command()
@pass_session
def run(session: Session) -> None:
    """Run the API, the boot service and the worker until stopped."""
    import logging  # noqa: PLC0415  # only the server logs

    from bmi import wiring  # noqa: PLC0415  # brings drivers and database along

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    wiring.serve(session.settings)


@server.command()
@output.json_option
@pass_session
def check(session: Session) -> None:
    """Look at each part of the installation and say what is wrong with it."""
    from bmi import wiring  # noqa: PLC0415  # brings drivers and database along

    found = wiring.check(session.settings)
    rows = [
        {"part": part, "ok": False, **said.problem()}
        if isinstance(said, BmiError)
        else {"part": part, "ok": True, "detail": said}
        for part, said in found
    ]
    output.items(
        session,
        rows,
        {
            "PART": lambda row: row["part"],
            "WELL": lambda row: row["ok"],
            "": lambda row: f"{row['detail']} {row.get('remedy', '')}".strip(),
        },
    )
    if not all(row["ok"] for row in rows):
        raise click.exceptions.Exit(FAILED)
