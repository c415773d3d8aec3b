"""``masche diff``: what applying would change."""

from pathlib import Path

import click

from masche.cli.documents import documents
from masche.cli.exits import Exit
from masche.cli.options import data_option, files_option, output_option
from masche.cli.output import Form, emit, say, warn

STYLES = {"+": "green", "-": "red", "@": "cyan"}


@click.command()
@files_option(is_required=True)
@output_option
@data_option
def diff(files: tuple[str, ...], *, form: Form | None, data: Path) -> None:
    """What applying would change.

    Exits with 0 when nothing would, with 9 when something would.
    """
    from masche.api.client import Client

    read = documents(files)
    found = Client.of(data).diff(read)
    warn(found.diagnostics)
    if form is not None:
        emit(found, form)
    else:
        for difference in found.differences:
            say(f"{difference.ref} would be {difference.verb}", "bold")
            for line in difference.lines:
                say(line, STYLES.get(line[:1], ""))
    if found.differences:
        raise click.exceptions.Exit(Exit.NO)
