"""``masche top``: every edge of the mesh, live: how often, how well, how fast; its instances; the links of zones."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masche.cli.options import Duration, data_option, output_option
from masche.cli.output import Form, console, emit, grid, say, styled, table

if TYPE_CHECKING:
    from masche.api.client import Client
    from masche.api.traffic import Edges, Zones
    from masche.cli.traffic import Table

REFRESH = 1.0
NO_TRAFFIC = "no traffic now"


@click.command()
@click.option("--once", is_flag=True, help="Print one snapshot and exit.")
@click.option("--instances", "--endpoints", is_flag=True, help="Each instance: weight, latency, state and why.")
@click.option("--zones", is_flag=True, help="The links between zones instead: network time, shares and detours.")
@click.option("--window", type=Duration(), default="10s", show_default=True, help="Over how long; 1s to 1h.")
@output_option
@data_option
def top(*, once: bool, instances: bool, zones: bool, window: float, form: Form | None, data: Path) -> None:
    """Who calls whom: requests per second, success and latency of every edge, live. Ctrl-C ends it."""
    from masche.api.client import Client

    if not 1.0 <= window <= 3600.0:
        raise click.BadParameter("choose from 1s to 1h", param_hint="--window")
    if instances and zones:
        raise click.UsageError("choose --instances or --zones")
    client = Client.of(data)
    if form is not None:
        emit(client.zones(window=window) if zones else client.edges(window=window), form)
        return
    ask = _asking(client, window=window, has_instances=instances, is_of_zones=zones)
    if once or not console().is_terminal:
        _print(ask())
    else:
        _watch(ask)


def _asking(client: "Client", *, window: float, has_instances: bool, is_of_zones: bool) -> "Callable[[], list[Table]]":
    """What is asked for each time, as tables."""
    if is_of_zones:
        return lambda: between(client.zones(window=window))
    return lambda: among(client.edges(window=window), has_instances=has_instances)


def among(edges: "Edges", *, has_instances: bool) -> "list[Table]":
    """The edges, the busiest first."""
    from masche.cli import traffic

    return [traffic.instances(edges) if has_instances else traffic.edges(edges)]


def between(zones: "Zones") -> "list[Table]":
    """The links, and below them what is steered between zones."""
    from masche.cli import traffic

    return [traffic.links(zones), *([traffic.shifts(zones)] if zones.shifts else [])]


def _print(tables: "list[Table]") -> None:
    for number, each in enumerate(tables):
        if number:
            say()
        for sentence in each.sentences:
            say(sentence, "red")
        table(each.headings, each.rows, empty=NO_TRAFFIC)


def _watch(ask: "Callable[[], list[Table]]") -> None:
    from rich.live import Live

    shown = console()
    with Live(_draw(ask, shown.width), console=shown, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(REFRESH)
            live.update(_draw(ask, shown.width), refresh=True)


def _draw(ask: "Callable[[], list[Table]]", width: int) -> Any:
    """A control plane that is away for a moment is said, and asked again: the mesh goes on without it."""
    from rich.console import Group

    from masche.api.client import UnreachableError
    from masche.cli.traffic import narrowed

    try:
        tables = [narrowed(each, width) for each in ask()]
    except UnreachableError as error:
        return styled(f"{error.message}; trying again", "yellow")
    drawn: list[Any] = []
    for each in tables:
        drawn += [styled(sentence, "red") for sentence in each.sentences]
        drawn += [grid(each.headings, each.rows) if each.rows else styled(NO_TRAFFIC), styled("")]
    return Group(*drawn)
