"""What happened at one Envoy since it was last read, from the running totals that it shows. Pure.

Totals only grow; one that shrank, or a new process, starts from nothing again. An Envoy that was taken over from an
agent before us has totals that somebody may have reported: its first reading counts nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

from masche.link.messages import EdgeReport, EndpointReport, Histogram
from masche.model.refs import Name, PortRef
from masche.telemetry import histogram, names
from masche.telemetry.prometheus import Sample
from masche.wire import stats

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]

_HISTOGRAMS = (names.MESH_REQUEST_US, names.MESH_INSTANCE_US)
_UNKNOWN_CODE = 0

UNMATCHED = "no ALLOW policy matches"
"""The rule of a denial that no rule made."""


@dataclass(slots=True)
class _Distribution:
    """A histogram as Envoy shows it: how many values do not exceed each bound, and their sum."""

    up_to: dict[float, float] = field(default_factory=dict[float, float])
    total: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is new since the last reading, and what is true now."""

    counters: Mapping[Key, int]
    latencies: Mapping[Key, Histogram]
    gauges: Mapping[str, float]

    @property
    def is_live(self) -> bool:
        """Whether Envoy serves."""
        return self.gauges.get("envoy_server_live", 0) == 1

    @property
    def has_warming(self) -> bool:
        """Whether something was sent that Envoy has not made live."""
        clusters = self.gauges.get("envoy_cluster_manager_warming_clusters", 0)
        return clusters + self.gauges.get("envoy_listener_manager_total_listeners_warming", 0) > 0

    @property
    def has_ejected(self) -> bool:
        """Whether an endpoint is cut off."""
        return self.gauges.get("envoy_cluster_outlier_detection_ejections_active", 0) > 0


class Meter:
    """The totals of one Envoy as they were last seen."""

    def __init__(self) -> None:
        self._process = 0
        self._counters: dict[Key, float] = {}
        self._distributions: dict[Key, _Distribution] = {}

    def read(self, page: Iterable[Sample], *, process: int, is_inherited: bool) -> Reading:
        """Take one page of ``/stats/prometheus``. ``process`` is Envoy's pid."""
        is_new = process != self._process
        if is_new:
            self._process, self._counters, self._distributions = process, {}, {}
        counters, distributions, gauges = _sorted(page)
        before, before_distributions = self._counters, self._distributions
        if is_new and is_inherited:
            before, before_distributions = counters, distributions
        grown = {key: _growth(value, before.get(key, 0.0)) for key, value in counters.items()}
        nothing = _Distribution()
        latencies = {
            key: _difference(found, before_distributions.get(key, nothing)) for key, found in distributions.items()
        }
        self._counters, self._distributions = counters, distributions
        return Reading(
            counters={key: value for key, value in grown.items() if value},
            latencies={key: value for key, value in latencies.items() if value.buckets},
            gauges=gauges,
        )


def _sorted(page: Iterable[Sample]) -> tuple[dict[Key, float], dict[Key, _Distribution], dict[str, float]]:
    """The page's counters and histograms of the mesh by name and labels, and the sums of everything else by name."""
    counters: dict[Key, float] = {}
    distributions: defaultdict[Key, _Distribution] = defaultdict(_Distribution)
    gauges: defaultdict[str, float] = defaultdict(float)
    for name, labels, value in page:
        family, _, part = name.rpartition("_")
        if family in _HISTOGRAMS:
            bare = tuple(sorted((label, text) for label, text in labels.items() if label != "le"))
            if part == "bucket":
                distributions[family, bare].up_to[_bound(labels.get("le", ""))] = value
            elif part == "sum":
                distributions[family, bare].total = value
        elif name.startswith(stats.PREFIX):
            counters[name, tuple(sorted(labels.items()))] = value
        else:
            gauges[name] += value
    return counters, dict(distributions), dict(gauges)


def _bound(text: str) -> float:
    return inf if text == "+Inf" else float(text)


def _growth(now: float, before: float) -> int:
    return int(now - before if now >= before else now)


def _difference(now: _Distribution, before: _Distribution) -> Histogram:
    """The values that came since ``before``, in the layout of the link."""
    if any(now.up_to.get(bound, 0) < count for bound, count in before.up_to.items()):
        before = _Distribution()
    counts: list[tuple[float, float, int]] = []
    low, below = 0.0, 0
    for bound in sorted(now.up_to):
        up_to = int(now.up_to[bound] - before.up_to.get(bound, 0))
        if up_to > below:
            counts.append((low, bound, up_to - below))
        low, below = bound, up_to
    made = histogram.from_bounds(counts, sum_us=max(0.0, now.total - before.total))
    return Histogram(buckets=made.buckets, sum_us=made.sum_us)


