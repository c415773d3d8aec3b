"""``masche completion``: what a shell needs to complete masche's commands and options."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print completion for a shell.

    bash: eval "$(masche completion bash)"; zsh likewise; fish: masche completion fish | source
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click knows the three"
    click.echo(kind(ctx.find_root().command, {}, "masche", "_MASCHE_COMPLETE").source())
