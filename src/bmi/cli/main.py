"""The root of the command line: global options, and every error as one sentence and an exit code."""

from pathlib import Path
from typing import Any

import click

from bmi import __version__
from bmi.cli import (
    audit,
    image,
    image_transfer,
    inventory,
    lab,
    login,
    member,
    network,
    node,
    operation,
    output,
    project,
    server,
    snapshot,
    storage,
    switch,
    token,
    tree,
    user,
    volume,
)
from bmi.cli.session import Session, exit_code
from bmi.errors import BmiError


class _Root(click.Group):
    """Turns errors into what a person and a script can use."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BmiError as error:
            click.echo(f"Error: {error}", err=True)
            if isinstance(ctx.obj, Session) and ctx.obj.as_json:
                output.as_json(error.problem())
            ctx.exit(exit_code(error))


@click.group(cls=_Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--url",
    envvar="BMI_URL",
    show_envvar=True,
    help="Where the API is; by default where the configuration file says that it listens.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with the token to use. Else BMI_TOKEN, then the file that BMI_TOKEN_FILE names, then that of "
    "`bmi login`, then the administrator's token of this machine's own server.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Configuration file; by default $BMI_CONFIG, then /etc/bmi/bmi.toml.",
)
@click.version_option(__version__, prog_name="bmi")
@click.pass_context
def main(context: click.Context, url: str | None, token_file: Path | None, config: Path | None) -> None:
    """Bare Metal Imaging: boots physical nodes from instant clones of golden images.

    \b
    Exit codes:
      0  done
      1  the operation failed, or the server met a problem
      2  the command line is wrong
      3  not found
      4  refused: the value or the state of things does not allow it
      5  no token, or one that may not do this
      6  the server cannot be reached, or is not ready

    With --json, a failed command prints its problem document (RFC 9457) on standard output.
    Shell completion for bash: eval "$(_BMI_COMPLETE=bash_source bmi)"
    """  # noqa: D301  # \b is click's mark for a paragraph to keep as it is
    context.obj = Session(config, url, token_file)
    context.call_on_close(context.obj.close)


project.project.add_command(member.member)
for command in (
    image_transfer.import_image,
    image_transfer.copy,
    image_transfer.export,
    image_transfer.download,
    tree.tree,
):
    image.image.add_command(command)
node.node.add_command(inventory.sync)
for command in (
    server.server,
    project.project,
    login.login,
    login.logout,
    login.whoami,
    login.password,
    token.token,
    user.user,
    audit.audit,
    switch.switch,
    network.network,
    node.node,
    node.provision,
    node.release,
    image.image,
    volume.volume,
    snapshot.snapshot,
    storage.storage,
    operation.operation,
    lab.lab,
):
    main.add_command(command)
