"""Options that several commands share, and the types of their values."""

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from masche.cli.output import Form
from masche.identity.places import default_data

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(click.ParamType[float]):
    """``30``, ``30s``, ``5m``, ``1h``, ``2d``, ``500ms`` into seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it, or say what would have been right."""
        if isinstance(value, float | int):
            return float(value)
        number = str(value).rstrip("smhd")
        unit = str(value)[len(number) :] or "s"
        try:
            seconds = float(number) * _UNITS[unit]
        except (ValueError, KeyError):
            seconds = -1.0
        if not 0.0 <= seconds < 1e9:
            self.fail(f"{value!r} is no duration; write 500ms, 30s, 5m, 1h or 2d", param, ctx)
        return seconds


class Label(click.ParamType[tuple[str, str]]):
    """``key=value`` into a pair."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Read it, or say what would have been right."""
        key, equals, text = str(value).partition("=")
        if not (key and equals):
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key, text


class Address(click.ParamType[str]):
    """An IP address, as it was written; host names are no use to proxies, which would have to ask for them."""

    name = "ip"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read it, or say what would have been right."""
        try:
            ipaddress.ip_address(str(value))
        except ValueError:
            self.fail(f"{str(value)!r} is no IP address", param, ctx)
        return str(value)


def data_option(command: Command) -> Command:
    """``--data FOLDER``, or MASCHE_DATA."""
    return click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=True, resolve_path=True),
        envvar="MASCHE_DATA",
        default=default_data,
        show_default="/var/lib/masche for root, else ~/.local/share/masche",
        show_envvar=True,
        help="Folder of the control plane and of this machine's state.",
    )(command)


def output_option(command: Command) -> Command:
    """``-o json|yaml``."""
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice([form.value for form in Form]),
        callback=_form,
        help="Print data instead of text for people.",
    )(command)


def _form(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Form | None:
    return None if value is None else Form(value)


def namespace_option(command: Command) -> Command:
    """``-n NAMESPACE``."""
    return click.option("-n", "--namespace", default="default", show_default=True, help="The namespace.")(command)


def files_option(*, is_required: bool) -> Callable[[Command], Command]:
    """``-f FILE``, repeatable."""
    return click.option(
        "-f",
        "--filename",
        "files",
        multiple=True,
        required=is_required,
        type=click.Path(),
        metavar="FILE|DIR|-",
        help="A YAML file, a folder of them, or - for standard input. May be repeated.",
    )


def wait_options(command: Command) -> Command:
    """``--timeout`` and ``--no-wait``."""
    wait = click.option("--no-wait", is_flag=True, help="Return as soon as it is stored.")
    timeout = click.option(
        "--timeout", type=Duration(), default="30s", show_default=True, help="How long to wait for the proxies."
    )
    return wait(timeout(command))
