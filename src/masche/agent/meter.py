"""What happened at one Envoy since it was last read, from the running totals that it shows. Pure.

Totals only grow; one that shrank, or a new process, starts from nothing again. An Envoy that was taken over from an
agent before us has totals that somebody may have reported: its first reading counts nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from masche.agent.pages import Buckets, Key, Page
from masche.link.messages import EdgeReport, EndpointReport, Histogram
from masche.link.tallies import Edge
from masche.model.refs import Name, PortRef
from masche.telemetry import histogram, names
from masche.telemetry.prometheus import Sample
from masche.wire import stats

_CONNECTED, _EJECTING = "envoy_cluster_upstream_cx_active", "envoy_cluster_outlier_detection_ejections_active"
_UNKNOWN_CODE = 0

UNMATCHED = "no ALLOW policy matches"
"""The rule of a denial that no rule made."""


Way = tuple[PortRef, str, str]
"""How an instance is reached: the port of its service, its ``host:port``, and the gateway of a detour or ""."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is new since the last reading, and what is true now."""

    counters: Mapping[Key, int]
    latencies: Mapping[Key, Histogram]
    gauges: Mapping[str, float]
    clusters: Mapping[str, int] = field(default_factory=dict[str, int])
    """Clusters that have connections or ejected endpoints, and how many."""

    @property
    def is_live(self) -> bool:
        """Whether Envoy serves."""
        return self.gauges.get("envoy_server_live", 0) == 1

    @property
    def has_warming(self) -> bool:
        """Whether something was sent that Envoy has not made live."""
        clusters = self.gauges.get("envoy_cluster_manager_warming_clusters", 0)
        return clusters + self.gauges.get("envoy_listener_manager_total_listeners_warming", 0) > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one endpoint stands now: requests that wait for it, whether there is a connection, whether it is cut off."""

    active: int = 0
    is_connected: bool = False
    is_ejected: bool = False

    @property
    def is_telling(self) -> bool:
        """Whether it is worth a word although nothing was sent."""
        return self.active > 0 or self.is_ejected


class Meter:
    """The totals of one Envoy as they were last seen; ``quiet`` is how often in a row nothing had grown."""

    def __init__(self) -> None:
        self.quiet = 0
        self._process = 0
        self._counters: Mapping[Key, float] = {}
        self._distributions: Mapping[Key, Buckets] = {}

    def read(self, page: Page, *, process: int, is_inherited: bool) -> Reading:
        """Take one page of totals. ``process`` is Envoy's pid."""
        is_new = process != self._process
        if is_new:
            self._process = process
            self._counters, self._distributions = dict[Key, float](), dict[Key, Buckets]()
        found = _sort(page.samples)
        before, distributions = self._counters, self._distributions
        if is_new and is_inherited:
            before, distributions = found.counters, page.distributions
        self._counters, self._distributions = found.counters, page.distributions
        grown = {key: now for key, value in found.counters.items() if (now := _growth(value, before.get(key, 0.0)))}
        self.quiet = 0 if grown else self.quiet + 1
        timed = page.distributions.items() if page.distributions is not distributions else ()
        news = ((key, now) for key, now in timed if now != distributions.get(key))
        return Reading(
            counters=grown,
            latencies={key: _difference(now, distributions.get(key, {})) for key, now in news},
            gauges=found.gauges,
            clusters=found.clusters,
        )


@dataclass(slots=True)
class _Sorted:
    counters: dict[Key, float] = field(default_factory=dict[Key, float])
    gauges: defaultdict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))
    clusters: defaultdict[str, int] = field(default_factory=lambda: defaultdict[str, int](int))


def _sort(samples: Iterable[Sample]) -> _Sorted:
    """The mesh's own counters by name and labels, the clusters that are in use, and sums of all else by name."""
    found = _Sorted()
    for name, labels, value in samples:
        if name.startswith(stats.PREFIX):
            found.counters[name, tuple(sorted(labels.items()))] = value
        elif name in {_CONNECTED, _EJECTING}:
            if value:
                found.clusters[labels.get("envoy_cluster_name", "")] += int(value)
        else:
            found.gauges[name] += value
    return found


def _growth(now: float, before: float) -> int:
    return int(now - before if now >= before else now)


def _difference(now: Buckets, before: Buckets) -> Histogram:
    """The values that came since ``before``, in the layout of the link."""
    if any(now.get(bucket, 0) < count for bucket, count in before.items()):
        before = {}
    grown = (((low, width), count - before.get((low, width), 0)) for (low, width), count in now.items())
    made = histogram.from_bounds((low, low + width, count) for (low, width), count in grown if count)
    return Histogram(buckets=made.buckets, sum_us=made.sum_us)


_EdgeKey = tuple[PortRef | None, str, str, str]
"""Destination (None: it was called itself), peer, rule, and whose edge it is, where a tag says so."""


def edges(reading: Reading, workload: Name | None) -> tuple[EdgeReport, ...]:
    """The edges that something happened on, as ``workload`` saw them, or, if it is None, whoever a tag names."""
    found: defaultdict[_EdgeKey, Edge] = defaultdict(Edge)
    latencies: dict[_EdgeKey, Histogram] = {}
    for (name, pairs), count in reading.counters.items():
        labels = dict(pairs)
        if key := _edge_key(name, labels):
            _add(found[key], name, labels, count)
    for (name, pairs), latency in reading.latencies.items():
        if name == names.MESH_REQUEST_US and (key := _edge_key(name, dict(pairs))):
            latencies[key] = latency
    return tuple(
        found[key].told(
            workload=seen_by, service=key[0], peer=key[1], rule=key[2], latency=latencies.get(key, Histogram())
        )
        for key in sorted(found.keys() | latencies.keys(), key=str)
        if (seen_by := workload or _named(key[3]))
    )


