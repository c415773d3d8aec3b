"""A group of commands that are imported when they are called, so that ``masche --help`` imports none of them.

Invariant: a command is listed only when the package that carries it out is installed.
"""

import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from masche.cli.exits import Exit
from masche.cli.failures import defect, failed


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command is (``module:attribute``), its line in the help, and the module without which it cannot work."""

    place: str
    help: str
    needs: str = ""

    @property
    def is_there(self) -> bool:
        """Whether what it needs is installed."""
        try:
            return not self.needs or importlib.util.find_spec(self.needs) is not None
        except ModuleNotFoundError:  # the package around it is missing already
            return False

    def load(self) -> click.Command:
        """Import it."""
        module, _, attribute = self.place.partition(":")
        return getattr(importlib.import_module(module), attribute)


class LazyGroup(click.Group):
    """A group over a table of Lazy commands, in the table's order."""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Those that work here."""
        return [name for name, lazy in self.lazy.items() if lazy.is_there]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import and return one."""
        lazy = self.lazy.get(cmd_name)
        return lazy.load() if lazy is not None and lazy.is_there else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was named, or say which one was perhaps meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if near := difflib.get_close_matches(args[0], self.list_commands(ctx), n=3, cutoff=0.6):
                said = f"{error.message.rstrip('.')}; did you mean {' or '.join(near)}?"
                raise click.UsageError(said, ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them from the table alone."""
        rows = [(name, self.lazy[name].help) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; whatever it raises becomes one message and a documented exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(Exit.INTERRUPTED)
        except BrokenPipeError:
            raise
        except Exception as error:
            told = failed(error)
            if told is error:
                raise
            raise (told or defect(error)) from error
