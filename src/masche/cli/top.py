"""``masche top``: every edge of the mesh, live: how often, how well, how fast."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masche.cli.options import Duration, data_option, output_option
from masche.cli.output import Form, console, emit, grid, styled, table
from masche.cli.text import share

if TYPE_CHECKING:
    from rich.text import Text

    from masche.api.client import Client
    from masche.api.traffic import Edges, Rate

REFRESH = 1.0
HEADINGS = ["from", "to", "port", "req/s", "success", "p50 ms", "p95 ms", "p99 ms", "denied/s", "transport"]


@click.command()
@click.option("--once", is_flag=True, help="Print one snapshot and exit.")
@click.option("--endpoints", is_flag=True, help="Also a row for each instance behind an edge.")
@click.option("--window", type=Duration(), default="10s", show_default=True, help="Over how long; 1s to 1h.")
@output_option
@data_option
def top(*, once: bool, endpoints: bool, window: float, form: Form | None, data: Path) -> None:
    """Who calls whom: requests per second, success and latency of every edge, live. Ctrl-C ends it."""
    from masche.api.client import Client

    if not 1.0 <= window <= 3600.0:
        raise click.BadParameter("choose from 1s to 1h", param_hint="--window")
    client = Client.of(data)
    if form is not None:
        emit(client.edges(window=window), form)
    elif once or not console().is_terminal:
        table(HEADINGS, rows(client.edges(window=window), has_endpoints=endpoints), empty="no traffic yet")
    else:
        _watch(client, window=window, has_endpoints=endpoints)


def rows(edges: "Edges", *, has_endpoints: bool) -> "list[list[str | Text]]":
    """The busiest edge first; the instances of an edge under it."""
    drawn: list[list[str | Text]] = []
    for edge in sorted(edges.edges, key=lambda edge: -edge.rate.requests_per_second):
        ends: list[str | Text] = [edge.source, edge.destination, str(edge.port)]
        transport = styled("mTLS", "green") if edge.is_mtls else styled("plaintext", "red")
        drawn.append([*ends, *_cells(edge.rate), f"{edge.denied_per_second:.1f}", transport])
        for end in edge.endpoints if has_endpoints else ():
            state = "ejected" if end.is_ejected else f"{end.weight}%"
            drawn.append(["", f"  {end.workload}", "", *_cells(end.rate), "", state])
    return drawn


def _cells(rate: "Rate") -> "list[str | Text]":
    style = "green" if rate.success >= 0.999 else "yellow" if rate.success >= 0.95 else "red"
    latencies = [f"{value:.1f}" for value in (rate.p50_ms, rate.p95_ms, rate.p99_ms)]
    return [f"{rate.requests_per_second:.1f}", styled(share(rate.success), style), *latencies]


def _watch(client: "Client", *, window: float, has_endpoints: bool) -> None:
    from rich.live import Live

    shown: Any = grid(HEADINGS, rows(client.edges(window=window), has_endpoints=has_endpoints))
    with Live(shown, console=console(), screen=True, auto_refresh=False) as live:
        while True:
            live.update(_draw(client, window=window, has_endpoints=has_endpoints), refresh=True)
            time.sleep(REFRESH)


def _draw(client: "Client", *, window: float, has_endpoints: bool) -> Any:
    """A control plane that is away for a moment is said, and asked again: the mesh goes on without it."""
    from masche.api.client import UnreachableError

    try:
        edges = client.edges(window=window)
    except UnreachableError as error:
        return styled(f"{error.message}; trying again", "yellow")
    return grid(HEADINGS, rows(edges, has_endpoints=has_endpoints)) if edges.edges else styled("no traffic yet")
