"""``masche describe``: one resource, what became of it, what is in force and which proxies refuse it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masche.cli.columns import at
from masche.cli.exits import Exit
from masche.cli.failures import Failed
from masche.cli.naming import kinds_like
from masche.cli.options import data_option, namespace_option, output_option
from masche.cli.output import Form, emit, say, table, to_yaml
from masche.cli.text import finding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from masche.api.messages import Description


@click.command()
@click.argument("resource", nargs=-1, required=True, metavar="KIND NAME | KIND/NAME", shell_complete=kinds_like)
@namespace_option
@output_option
@data_option
def describe(resource: tuple[str, ...], *, namespace: str, form: Form | None, data: Path) -> None:
    """Everything known about one resource: what was written, what became of it and what is in force."""
    from masche.api.client import Client
    from masche.cli.naming import refs_of

    refs = refs_of(resource, namespace=namespace)
    if len(refs) != 1:
        raise Failed("describe takes one resource", fix="write KIND NAME or KIND/NAME", code=Exit.USAGE)
    description = Client.of(data).describe(refs[0])
    if form is not None:
        emit(description, form)
    else:
        _say(description)


def _say(description: "Description") -> None:
    item = description.item
    say(str(item.ref), "bold")
    if item.revision:
        say(f"written at revision {item.revision}, created at revision {item.created_revision}")
    else:
        say("nobody has written it: what is built in holds")
    if placed := _placed(item.manifest):
        say(placed)
    for condition in description.conditions:
        say(
            f"{condition.type}: {condition.reason or 'yes'}"
            if condition.is_true
            else f"not {condition.type}: {condition.reason}",
            "green" if condition.is_true else "red",
        )
    for diagnostic in description.diagnostics:
        click.echo(finding(diagnostic))
    for rejected in description.rejected:
        say(f"rejected by {rejected.workload} ({rejected.proxy}): {rejected.rejection.name}", "red")
        say(f"  {rejected.rejection.words}")
    _say_tables(description)
    say("manifest", "bold")
    click.echo(to_yaml(item.manifest), nl=False)


def _placed(manifest: "Mapping[str, Any]") -> str:
    """Where a workload runs and what serves it there; "" for what is no workload, or was written by hand."""
    machine, proxy = at(manifest, "status", "machine"), at(manifest, "status", "proxy")
    if manifest.get("kind") != "Workload" or not machine:
        return ""
    state = at(manifest, "status", "state") or "READY"
    return f"{state} on machine {machine}, served by {proxy} (placement {at(manifest, 'spec', 'placement')})"


def _say_tables(description: "Description") -> None:
    if description.effective:
        say("in force", "bold")
        rows = [[str(part.port), part.field, part.value, part.origin] for part in description.effective]
        table(["port", "field", "value", "set by"], rows, empty="")
    if description.endpoints:
        say("endpoints", "bold")
        rows = [
            [
                str(row.port),
                row.workload,
                row.address,
                row.zone,
                row.health,
                str(row.weight),
                "mTLS" if row.is_mtls else "plaintext",
            ]
            for row in description.endpoints
        ]
        table(["port", "workload", "address", "zone", "health", "weight", "transport"], rows, empty="")
