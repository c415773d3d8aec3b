"""``masche dashboard``: a link that logs one browser in, once."""

from pathlib import Path

import click

from masche.cli.options import data_option, output_option
from masche.cli.output import Form, emit, note, say


@click.command()
@click.option("--open", "is_opened", is_flag=True, help="Open it in the browser of this machine.")
@output_option
@data_option
def dashboard(*, is_opened: bool, form: Form | None, data: Path) -> None:
    """Print a link to the dashboard that logs a browser in. It is good once, for an hour."""
    from masche.api.client import Client

    link = Client.of(data).login_link()
    if form is not None:
        emit({"link": link}, form)
    else:
        say(link)
    if is_opened and not _open(link):
        note("no browser could be started; open the link by hand")


def _open(link: str) -> bool:
    import webbrowser

    return webbrowser.open(link)
