"""How answers look: aligned columns and lines for people, JSON for programs."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from bmi.cli.session import Session

Columns = Mapping[str, Callable[[Any], object]]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def _set_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    context.ensure_object(Session).as_json = value


json_option = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    callback=_set_json,
    help="Print JSON on standard output, and nothing else.",
)


def as_json(value: object) -> None:
    """Prints one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def items(session: Session, found: Sequence[Any], columns: Columns) -> None:
    """Prints a list; each column says how it is read off an item."""
    if session.as_json:
        as_json(found)
        return
    rows = [list(columns), *([text(read(item)) for read in columns.values()] for item in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def item(session: Session, found: Any, fields: Columns) -> None:
    """Prints one thing; what it does not have is left out."""
    if session.as_json:
        as_json(found)
        return
    shown = {name: text(read(found)) for name, read in fields.items()}
    width = max(map(len, shown)) + 1
    for name, value in shown.items():
        if value != "-":
            click.echo(f"{name + ':':{width}} {value}")


def done(session: Session, sentence: str) -> None:
    """Says that something without an answer has happened."""
    if session.as_json:
        as_json({})
    else:
        click.echo(sentence)


def text(value: object) -> str:
    """A value for people: `-` for nothing, yes and no for truths."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def when(moment: str | None) -> str | None:
    """An RFC 3339 time in the reader's own time zone."""
    if moment is None:
        return None
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def size(size_bytes: int | None) -> str | None:
    """Bytes in the largest unit that leaves at least one."""
    if size_bytes is None:
        return None
    number, unit = float(size_bytes), 0
    while number >= 1024 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.1f} {_UNITS[unit]}" if unit else f"{size_bytes} B"


def count(number: int, thing: str) -> str:
    """`1 object`, `2 objects`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def problem(document: Mapping[str, Any] | None) -> str | None:
    """What is wrong, and what to do about it."""
    if not document:
        return None
    return f"{document.get('detail', '')} {document.get('remedy', '')}".strip()
