"""bmi image tree: what was made from what, as text, JSON, DOT or a picture."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from bmi.cli import output
from bmi.cli.image import project_option
from bmi.cli.picture import svg
from bmi.cli.session import Session, pass_session

if TYPE_CHECKING:
    from bmi.client.documents import Kin


@click.command()
@click.argument("name", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "dot", "svg"]),
    default="text",
    show_default=True,
    help="A picture is SVG; DOT is for Graphviz.",
)
@project_option
@output.json_option
@pass_session
def tree(session: Session, name: str | None, form: str, project: str | None) -> None:
    """Show what was made from what: images and their versions, volumes, snapshots, nodes.

    With NAME (or NAME@VERSION) only what comes of that image. After each size stands what deleting the object
    would free, as last measured.
    """
    family = session.client.lineage(name, project=project)
    if session.as_json or form == "json":
        output.as_json(family)
        return
    draw: dict[str, Callable[[Sequence[Kin]], str]] = {"text": _text, "dot": _dot, "svg": svg}
    click.echo(draw[form](family).rstrip("\n"))


def _facts(kin: "Kin") -> str:
    size, own = output.size(kin["size_bytes"]), output.size(kin["unique_bytes"])
    facts = [size and (f"{size}, {own} unique" if own else size), kin["node"] and f"on node {kin['node']}"]
    state = kin["state"] if kin["state"] != "ready" else None
    return ", ".join(fact for fact in (*facts, state) if fact)


def _text(family: "Sequence[Kin]") -> str:
    children: dict[str | None, list[Kin]] = {}
    for kin in family:
        children.setdefault(kin["parent"], []).append(kin)
    lines: list[tuple[str, str]] = []

    def add(kin: "Kin", first: str, others: str) -> None:
        lines.append((f"{first}{kin['kind']} {kin['name']}", _facts(kin)))
        below = children.get(kin["id"], [])
        for child in below:
            last = child is below[-1]
            add(child, others + ("└── " if last else "├── "), others + ("    " if last else "│   "))

    for root in children.get(None, []):
        add(root, "", "")
    width = max((len(what) for what, _ in lines), default=0)
    return "\n".join(f"{what:{width}}  {facts}".rstrip() for what, facts in lines)


def _dot(family: "Sequence[Kin]") -> str:
    def quoted(text: str) -> str:
        return '"{}"'.format(text.replace("\\", "\\\\").replace('"', '\\"'))

    shapes = {"image": "box3d", "volume": "box", "snapshot": "note"}
    lines = ["digraph lineage {", "  rankdir=LR", '  node [fontname="sans-serif"]']
    for kin in family:
        label = f"{kin['kind']} {kin['name']}\\n{_facts(kin)}"
        quoted_label = quoted(label).replace("\\\\n", "\\n")
        lines.append(f"  {quoted(kin['id'])} [shape={shapes[kin['kind']]} label={quoted_label}]")
        if kin["parent"]:
            lines.append(f"  {quoted(kin['parent'])} -> {quoted(kin['id'])}")
    return "\n".join([*lines, "}"])
