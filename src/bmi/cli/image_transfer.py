"""bmi image import, copy, export and download: images on their way in and out."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bmi.cli import output
from bmi.cli.image import label_option, project_option
from bmi.cli.session import Session, pass_session
from bmi.cli.waiting import operated, seen_through, timeout_option, wait_options

_OWNER = click.option(
    "--project",
    help="For administrators: the project that will own it; by default the site, for every project to use.",
)
_PUBLIC = click.option(
    "--public/--private",
    default=None,
    help="For administrators, with --project: whether every other project may use it too.",
)
_DESCRIPTION = click.option("--description", help="What it is, for people; else that of the version before.")


@click.command("import")
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--url", help="Fetch it from this https:// address.")
@click.option("--sha256", help="The SHA-256 that the file, or what is behind the URL, must have.")
@click.option("--image", "image_name", help="Make it from another image.")
@click.option("--snapshot", help="Make it from a snapshot.")
@click.option("--volume", help="Make it from a volume as it is now; its node may run.")
@click.option("--rbd", metavar="POOL/IMAGE[@SNAP]", help="Adopt an image of the Ceph store, without a copy.")
@click.option("--from-project", help="For administrators: the project of the image, snapshot or volume.")
@_OWNER
@_PUBLIC
@_DESCRIPTION
@label_option
@wait_options
@pass_session
def import_image(
    session: Session,
    /,
    name: str,
    file: Path | None,
    sha256: str | None,
    from_project: str | None,
    image_name: str | None,
    wait: bool,
    timeout_s: float,
    **said: Any,
) -> None:
    """Make an image of a disk image in a FILE (raw, qcow2, vmdk, vdi, vhd or vhdx; as it is or as .gz, .xz or
    .zst), or of what an option names. If images of this name exist, it is their next version.
    """
    kinds = {kind: said.pop(kind) for kind in ("url", "snapshot", "volume", "rbd")} | {"image": image_name}
    source = {kind: value for kind, value in kinds.items() if value}
    if len(source) + (file is not None) != 1:
        raise click.UsageError("Give a FILE, or one of --url, --image, --snapshot, --volume and --rbd.")
    told = {"project": said["project"], "public": said["public"]}
    told |= {"description": said["description"], "labels": said["labels"]}
    if file is not None:
        with progress("Uploading") as on_progress:
            made = session.client.import_image(name, file, sha256=sha256, on_progress=on_progress, **told)
    else:
        source |= {"sha256": sha256, "project": from_project}
        made = session.client.make_image(name, source, **told)
    operated(session, made, wait=wait, timeout_s=timeout_s)


@click.command()
@click.argument("name")
@click.argument("new_name")
@click.option("--from-project", help="For administrators: the project whose image it is.")
@_OWNER
@wait_options
@pass_session
def copy(
    session: Session,
    name: str,
    new_name: str,
    from_project: str | None,
    project: str | None,
    wait: bool,
    timeout_s: float,
) -> None:
    """Make an image of your own of one that you may use. No bytes are copied; `bmi image flatten` does that."""
    source = {"image": name, "project": from_project}
    made = session.client.make_image(new_name, source, project=project)
    operated(session, made, wait=wait, timeout_s=timeout_s)


@click.command()
@click.argument("name")
@click.option("--rbd", "location", metavar="POOL/IMAGE", required=True, help="Where nothing may be yet.")
@project_option
@wait_options
@pass_session
def export(
    session: Session, name: str, location: str, project: str | None, wait: bool, timeout_s: float
) -> None:
    """Write an independent copy into the Ceph store, beside BMI's own; for administrators."""
    made = session.client.publish_image(name, location, project=project)
    operated(session, made, wait=wait, timeout_s=timeout_s)


@click.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--format", "image_format", type=click.Choice(["qcow2", "raw"]), default="qcow2", show_default=True
)
@project_option
@timeout_option
@output.json_option
@pass_session
def download(
    session: Session, name: str, file: Path, image_format: str, project: str | None, timeout_s: float
) -> None:
    """Save an image as a file. What broke off goes on where it was; the checksum is compared at the end."""
    made = session.client.prepare_download(name, image_format, project=project)
    seen_through(session, made["id"], timeout_s)
    with progress("Downloading") as on_progress:
        sha256 = session.client.download_image(
            name, file, image_format, project=project, on_progress=on_progress
        )
    if session.as_json:
        output.as_json({"file": str(file), "sha256": sha256, "size_bytes": file.stat().st_size})
    else:
        click.echo(f"{file}: {output.size(file.stat().st_size)}, SHA-256 {sha256}")


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; silence elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    bar: Any = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = click.progressbar(length=total, label=label, file=sys.stderr, show_pos=False)
            bar.__enter__()
        bar.update(done - bar.pos)

    try:
        yield show
    finally:
        if bar is not None:
            bar.__exit__(None, None, None)
