"""bmi operation: what is being done, and what was."""

from typing import TYPE_CHECKING

import click

from bmi.cli import output
from bmi.cli.session import Session, pass_session
from bmi.cli.waiting import operated, see_through, timeout_option, wait_options

if TYPE_CHECKING:
    from bmi.client.documents import Operation


def _steps(operation: "Operation") -> str:
    done = sum(step["state"] == "done" for step in operation["steps"])
    return f"{done}/{len(operation['steps'])}"


_LIST: output.Columns = {
    "ID": lambda operation: operation["id"],
    "KIND": lambda operation: operation["kind"],
    "SUBJECT": lambda operation: f"{operation['subject_kind']} {operation['subject_name']}",
    "STATE": lambda operation: operation["state"],
    "STEPS": _steps,
    "BY": lambda operation: operation["actor"],
    "CREATED": lambda operation: output.when(operation["created_at"]),
}
_SHOW: output.Columns = {
    "id": lambda operation: operation["id"],
    "kind": lambda operation: operation["kind"],
    "subject": lambda operation: f"{operation['subject_kind']} {operation['subject_name']}",
    "state": lambda operation: operation["state"],
    "problem": lambda operation: output.problem(operation["problem"]),
    "asked by": lambda operation: operation["actor"],
    "created": lambda operation: output.when(operation["created_at"]),
    "started": lambda operation: output.when(operation["started_at"]),
    "finished": lambda operation: output.when(operation["finished_at"]),
}
_STEPS: output.Columns = {
    "STEP": lambda step: step["name"],
    "STATE": lambda step: step["state"],
    "STARTED": lambda step: output.when(step["started_at"]),
    "FINISHED": lambda step: output.when(step["finished_at"]),
    "PROBLEM": lambda step: output.problem(step["problem"]),
}


@click.group()
def operation() -> None:
    """Operations: what is being done, step by step."""


@operation.command("list")
@click.option("--live", is_flag=True, help="Only those that have not ended.")
@click.option("--subject", help="Only those on the node, image or project that is called so.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@output.json_option
@pass_session
def list_operations(session: Session, live: bool, subject: str | None, limit: int) -> None:
    """List the newest operations."""
    output.items(session, session.client.list_operations(live=live, subject=subject, limit=limit), _LIST)


@operation.command()
@click.argument("operation_id", metavar="ID")
@output.json_option
@pass_session
def show(session: Session, operation_id: str) -> None:
    """Show one operation with its steps."""
    found = session.client.get_operation(operation_id)
    output.item(session, found, _SHOW)
    if not session.as_json:
        click.echo()
        output.items(session, found["steps"], _STEPS)


@operation.command()
@click.argument("operation_id", metavar="ID")
@timeout_option
@output.json_option
@pass_session
def wait(session: Session, operation_id: str, timeout_s: float) -> None:
    """Show the steps until the operation has ended; exit with 1 if it fails."""
    see_through(session, operation_id, timeout_s)


@operation.command()
@click.argument("operation_id", metavar="ID")
@wait_options
@pass_session
def cancel(session: Session, operation_id: str, wait: bool, timeout_s: float) -> None:
    """End an operation; what it did is undone."""
    cancelled = session.client.cancel_operation(operation_id)
    if wait:
        see_through(session, operation_id, timeout_s, expected="cancelled")
    else:
        operated(session, cancelled, wait=False, timeout_s=timeout_s)


@operation.command()
@click.argument("operation_id", metavar="ID")
@wait_options
@pass_session
def retry(session: Session, operation_id: str, wait: bool, timeout_s: float) -> None:
    """Go on with a failed operation where it failed."""
    operated(session, session.client.retry_operation(operation_id), wait=wait, timeout_s=timeout_s)
