"""``masche join``: let this machine into a mesh with a join string that is never on the command line."""

from pathlib import Path

import click

from masche.cli.options import data_option


@click.command()
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True),
    envvar="MASCHE_TOKEN_FILE",
    show_envvar=True,
    help="File with the join string; standard input without.",
)
@click.option("--machine", default="", help="The name of this machine; its host name without.")
@click.option("--zone", default="", help="The zone in which this machine is.")
@data_option
@click.pass_context
def join(ctx: click.Context, *, token_file: Path | None, machine: str, zone: str, data: Path) -> None:
    """Let this machine into a mesh.

    The join string that `masche token create` printed is read from standard input or a file. It is spent once, for a
    credential whose key never leaves this machine.
    """
    from masche.agent.join import run
    from masche.agent.options import JoinOptions

    ctx.exit(run(JoinOptions(data=data, token_file=token_file, machine=machine, zone=zone)))