@dataclass(slots=True)
class _Edge:
    codes: defaultdict[int, int] = field(default_factory=lambda: defaultdict[int, int](int))
    flags: defaultdict[str, int] = field(default_factory=lambda: defaultdict[str, int](int))
    latency: Histogram = field(default_factory=Histogram)
    sent: int = 0
    received: int = 0
    connections: int = 0


_EdgeKey = tuple[str, PortRef | None, str, str]
"""Direction, destination, peer, rule."""


def edges(reading: Reading, workload: Name) -> tuple[EdgeReport, ...]:
    """The edges of one workload that something happened on, as it saw them."""
    found: defaultdict[_EdgeKey, _Edge] = defaultdict(_Edge)
    for (name, pairs), count in reading.counters.items():
        labels = dict(pairs)
        if key := _edge_key(name, labels):
            _add(found[key], name, labels, count)
    for (name, pairs), latency in reading.latencies.items():
        if name == names.MESH_REQUEST_US and (key := _edge_key(name, dict(pairs))):
            found[key].latency = latency
    return tuple(
        EdgeReport(
            direction=direction,
            workload=workload,
            service=service,
            peer=peer,
            rule=rule,
            codes=dict(edge.codes),
            flags=dict(edge.flags),
            latency=edge.latency,
            bytes_sent=edge.sent,
            bytes_received=edge.received,
            connections=edge.connections,
        )
        for (direction, service, peer, rule), edge in sorted(found.items(), key=lambda item: str(item[0]))
    )


def _edge_key(name: str, labels: Mapping[str, str]) -> _EdgeKey | None:
    """Which edge a series is about; None for what is not about an edge of the mesh."""
    destination = labels.get(stats.DESTINATION, "")
    if labels.get(stats.REPORTER) == stats.REPORTER_SOURCE:
        service = PortRef.parse(destination)
        return ("outbound", service, "", "") if service else None
    if not destination.startswith("inbound/"):
        return None
    rule = (_value(labels, stats.RULE) or UNMATCHED) if name == names.MESH_DENIED else ""
    return "inbound", None, _value(labels, stats.SOURCE), rule


def _add(edge: _Edge, name: str, labels: Mapping[str, str], count: int) -> None:
    flags = _value(labels, stats.FLAGS)
    match name:
        case names.MESH_REQUESTS:
            edge.codes[_code(labels)] += count
        case names.MESH_DENIED:
            edge.codes[403] += count
        case names.MESH_CONNECTIONS:
            edge.connections += count
        case names.MESH_SENT_BYTES:
            edge.sent += count
        case names.MESH_RECEIVED_BYTES:
            edge.received += count
        case _:
            return
    if flags:
        edge.flags[flags] += count


def _value(labels: Mapping[str, str], name: str) -> str:
    """The value of a tag; Envoy writes a dash where its format string has nothing to say."""
    value = labels.get(name, "")
    return "" if value == "-" else value


def _code(labels: Mapping[str, str]) -> int:
    code = labels.get(stats.CODE, "")
    return int(code) if code.isdecimal() else _UNKNOWN_CODE


def endpoints(reading: Reading, ejected: frozenset[tuple[PortRef, str]]) -> tuple[EndpointReport, ...]:
    """What was seen of each endpoint that was called, and of those that are cut off."""
    requests: defaultdict[tuple[PortRef, str], int] = defaultdict(int)
    errors: defaultdict[tuple[PortRef, str], int] = defaultdict(int)
    latencies: dict[tuple[PortRef, str], Histogram] = {}
    for (name, pairs), count in reading.counters.items():
        labels = dict(pairs)
        if name == names.MESH_INSTANCE_REQUESTS and (key := _instance(labels)):
            requests[key] += count
            if _code(labels) == _UNKNOWN_CODE or _code(labels) >= 500:
                errors[key] += count
    for (name, pairs), latency in reading.latencies.items():
        if name == names.MESH_INSTANCE_US and (key := _instance(dict(pairs))):
            latencies[key] = latency
    return tuple(
        EndpointReport(
            service=key[0],
            endpoint=key[1],
            requests=requests.get(key, 0),
            errors=errors.get(key, 0),
            is_ejected=key in ejected,
            latency=latencies.get(key, Histogram()),
        )
        for key in sorted(requests.keys() | latencies.keys() | ejected)
    )


def _instance(labels: Mapping[str, str]) -> tuple[PortRef, str] | None:
    service = PortRef.parse(labels.get(stats.DESTINATION, ""))
    instance = _value(labels, stats.INSTANCE)
    return (service, instance) if service and instance else None
