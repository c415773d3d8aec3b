"""``masche delete``: forget resources as one revision and wait until they are gone everywhere."""

from pathlib import Path

import click

from masche.cli.documents import documents
from masche.cli.naming import kinds_like
from masche.cli.options import data_option, files_option, namespace_option, output_option, wait_options
from masche.cli.output import Form


@click.command()
@click.argument("resources", nargs=-1, metavar="[KIND NAME... | KIND/NAME...]", shell_complete=kinds_like)
@files_option(is_required=False)
@namespace_option
@click.option("--dry-run", is_flag=True, help="Delete nothing; say which workloads would change and how.")
@wait_options
@output_option
@data_option
def delete(
    resources: tuple[str, ...],
    *,
    files: tuple[str, ...],
    namespace: str,
    dry_run: bool,
    timeout: float,
    no_wait: bool,
    form: Form | None,
    data: Path,
) -> None:
    """Delete resources and wait until they are gone everywhere.

    Name them, or give the files in which they are written. All go as one revision, or none does.
    """
    from masche.api.client import Client
    from masche.cli.naming import refs_of
    from masche.cli.waiting import Patience, carry_out

    if not resources and not files:
        raise click.UsageError("name resources, or files with -f")
    refs = refs_of(resources, namespace=namespace)
    read = documents(files) if files else ()
    client = Client.of(data)
    applied = client.delete(refs, read, dry_run=dry_run)
    carry_out(client, applied, patience=Patience(timeout=None if no_wait else timeout), form=form)