def _named(tag: str) -> Name | None:
    namespace, _, name = tag.partition("/")
    return Name(namespace, name) if namespace and name else None


def _edge_key(name: str, labels: Mapping[str, str]) -> _EdgeKey | None:
    """Which edge a series is about; None for what is not about an edge of the mesh."""
    destination = labels.get(stats.DESTINATION, "")
    if labels.get(stats.REPORTER) == stats.REPORTER_SOURCE:
        service = PortRef.parse(destination)
        return (service, "", "", _value(labels, stats.WORKLOAD)) if service else None
    if not destination.startswith("inbound/"):
        return None
    rule = (_value(labels, stats.RULE) or UNMATCHED) if name == names.MESH_DENIED else ""
    return None, _value(labels, stats.SOURCE), rule, _value(labels, stats.WORKLOAD)


def _add(edge: Edge, name: str, labels: Mapping[str, str], count: int) -> None:
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


def way_to(cluster: str, instance: str) -> Way | None:
    """Which instance an address as Envoy writes it means; None for one that is of no service of the mesh.

    Of a detour Envoy knows an address inside itself, ``envoy://detour/<endpoint>@<gateway>``, and so it does of who is
    served by the same Envoy: ``envoy://local/<workload>/<port>/<endpoint>``.
    """
    service = PortRef.parse(cluster)
    if service is None or instance in {"", "-"}:
        return None
    endpoint, _, via = instance.removeprefix("envoy://").rpartition("/")[2].partition("@")
    return service, endpoint, via


@dataclass(slots=True)
class _Tries:
    requests: int = 0
    errors: int = 0
    timeouts: int = 0


def endpoints(
    reading: Reading, now: Mapping[Way, Standing], round_trips_us: Mapping[str, int] | None = None
) -> tuple[EndpointReport, ...]:
    """What was seen of each endpoint that was called, is waited for, has been measured, or is cut off.

    ``round_trips_us`` are those of TCP by ``host:port``; a detour has none of its own.
    """
    tries = _tries(reading)
    latencies, service_times = _timed(reading, _is_latency), _timed(reading, _is_service_time)
    known = round_trips_us or {}
    round_trips = {way: known[way[1]] for way, each in now.items() if each.is_connected and way[1] in known}
    telling = {way for way, each in now.items() if each.is_telling}
    none, nothing = _Tries(), Standing()
    return tuple(
        EndpointReport(
            service=way[0],
            endpoint=way[1],
            via=way[2],
            requests=(seen := tries.get(way, none)).requests,
            errors=seen.errors,
            timeouts=seen.timeouts,
            active=(standing := now.get(way, nothing)).active,
            is_ejected=standing.is_ejected,
            latency=latencies.get(way, Histogram()),
            service_time=service_times.get(way, Histogram()),
            rtt_us=0 if way[2] else round_trips.get(way, 0),
        )
        for way in sorted(tries.keys() | latencies.keys() | round_trips.keys() | telling)
    )


def _tries(reading: Reading) -> Mapping[Way, _Tries]:
    found: defaultdict[Way, _Tries] = defaultdict(_Tries)
    for (name, pairs), count in reading.counters.items():
        labels = dict(pairs)
        if name == names.MESH_INSTANCE_REQUESTS and (way := _instance(labels)):
            seen, code = found[way], _code(labels)
            seen.requests += count
            seen.errors += count if code == _UNKNOWN_CODE or code >= 500 else 0
            seen.timeouts += count if code == _UNKNOWN_CODE and _is_given_up(labels) else 0
    return found


def _is_given_up(labels: Mapping[str, str]) -> bool:
    """Whether a try without an answer was ended for taking too long: by its own limit (UT), by that of the whole
    request or by the caller, which both leave no flag on the try. Other flags are failures of a connection."""
    return _value(labels, stats.FLAGS) in {"", "UT", "DC", "DR"}


def _is_latency(name: str, _: str) -> bool:
    return name == names.MESH_INSTANCE_US


def _is_service_time(name: str, instance: str) -> bool:
    """What an instance said that it took. Between two workloads of one Envoy there is no network, so all is its own."""
    is_inside = instance.startswith(_INSIDE)
    return name == (names.MESH_INSTANCE_US if is_inside else names.MESH_INSTANCE_SERVICE_US)


_INSIDE = "envoy://local/"


def _timed(reading: Reading, is_meant: Callable[[str, str], bool]) -> Mapping[Way, Histogram]:
    """By way, of all workloads together that went it, the series that are meant: by their name and the instance."""
    found: defaultdict[Way, list[Histogram]] = defaultdict(list)
    for (name, pairs), each in reading.latencies.items():
        labels = dict(pairs)
        if is_meant(name, labels.get(stats.INSTANCE, "")) and (way := _instance(labels)):
            found[way].append(each)
    return {way: each[0] if len(each) == 1 else _sum(each) for way, each in found.items()}


def _sum(every: Iterable[Histogram]) -> Histogram:
    whole = histogram.Histogram()
    for each in every:
        whole.absorb(histogram.Histogram(each.buckets, sum_us=each.sum_us))
    return Histogram(buckets=whole.buckets, sum_us=whole.sum_us)


def _instance(labels: Mapping[str, str]) -> Way | None:
    return way_to(labels.get(stats.DESTINATION, ""), labels.get(stats.INSTANCE, ""))
