"""``masche check``: everything that is looked at, what was found and the cure."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from masche.cli.exits import Exit
from masche.cli.options import data_option, output_option
from masche.cli.output import Form, emit, say

if TYPE_CHECKING:
    from masche.api.access import Finding

MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "red")}


@click.command()
@click.option(
    "--identities", is_flag=True, help="Have every workload of this machine's one proxy make a call, and see as whom."
)
@output_option
@data_option
def check(*, identities: bool, form: Form | None, data: Path) -> None:
    """Look for what is wrong or risky: this machine, the control plane, every proxy. Each finding has its cure.

    With --identities each workload that the machine's one proxy serves makes a call, which must arrive under its own
    identity.

    Exits with 0 when there is no error (warnings are no errors), with 9 when there is one, with 5 when no control
    plane answers.
    """
    from masche.api.access import CheckReport

    findings, is_reachable = _look(data, identities=identities)
    if form is not None:
        emit(CheckReport(findings=tuple(findings)), form)
    else:
        for finding in findings:
            _say(finding)
    if not is_reachable:
        raise click.exceptions.Exit(Exit.UNREACHABLE)
    if any(finding.level == "error" for finding in findings):
        raise click.exceptions.Exit(Exit.NO)


def _look(data: Path, *, identities: bool) -> "tuple[list[Finding], bool]":
    from masche.api.access import Finding, Level
    from masche.api.client import Client, UnreachableError
    from masche.cli.checks import merged, of_identities, of_machine, of_versions
    from masche.version import VERSION

    own = of_machine(data)
    if identities:
        own.append(of_identities(data))
    try:
        client = Client.of(data)
        found, told = client.status(), client.check().findings
    except UnreachableError as error:
        title = "control plane"
        own.append(Finding(code="reachable", title=title, level=Level.ERROR, message=error.message, fix=error.fix))
        return merged((), own), False
    own.append(of_versions(VERSION, found.plane.version))
    return merged(told, own), True


def _say(finding: "Finding") -> None:
    mark, style = MARKS[finding.level]
    say(f"{mark} {finding.title}: {finding.message}", style)
    if finding.fix and finding.level != "ok":
        say(f"    fix: {finding.fix}")
