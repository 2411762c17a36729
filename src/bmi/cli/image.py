"""bmi image: golden images."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import click

from bmi.cli import output
from bmi.cli.session import Session, pass_session
from bmi.cli.waiting import operated, wait_options

F = TypeVar("F", bound=Callable[..., object])

_SHOW: output.Columns = {
    "name": lambda image: image["name"],
    "version": lambda image: image["version"],
    "state": lambda image: image["state"],
    "description": lambda image: image["description"],
    "labels": lambda image: " ".join(f"{key}={value}" for key, value in sorted(image["labels"].items())),
    "project": lambda image: image["project"],
    "public": lambda image: image["public"],
    "shared with": lambda image: ", ".join(image["shared_with"]),
    "protected": lambda image: image["protected"],
    "OS": lambda image: image["os_name"],
    "kernel": lambda image: image["kernel"],
    "size": lambda image: output.size(image["size_bytes"]),
    "unique": lambda image: output.size(image["unique_bytes"]),
    "format": lambda image: image["format"],
    "sha256": lambda image: image["sha256"],
    "made from": lambda image: _origin(image["origin"]),
    "made by": lambda image: image["created_by"],
    "boot": lambda image: (
        image["boot"] and ", ".join(f"{key}: {value}" for key, value in image["boot"].items() if value)
    ),
    "created": lambda image: output.when(image["created_at"]),
}

project_option = click.option("--project", help="For administrators: the project that is meant.")


def _origin(origin: dict[str, object] | None) -> str | None:
    if origin is None:
        return None
    return f"{origin['kind']} {origin['name']}{' (shares data with it)' if origin.get('depends') else ''}"


def pairs(_context: click.Context, _parameter: click.Parameter, said: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE, any number of times."""
    for pair in said:
        if "=" not in pair:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE.")
    return dict(pair.split("=", 1) for pair in said)


label_option = click.option(
    "--label", "labels", metavar="KEY=VALUE", multiple=True, callback=pairs, help="A label; repeatable."
)


@click.group()
def image() -> None:
    """Images: what nodes boot clones of.

    NAME is the newest ready version of an image, NAME@3 its version 3.
    """


@image.command("list")
@click.option(
    "--label",
    "labels",
    metavar="KEY=VALUE",
    multiple=True,
    callback=pairs,
    help="Only images with this label; repeatable.",
)
@click.option("--all-versions", is_flag=True, help="Old versions too.")
@output.json_option
@pass_session
def list_images(session: Session, labels: dict[str, str], all_versions: bool) -> None:
    """List the images that you may use."""
    output.items(
        session,
        session.client.list_images(labels=labels, all_versions=all_versions),
        {
            "NAME": lambda image: image["name"],
            "VERSION": lambda image: image["version"],
            "STATE": lambda image: image["state"],
            "PROJECT": lambda image: image["project"],
            "PUBLIC": lambda image: image["public"],
            "SIZE": lambda image: output.size(image["size_bytes"]),
            "OS": lambda image: image["os_name"],
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


@image.command("set")
@click.argument("name")
@click.option("--description", help="What it is, for people.")
@label_option
@click.option("--unlabel", metavar="KEY", multiple=True, help="A label to remove; repeatable.")
@click.option("--protect/--unprotect", "protected", default=None, help="Whether it can be deleted.")
@click.option(
    "--public/--private",
    default=None,
    help="For administrators: whether every project may use it (all its versions, unless one is named).",
)
@project_option
@output.json_option
@pass_session
def set_image(
    session: Session,
    name: str,
    description: str | None,
    labels: dict[str, str],
    unlabel: tuple[str, ...],
    protected: bool | None,
    public: bool | None,
    project: str | None,
) -> None:
    """Describe, label, protect or publish an image."""
    changed = session.client.change_image(
        name,
        description=description,
        labels=labels | dict.fromkeys(unlabel),
        protected=protected,
        public=public,
        project=project,
    )
    output.item(session, changed, _SHOW)


@image.command()
@click.argument("name")
@click.argument("new_name")
@project_option
@output.json_option
@pass_session
def rename(session: Session, name: str, new_name: str, project: str | None) -> None:
    """Call an image, with all its versions, something else."""
    output.item(session, session.client.change_image(name, new_name=new_name, project=project), _SHOW)


@image.command()
@click.argument("name")
@click.option("--with", "other", required=True, help="The project that may use it from now on.")
@project_option
@output.json_option
@pass_session
def share(session: Session, name: str, other: str, project: str | None) -> None:
    """Let another project use an image: all versions, also those to come, unless one is named."""
    output.item(session, session.client.share_image(name, other, project=project), _SHOW)


@image.command()
@click.argument("name")
@click.option("--with", "other", required=True, help="The project that may not use it any more.")
@click.option("--of", metavar="PROJECT", help="Whose image is meant, if several share one with yours.")
@project_option
@output.json_option
@pass_session
def unshare(session: Session, name: str, other: str, of: str | None, project: str | None) -> None:
    """Let another project use an image no more, or do without one that is shared with yours. What runs there goes
    on.
    """
    output.item(session, session.client.unshare_image(name, other, project=project, of=of), _SHOW)


@image.command()
@click.argument("name")
@click.option("--to", help="The project that gets it.")
@click.option("--to-site", is_flag=True, help="It becomes the site's, for every project to use.")
@project_option
@output.json_option
@pass_session
def move(session: Session, name: str, to: str | None, to_site: bool, project: str | None) -> None:
    """Give an image, with all its versions, to another project; for administrators."""
    if bool(to) == to_site:
        raise click.UsageError("Say where it goes: --to PROJECT or --to-site.")
    output.item(session, session.client.move_image(name, to, project=project), _SHOW)


@image.command()
@click.argument("name")
@project_option
@wait_options
@pass_session
def flatten(session: Session, name: str, project: str | None, wait: bool, timeout_s: float) -> None:
    """Make an image independent of what it was made from, so that this can be deleted."""
    operated(session, session.client.flatten_image(name, project=project), wait=wait, timeout_s=timeout_s)


@image.command()
@click.argument("name")
@click.option("--all-versions", is_flag=True, help="All versions of the image.")
@project_option
@wait_options
@pass_session
def delete(
    session: Session, name: str, all_versions: bool, project: str | None, wait: bool, timeout_s: float
) -> None:
    """Delete a version of an image, or all, if nothing depends on it."""
    made = session.client.delete_image(name, project=project, all_versions=all_versions)
    operated(session, made, wait=wait, timeout_s=timeout_s)
