"""``masche version``: of this program, and of the control plane if one answers."""

from pathlib import Path

import click

from masche.cli.options import data_option, output_option
from masche.cli.output import Form, emit, note, say
from masche.version import VERSION


@click.command()
@click.option("--client", "is_client_only", is_flag=True, help="Do not ask the control plane.")
@output_option
@data_option
def version(*, is_client_only: bool, form: Form | None, data: Path) -> None:
    """Print the versions of this program and of the control plane."""
    from masche.api.client import Client, UnreachableError

    found = {"client": VERSION}
    if not is_client_only:
        try:
            found["controlPlane"] = Client.of(data).status().plane.version
        except UnreachableError as error:
            note(error.message)
    if form is not None:
        emit(found, form)
        return
    say(f"masche {found['client']}")
    if "controlPlane" in found:
        say(f"control plane {found['controlPlane']}")
