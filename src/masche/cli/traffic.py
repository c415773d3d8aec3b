"""Draws traffic as tables: edges, the instances behind them, the links between zones. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import assert_never

from rich.text import Text

from masche.api.traffic import CallerView, Edge, EdgeEndpoint, Edges, InstanceState, Rate, Way, Zones, ZoneShift
from masche.cli.output import styled
from masche.cli.text import share

Cells = Sequence[str | Text]

FAIR = 100
GUTTER = 2
FOLDED = 24
"""A state with its reason is folded to that width before anything else is left out."""
EXPENDABLE = (
    "p95 ms", "port", "transport", "usually", "lost", "p50 ms", "service ms", "network ms", "zone", "denied/s"
)  # fmt: skip
"""What a narrow terminal shows last, the least first."""
STATE_STYLES = {
    InstanceState.ADMITTED: "green",
    InstanceState.PROBING: "yellow",
    InstanceState.DRAINING: "yellow",
    InstanceState.EJECTED: "red",
    InstanceState.UNHEALTHY: "red",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under headings; ``sentences`` stand above because they concern everybody."""

    headings: tuple[str, ...]
    rows: tuple[Cells, ...]
    sentences: tuple[str, ...] = ()


def narrowed(table: Table, width: int) -> Table:
    """The same without the columns that say least, as far as it must be to fit into so many columns of a terminal."""
    for heading in EXPENDABLE:
        if _width(table) <= width:
            break
        if heading in table.headings:
            table = _without(table, table.headings.index(heading))
    return table


def _width(table: Table) -> int:
    widths = [max(map(len, map(str, cells))) + GUTTER for cells in zip(table.headings, *table.rows, strict=True)]
    longest = table.headings.index("state") if "state" in table.headings else -1
    return sum(min(width, FOLDED) if index == longest else width for index, width in enumerate(widths))


def _without(table: Table, index: int) -> Table:
    rows = tuple((*row[:index], *row[index + 1 :]) for row in table.rows)
    return replace(table, headings=(*table.headings[:index], *table.headings[index + 1 :]), rows=rows)


def edges(found: Edges) -> Table:
    """One row for each edge, the busiest first."""
    headings = ("from", "to", "port", "req/s", "success", "p50 ms", "p95 ms", "p99 ms", "denied/s", "transport")
    return Table(headings=headings, rows=tuple(map(_edge, _busiest(found))), sentences=_panics(found))


def instances(found: Edges) -> Table:
    """One row for each edge, and below it one for each instance; several zones of callers are told apart."""
    headings = (
        "from", "to", "zone", "req/s", "success", "p50 ms", "p99 ms", "network ms", "service ms", "weight", "state"
    )  # fmt: skip
    rows = tuple(row for edge in _busiest(found) for row in _with_instances(edge))
    return Table(headings=headings, rows=rows, sentences=_panics(found))


def links(found: Zones) -> Table:
    """One row for each way between zones."""
    headings = (
        "from zone", "to zone", "via", "req/s", "share", "success", "p50 ms", "p99 ms", "network ms", "usually", "lost",
        "state",
    )  # fmt: skip
    rows = tuple(
        (
            _zone(link.source),
            _zone(link.destination),
            link.via,
            f"{link.rate.requests_per_second:.1f}",
            share(link.share),
            *_quality(link.rate),
            _known(link.network_ms),
            _known(link.usual_ms),
            share(link.lost) if link.lost else "-",
            styled("bad", "red") if link.is_bad else styled("good", "green"),
        )
        for link in found.links
    )
    return Table(headings=headings, rows=rows)


def shifts(found: Zones) -> Table:
    """One row for each port and zone whose calls are steered between zones."""
    rows = tuple((each.service, _zone(each.caller_zone), _shares(each)) for each in found.shifts)
    return Table(headings=("service", "callers in", "calls go to"), rows=rows)


def _busiest(found: Edges) -> list[Edge]:
    return sorted(found.edges, key=lambda edge: -edge.rate.requests_per_second)


def _panics(found: Edges) -> tuple[str, ...]:
    return tuple(dict.fromkeys(edge.panic for edge in found.edges if edge.panic))


def _edge(edge: Edge) -> Cells:
    p95 = _known(edge.rate.p95_ms)
    success, p50, p99 = _quality(edge.rate)
    often = f"{edge.rate.requests_per_second:.1f}"
    return (
        edge.source, edge.destination, str(edge.port), often, success, p50, p95, p99, f"{edge.denied_per_second:.1f}",
        _transport(edge),
    )  # fmt: skip


def _with_instances(edge: Edge) -> Iterator[Cells]:
    often = f"{edge.rate.requests_per_second:.1f}"
    state = styled("PANIC", "red") if edge.panic else _transport(edge)
    yield edge.source, f"{edge.destination}:{edge.port}", "", often, *_quality(edge.rate), "", "", "", state
    for end in edge.endpoints:
        yield _instance(end)
        if len(end.callers) > 1:
            yield from map(_view, end.callers)


def _instance(end: EdgeEndpoint) -> Cells:
    only = end.callers[0] if len(end.callers) == 1 else None
    times = (_known(only.network_ms), _known(only.service_ms)) if only else ("", "")
    often = f"{end.rate.requests_per_second:.1f}"
    state = _state(end.state, end.until_at, end.reason)
    return "", f"  {end.workload}", end.zone, often, *_quality(end.rate), *times, _weight(end.weight), state


def _view(view: CallerView) -> Cells:
    state = _state(view.state, view.until_at, view.reason, is_dry_run=view.is_dry_run)
    mean = f"~{view.latency_ms:.1f}" if view.latency_ms else "-"
    times = (mean, "", _known(view.network_ms), _known(view.service_ms))
    return "", f"    callers in {_zone(view.zone)}", "", "", "", *times, _weight(view.weight), state


def _state(state: InstanceState, until_at: float, reason: str, *, is_dry_run: bool = False) -> Text:
    at = datetime.fromtimestamp(until_at, tz=UTC).astimezone().strftime(" until %H:%M:%S") if until_at else ""
    would = "would be " if is_dry_run else ""
    return styled(f"{would}{state}{at}" + (f": {reason}" if reason else ""), STATE_STYLES[state])


def _weight(weight: int) -> Text:
    return styled(f"{weight}%", "" if weight >= FAIR else "yellow" if weight >= FAIR // 4 else "red")


def _transport(edge: Edge) -> Text:
    match edge.way:
        case Way.TLS:
            return styled("mTLS", "green") if edge.is_mtls else styled("plaintext", "red")
        case Way.LOCAL:
            return styled("local", "green")
        case Way.MIXED:
            return styled("mTLS, local", "green")
        case _:
            assert_never(edge.way)


def _quality(rate: Rate) -> tuple[Text, str, str]:
    """How well, and how fast in the middle and at the end."""
    style = "green" if rate.success >= 0.999 else "yellow" if rate.success >= 0.95 else "red"
    if rate.requests_per_second == 0:
        return styled("-"), "-", "-"
    return styled(share(rate.success), style), _known(rate.p50_ms), _known(rate.p99_ms)


def _known(milliseconds: float) -> str:
    return f"{milliseconds:.1f}" if milliseconds else "-"


def _zone(zone: str) -> str:
    return zone or "(no zone)"


def _shares(shift: ZoneShift) -> str:
    return ", ".join(_shared(each.share, each.zone, each.via) for each in shift.shares)


def _shared(part: float, zone: str, via: str) -> str:
    return f"{_zone(zone)} {100 * part:.4g}%" + (f" via {via}" if via else "")
