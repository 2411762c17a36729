"""bmi image: golden images."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from bmi.cli import output
from bmi.cli.session import Session, pass_session
from bmi.cli.waiting import operated, wait_options

_SHOW: output.Columns = {
    "name": lambda image: image["name"],
    "state": lambda image: image["state"],
    "project": lambda image: image["project"],
    "public": lambda image: image["public"],
    "size": lambda image: output.size(image["size_bytes"]),
    "format": lambda image: image["format"],
    "sha256": lambda image: image["sha256"],
    "boot": lambda image: (
        image["boot"] and ", ".join(f"{key}: {value}" for key, value in image["boot"].items() if value)
    ),
    "created": lambda image: output.when(image["created_at"]),
}

project_option = click.option("--project", help="For administrators: the project that is meant.")


@click.group()
def image() -> None:
    """Images: what nodes boot clones of."""


@image.command("import")
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--project",
    help="For administrators: the project that will own it; by default the site, for every project to use.",
)
@click.option(
    "--public", is_flag=True, help="For administrators, with --project: every other project may use it too."
)
@wait_options
@pass_session
def import_image(
    session: Session, name: str, file: Path, project: str | None, public: bool, wait: bool, timeout_s: float
) -> None:
    """Import a raw or qcow2 disk image from a file."""
    with _progress_of(file) as on_progress:
        made = session.client.import_image(
            name, file, project=project, public=public, on_progress=on_progress
        )
    operated(session, made, wait=wait, timeout_s=timeout_s)


@contextmanager
def _progress_of(file: Path) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; silence elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _sent, _total: None
        return
    with click.progressbar(length=file.stat().st_size, label="Uploading", file=sys.stderr) as bar:
        yield lambda sent, _total: bar.update(sent - bar.pos)


@image.command("list")
@output.json_option
@pass_session
def list_images(session: Session) -> None:
    """List the images that you may use."""
    output.items(
        session,
        session.client.list_images(),
        {
            "NAME": lambda image: image["name"],
            "STATE": lambda image: image["state"],
            "PROJECT": lambda image: image["project"],
            "PUBLIC": lambda image: image["public"],
            "SIZE": lambda image: output.size(image["size_bytes"]),
            "CREATED": lambda image: output.when(image["created_at"]),
        },
    )


@image.command()
@click.argument("name")
@project_option
@output.json_option
@pass_session
def show(session: Session, name: str, project: str | None) -> None:
    """Show one image."""
    output.item(session, session.client.get_image(name, project=project), _SHOW)


@image.command()
@click.argument("name")
@project_option
@wait_options
@pass_session
def delete(session: Session, name: str, project: str | None, wait: bool, timeout_s: float) -> None:
    """Delete an image that nothing depends on."""
    operated(session, session.client.delete_image(name, project=project), wait=wait, timeout_s=timeout_s)
