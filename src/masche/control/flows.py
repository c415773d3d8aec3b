"""Who calls whom, as the API tells it: series of calls beside how each instance and each way between zones stands.

Invariant: an instance that is kept off or weighted down is told of even while nobody calls it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

from masche.api.traffic import (
    CallerView,
    Edge,
    EdgeEndpoint,
    InstanceState,
    Rate,
    Way,
    ZoneLink,
    Zones,
    ZoneShare,
    ZoneShift,
)
from masche.compiler.steer.standing import Admission, Link, Standing
from masche.control import ways
from masche.control.ejections import Ejections
from masche.control.helm import Helm
from masche.control.naming import naming
from masche.control.world import World
from masche.model.refs import Name, PortRef
from masche.model.resources.workload import WorkloadState
from masche.telemetry.series import Series, Summary

FAIR = 100
_MILLI = 1000.0
_WORST = (InstanceState.EJECTED, InstanceState.PROBING)
_OWN = {WorkloadState.UNHEALTHY: InstanceState.UNHEALTHY, WorkloadState.DRAINING: InstanceState.DRAINING}
SILENCE = Rate(requests_per_second=0.0, success=1.0, p50_ms=0.0, p95_ms=0.0, p99_ms=0.0)


class Flows:
    """Answers from the series of edges and of zones. ``wall`` is Unix seconds."""

    def __init__(
        self, world: World, *, edges: Series, zones: Series, helm: Helm, ejections: Ejections, wall: Callable[[], float]
    ) -> None:
        self._world = world
        self._edges = edges
        self._zones = zones
        self._helm = helm
        self._ejections = ejections
        self._wall = wall

    # -- edges ----------------------------------------------------------------------------------------------------

    def edges(self, window: float) -> tuple[Edge, ...]:
        """All edges with traffic in the last ``window`` seconds."""
        now = self._world.now()
        return tuple(self._edge(each, window, now) for each in self._edges.edges(window=window, now=now))

    def _edge(self, summary: Summary, window: float, now: float) -> Edge:
        edge = summary.edge
        port = PortRef(*name_of(edge.destination), edge.port)
        rates = {each.edge.instance: _rate(each) for each in self._edges.instances(edge, window=window, now=now)}
        instances = tuple(self._instances(edge.source, port, rates))
        taken = (each.way for each in instances if each.rate.requests_per_second)
        way = ways.of_edge(self._world.mesh, edge.source, edge.destination, taken)
        return Edge(
            source=edge.source,
            destination=edge.destination,
            port=edge.port,
            protocol=self._protocol(port),
            rate=_rate(summary),
            denied_per_second=summary.denied_rate,
            endpoints=instances,
            panic=self._helm.panics.get(port, ""),
            is_mtls=way is Way.TLS,
            way=way,
        )

    def _protocol(self, port: PortRef) -> str:
        service = self._world.mesh.services.get(port.owner)
        found = next((each for each in service.spec.ports if each.port == port.port), None) if service else None
        return (found.app_protocol or "http") if found else ""

    def _instances(self, source: str, port: PortRef, rates: Mapping[str, Rate]) -> Iterable[EdgeEndpoint]:
        """Those that were called, and those that are not because something is the matter."""
        standings: defaultdict[str, list[Standing]] = defaultdict(list)
        for standing in self._helm.standings(port):
            standings[standing.workload].append(standing)
        silent = {workload for workload, some in standings.items() if any(map(_is_odd, some))}
        silent |= {str(workload) for workload in self._ejections.of(port)}
        for workload in sorted(rates.keys() | silent):
            way = ways.to_instance(self._world.mesh, source, name_of(workload))
            yield self._instance(port, workload, rates.get(workload, SILENCE), standings.get(workload, ()), way)

    def _instance(
        self, port: PortRef, workload: str, rate: Rate, standings: Iterable[Standing], way: Way
    ) -> EdgeEndpoint:
        found = self._world.mesh.workloads.get(name_of(workload))
        views = tuple(self._view(each) for each in standings)
        cut_off = self._ejections.reason(port, name_of(workload))
        state, until_at, reason = _worst(views)
        if cut_off and state is InstanceState.ADMITTED:
            state, reason = InstanceState.EJECTED, cut_off
        if found is not None and found.state in _OWN:
            own = found.status.reason if found.status else ""
            state, until_at, reason = _OWN[found.state], 0.0, own or reason
        return EdgeEndpoint(
            workload=workload,
            zone=found.spec.zone if found else "",
            rate=rate,
            weight=min((each.weight for each in views if not each.is_dry_run), default=FAIR),
            is_ejected=bool(cut_off) or state is InstanceState.EJECTED,
            state=state,
            until_at=until_at,
            reason=reason,
            callers=views,
            way=way,
        )

    def _view(self, standing: Standing) -> CallerView:
        ahead = standing.until - self._world.now()
        return CallerView(
            zone=standing.caller_zone,
            weight=standing.weight,
            state=InstanceState(standing.state.value),
            until_at=self._wall() + ahead if standing.until and ahead > 0 else 0.0,
            reason=standing.reason,
            latency_ms=standing.latency_us / _MILLI,
            service_ms=standing.service_us / _MILLI,
            network_ms=standing.network_us / _MILLI,
            is_dry_run=standing.is_dry_run,
        )

    def reason(self, port: PortRef, workload: str, *, zone: str) -> str:
        """Why the callers of a zone have an instance as they do, as a sentence; "" when nothing is the matter."""
        mine = (each for each in self._helm.standings(port) if each.workload == workload and each.caller_zone == zone)
        steered = next((_told(self._view(each)) for each in mine), "")
        return steered or self._ejections.reason(port, name_of(workload))

    # -- zones ----------------------------------------------------------------------------------------------------

    def zones(self, window: float, *, at: float) -> Zones:
        """The ways between zones, with what they carried in the last ``window`` seconds."""
        return Zones(at=at, window=window, links=tuple(self._links(window)), shifts=tuple(self._shifts()))

    def _links(self, window: float) -> Iterable[ZoneLink]:
        now = self._world.now()
        carried = {_way(each): each for each in self._zones.every(window=window, now=now)}
        known = {(link.source, link.target, link.via): link for link in self._helm.links()}
        totals: defaultdict[str, float] = defaultdict(float)
        for (source, _, _), summary in carried.items():
            totals[source] += summary.rate
        for way in sorted(carried.keys() | known.keys()):
            summary = carried.get(way)
            share = summary.rate / totals[way[0]] if summary and totals[way[0]] else 0.0
            yield _link(way, known.get(way), _rate(summary) if summary else SILENCE, share)

    def _shifts(self) -> Iterable[ZoneShift]:
        for (port, zone), steer in sorted(self._world.compilation.steering.steers.items()):
            if steer.zones or steer.detours:
                yield ZoneShift(service=str(port), caller_zone=zone, shares=tuple(self.shares(port, zone)))

    def shares(self, port: PortRef, zone: str) -> Iterable[ZoneShare]:
        """How the calls of a zone to a port are divided between zones, as its proxies are told."""
        localities = self._world.compilation.endpoints(port, zone).localities
        weights = [each.weight or len(each.endpoints) for each in localities]
        names = naming(self._world.mesh)
        for locality, weight in zip(localities, weights, strict=True):
            yield ZoneShare(zone=locality.zone, via=names.via(locality.via), share=weight / sum(weights))


def _worst(views: Iterable[CallerView]) -> tuple[InstanceState, float, str]:
    """The state that matters most, with its end and its reason: what is in force before what only would be."""
    real = [view for view in views if not view.is_dry_run]
    for state in _WORST:
        if worst := max((each for each in real if each.state is state), key=lambda each: each.until_at, default=None):
            return state, worst.until_at, worst.reason
    return InstanceState.ADMITTED, 0.0, next((each.reason for each in views if each.reason), "")


def _told(view: CallerView) -> str:
    if view.state is InstanceState.ADMITTED:
        return view.reason
    end = (
        datetime.fromtimestamp(view.until_at, tz=UTC).astimezone().strftime(" until %H:%M:%S") if view.until_at else ""
    )
    return f"{view.state}{end}" + (f", because {view.reason}" if view.reason else "")


def _is_odd(standing: Standing) -> bool:
    return standing.state is not Admission.ADMITTED or standing.weight != FAIR


def _way(summary: Summary) -> tuple[str, str, str]:
    return summary.edge.source, summary.edge.destination, summary.edge.instance


def _link(way: tuple[str, str, str], link: Link | None, rate: Rate, share: float) -> ZoneLink:
    source, destination, via = way
    return ZoneLink(
        source=source,
        destination=destination,
        via=via,
        rate=rate,
        share=share,
        network_ms=link.network_us / _MILLI if link else 0.0,
        usual_ms=link.usual_us / _MILLI if link else 0.0,
        lost=link.lost if link else 0.0,
        is_bad=bool(link and link.is_bad),
    )


def _rate(summary: Summary) -> Rate:
    return Rate(
        requests_per_second=summary.rate,
        success=summary.success,
        p50_ms=summary.p50_ms,
        p95_ms=summary.p95_ms,
        p99_ms=summary.p99_ms,
    )


def name_of(text: str) -> Name:
    """Read ``namespace/name``."""
    namespace, _, name = text.rpartition("/")
    return Name(namespace, name)
