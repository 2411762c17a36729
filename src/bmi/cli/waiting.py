"""Waiting for an operation: its steps live on a terminal, line by line elsewhere; always on standard error."""

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import click

from bmi.cli import output
from bmi.cli.session import FAILED, Session

if TYPE_CHECKING:
    from rich.table import Table

    from bmi.client.documents import Json, Operation, Step

F = TypeVar("F", bound=Callable[..., object])

_INTERRUPTED = 130
_LOOK = {
    "pending": ("·", "dim"),
    "running": ("▶", "cyan"),
    "waiting": ("▶", "cyan"),
    "done": ("✔", "green"),
    "failed": ("✘", "red"),
    "undone": ("↩", "yellow"),
}

timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=3600,
    show_default=True,
    help="Seconds to wait at most; the operation itself goes on.",
)


def wait_options(command: F) -> F:
    """--wait, --timeout and --json, for commands that make an operation."""
    wait = click.option(
        "--wait/--no-wait", default=False, help="Show the steps and return when the operation has ended."
    )
    return wait(timeout_option(output.json_option(command)))


def operated(session: Session, operation: "Operation", *, wait: bool, timeout_s: float) -> None:
    """Ends a command that made an operation: waits for it, or says how to watch it."""
    if wait:
        see_through(session, operation["id"], timeout_s)
    elif session.as_json:
        output.as_json(operation)
    else:
        click.echo(f"Operation {operation['id']} ({_title(operation)}) is {operation['state']}.")
        click.echo(f"Watch it: bmi operation wait {operation['id']}")


def see_through(session: Session, operation_id: str, timeout_s: float, expected: str = "succeeded") -> None:
    """Shows an operation until it has ended; exits with 1 unless it ended as expected."""
    operation = _followed(session, operation_id, timeout_s)
    if session.as_json:
        output.as_json(operation)
    _require(operation, expected)
    if not session.as_json:
        click.echo(f"The {_title(operation)} has {operation['state']} after {_seconds(operation)}.")


def seen_through(session: Session, operation_id: str, timeout_s: float) -> "Operation":
    """The ended operation, for commands that print what came of it; exits with 1 unless it succeeded."""
    operation = _followed(session, operation_id, timeout_s)
    if session.as_json and operation["state"] != "succeeded":
        output.as_json(operation["problem"])
    _require(operation, "succeeded")
    return operation


def found_by(session: Session, operation: "Operation", step: str, timeout_s: float) -> "Json":
    """What a step of the operation found, for commands that print that; exits with 1 unless it succeeded."""
    ended = seen_through(session, operation["id"], timeout_s)
    return next(one["result"] or {} for one in ended["steps"] if one["name"] == step)


def _followed(session: Session, operation_id: str, timeout_s: float) -> "Operation":
    show = _live if sys.stderr.isatty() else _lines
    try:
        return show(session.client.follow(operation_id, timeout_s=timeout_s))
    except KeyboardInterrupt:
        click.echo(f"\nIt goes on. Watch it: bmi operation wait {operation_id}", err=True)
        raise click.exceptions.Exit(_INTERRUPTED) from None


def _require(operation: "Operation", expected: str) -> None:
    if operation["state"] != expected:
        click.echo(
            f"Error: The {_title(operation)} has {operation['state']}. {output.problem(operation['problem']) or ''}",
            err=True,
        )
        raise click.exceptions.Exit(FAILED)


def _title(operation: "Operation") -> str:
    return f"{operation['kind']} of {operation['subject_kind']} {operation['subject_name']}"


def _lines(updates: Iterator["Operation"]) -> "Operation":
    """A line whenever a step changes its state."""
    told: dict[str, str] = {}
    for operation in updates:
        for step in operation["steps"]:
            if step["state"] not in {"pending", told.get(step["name"])}:
                told[step["name"]] = step["state"]
                trouble = output.problem(step["problem"]) or ""
                click.echo(
                    f"{step['name']:18} {step['state']:8} {_seconds(step)} {trouble}".rstrip(), err=True
                )
    return operation


def _live(updates: Iterator["Operation"]) -> "Operation":
    """The list of steps, redrawn in place; seconds run between the updates."""
    from rich.console import Console  # noqa: PLC0415  # a tenth of a second that only this needs
    from rich.live import Live  # noqa: PLC0415  # likewise

    operation = next(updates)
    # A problem's `[/dev/sda]` is text, not a tag.
    console = Console(stderr=True, markup=False, emoji=False)
    with Live(get_renderable=lambda: _steps(operation), console=console, refresh_per_second=8) as live:
        for update in updates:
            operation = update
        live.refresh()
    return operation


def _steps(operation: "Operation") -> "Table":
    from rich.table import Table  # noqa: PLC0415  # see _live

    table = Table.grid(padding=(0, 2))
    table.add_row("", _title(operation), operation["state"], _seconds(operation), "", style="bold")
    for step in operation["steps"]:
        sign, style = _LOOK.get(step["state"], ("?", ""))
        table.add_row(
            sign,
            step["name"],
            step["state"],
            _seconds(step),
            output.problem(step["problem"]) or "",
            style=style,
        )
    return table


def _seconds(timed: "Operation | Step") -> str:
    if timed["started_at"] is None:
        return ""
    start = datetime.fromisoformat(timed["started_at"])
    end = datetime.fromisoformat(timed["finished_at"]) if timed["finished_at"] else datetime.now(UTC)
    # The server's clock may be ahead of ours.
    return f"{max((end - start).total_seconds(), 0):.1f} s"
