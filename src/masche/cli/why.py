"""``masche why``: the chain of decisions about one call, with the rule that decided."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masche.cli.exits import Exit
from masche.cli.options import Label, data_option, output_option
from masche.cli.output import Form, console, emit, styled

if TYPE_CHECKING:
    from masche.api.explaining import Explanation, Step


@click.command()
@click.argument("source", metavar="FROM")
@click.argument("destination", metavar="TO")
@click.option("--method", default="GET", show_default=True, help="The request's method.")
@click.option("--path", default="/", show_default=True, help="The request's path, with its query.")
@click.option("--header", "headers", multiple=True, type=Label(), help="A header of the request. Repeatable.")
@click.option("--port", type=click.IntRange(1, 65535), help="The Service's port; the only or the first one without.")
@output_option
@data_option
def why(
    source: str,
    destination: str,
    *,
    method: str,
    path: str,
    headers: tuple[tuple[str, str], ...],
    port: int | None,
    form: Form | None,
    data: Path,
) -> None:
    """Explain one call from FROM to TO: identity, route, cluster, policy, endpoint.

    FROM is a workload or a service (shop/web, web.shop), TO any name the caller could use. A FROM that does not run
    is asked about as `masche run --service FROM` would start it. Exits with 0 when the call would reach an
    application, with 9 when it would not.
    """
    from masche.api.client import Client
    from masche.api.explaining import Verdict, WhyRequest

    asked = WhyRequest(
        source=source, destination=destination, method=method, path=path, headers=dict(headers), port=port or 0
    )
    explanation = Client.of(data).why(asked)
    if form is not None:
        emit(explanation, form)
    else:
        console().print(drawn(explanation))
    if explanation.verdict is not Verdict.ALLOWED:
        raise click.exceptions.Exit(Exit.NO)


def drawn(explanation: "Explanation") -> Any:
    """The explanation as a tree."""
    from rich.tree import Tree

    is_allowed = explanation.verdict == "allowed"
    answered = f" (status {explanation.status})" if explanation.status else ""
    title = f"{explanation.source} -> {explanation.destination}: {explanation.verdict}{answered}"
    tree = Tree(styled(title, "bold green" if is_allowed else "bold red"))
    for step in explanation.steps:
        _add(tree, step)
    if explanation.deciding_rule:
        tree.add(styled(f"decided by {explanation.deciding_rule}", "bold"))
    if not explanation.steps or explanation.summary not in explanation.steps[-1].text:
        tree.add(styled(explanation.summary))
    return tree


def _add(tree: Any, step: "Step") -> None:
    mark, style = ("✓", "green") if step.is_passed else ("✗", "red")
    branch = tree.add(styled(f"{mark} {step.stage}: {step.text}", style))
    if step.rule:
        branch.add(styled(f"rule {step.rule}", "bold"))
    if step.origin:
        branch.add(styled(f"from {step.origin}"))
    for detail in step.details:
        branch.add(styled(detail, "dim"))
