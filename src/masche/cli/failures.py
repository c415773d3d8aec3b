"""Turns whatever goes wrong into one message: what, why, and what to do. Never a traceback."""

import os
from collections.abc import Sequence
from typing import IO, Any, cast

import click

from masche.cli.exits import Exit
from masche.cli.text import finding, literal
from masche.model.diagnostic import Diagnostic


class Failed(click.ClickException):
    """A command that cannot go on."""

    def __init__(
        self,
        message: str,
        *,
        fix: str = "",
        code: Exit = Exit.ERROR,
        diagnostics: Sequence[Diagnostic] = (),
    ) -> None:
        super().__init__(message)
        self.fix = fix
        self.exit_code = code  # pyright: ignore[reportAttributeAccessIssue]  # click reads it from the instance
        self.diagnostics = tuple(diagnostics)

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the findings, the message and the cure to standard error."""
        for diagnostic in self.diagnostics:
            click.echo(finding(diagnostic), file=file, err=file is None)
        click.echo(f"masche: {literal(self.message)}", file=file, err=file is None)
        if self.fix:
            click.echo(f"  fix: {literal(self.fix)}", file=file, err=file is None)


def failed(error: Exception) -> click.ClickException | click.exceptions.Exit | click.Abort | None:
    """What to raise instead of ``error``; None when it is a defect, which the caller reports as such."""
    if isinstance(error, click.ClickException | click.exceptions.Exit | click.Abort):
        return error
    if isinstance(error, ExceptionGroup):
        parts = cast("ExceptionGroup[Exception]", error).exceptions
        return next((told for told in map(failed, parts) if told is not None), None)
    return _of_api(error) or _of_ours(error) or _of_system(error)


def defect(error: Exception) -> Failed:
    """The last resort."""
    if os.environ.get("MASCHE_DEBUG"):
        raise error
    text = f"a mistake in masche itself: {type(error).__name__}: {error}"
    return Failed(text, fix="run it again with MASCHE_DEBUG=1 and report what it prints", code=Exit.DEFECT)


def _of_api(error: Exception) -> Failed | None:
    from masche.api.client import DeniedError, RefusalError, UnreachableError

    match error:
        case UnreachableError():
            return Failed(error.message, fix=error.fix, code=Exit.UNREACHABLE)
        case DeniedError():
            fix = "use the data folder of the control plane that runs (--data or MASCHE_DATA)"
            return Failed(f"the control plane refuses: {error.error.message}", fix=fix, code=Exit.DENIED)
        case RefusalError():
            said = error.error
            return Failed(said.message, fix=said.fix, code=_code(error.status), diagnostics=said.diagnostics)
        case _:
            return None


def _code(status: int) -> Exit:
    match status:
        case 404:
            return Exit.NOT_FOUND
        case 413 | 422:
            return Exit.INVALID
        case _:
            return Exit.ERROR


def _of_ours(error: Exception) -> Failed | None:
    """Errors that our own packages raise: by the rules of the house their text says what, why and what to do."""
    kind = type(error)
    is_told = kind.__module__.startswith("masche.") and not kind.__name__.startswith("_")
    return Failed(str(error)) if is_told and str(error) else None


def _of_system(error: Exception) -> Failed | None:
    if isinstance(error, PermissionError):
        return Failed(
            f"no permission for {error.filename or 'that'}",
            fix="run as the user who owns it, or choose another folder with --data",
        )
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return Failed(f"{where}{error.strerror or error}", fix="see what the system refuses, then try again")
    return None
