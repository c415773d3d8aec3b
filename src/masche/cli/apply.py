"""``masche apply``: store resources as one revision and wait until it is live."""

from pathlib import Path

import click

from masche.cli.documents import documents
from masche.cli.options import data_option, files_option, output_option, wait_options
from masche.cli.output import Form


@click.command()
@files_option(is_required=True)
@click.option("--dry-run", is_flag=True, help="Store nothing; say which workloads would change and how.")
@wait_options
@output_option
@data_option
def apply(
    files: tuple[str, ...], *, dry_run: bool, timeout: float, no_wait: bool, form: Form | None, data: Path
) -> None:
    """Store resources and wait until they are live.

    All documents become one revision, or none does. Waits until every connected proxy whose configuration it changes
    has it, and exits with 0 when it is live, 3 when a proxy rejected it and 4 when it is pending at the timeout.
    """
    from masche.api.client import Client
    from masche.cli.waiting import Patience, carry_out

    read = documents(files)
    client = Client.of(data)
    applied = client.apply(read, dry_run=dry_run)
    carry_out(client, applied, patience=Patience(timeout=None if no_wait else timeout), form=form)
