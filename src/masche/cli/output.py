"""Prints: text for people, JSON and YAML for programs."""

import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import click

from masche.cli.text import finding, literal
from masche.model.diagnostic import Diagnostic

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

PIPE_WIDTH = 10_000
"""Columns when nobody looks: nothing is folded or cut."""


class Form(StrEnum):
    """How data is printed for programs."""

    JSON = "json"
    YAML = "yaml"


def console(*, is_error: bool = False) -> "Console":
    """A console that takes all text as it is: no markup, no emoji names, no guessing of colours."""
    from rich.console import Console

    stream = sys.stderr if is_error else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False, soft_wrap=False)


def styled(text: str, style: str = "") -> "Text":
    """Text from anywhere, harmless, in a colour."""
    from rich.text import Text

    return Text(literal(text), style=style)


def say(text: str = "", style: str = "") -> None:
    """One line for a person on standard output."""
    if style and sys.stdout.isatty():
        console().print(styled(text, style))
    else:
        click.echo(literal(text))


def note(text: str) -> None:
    """One line for a person on standard error, beside the data."""
    click.echo(literal(text), err=True)


def warn(diagnostics: Iterable[Diagnostic]) -> None:
    """Findings, on standard error."""
    for diagnostic in diagnostics:
        click.echo(finding(diagnostic), err=True)


def emit(value: object, form: Form) -> None:
    """Data for a program: a message, or what is made of dicts and lists."""
    import msgspec

    match form:
        case Form.JSON:
            click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
        case Form.YAML:
            click.echo(to_yaml(msgspec.to_builtins(value)), nl=False)


def to_yaml(value: Any) -> str:
    """YAML in the order of the data."""
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)


def table(columns: Sequence[str], rows: Iterable[Sequence["str | Text"]], *, empty: str) -> None:
    """Rows under upper-case headings, as wide as needed; ``empty`` is said when there are none."""
    drawn = list(rows)
    if not drawn:
        note(empty)
        return
    wide = console()
    wide.width = PIPE_WIDTH  # a narrow terminal breaks long lines better than a table breaks words
    wide.print(grid(columns, drawn))


def grid(columns: Sequence[str], rows: Iterable[Sequence["str | Text"]]) -> Any:
    """The same as something that rich can draw."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_edge=False)
    for column in columns:
        drawn.add_column(column.upper(), overflow="fold")
    for row in rows:
        drawn.add_row(*(styled(cell) if isinstance(cell, str) else cell for cell in row))
    return drawn
