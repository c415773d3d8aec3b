"""What agents report, made useful: series per edge, the last success of each workload, and weights that follow latency.

A Report names proxies, ports and addresses; people name services. The translation is made here, from the Mesh, and a
name that the Mesh does not have is counted nowhere.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from masche.api import messages
from masche.compiler.steer.seen import Key, Seen
from masche.compiler.steer.steersman import FAIR, Steersman
from masche.compiler.steer.terrain import survey
from masche.control.picture import caller_of
from masche.control.reading import service_of
from masche.control.world import World
from masche.identity.spiffe import SpiffeError, SpiffeId, WorkloadIdentity
from masche.link.messages import EdgeReport, EndpointReport, ProxyReport, Report
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.telemetry.events import Events
from masche.telemetry.histogram import Histogram
from masche.telemetry.series import Edge, Sample, Series, Summary

INTERVAL = 1.0
SERVER_ERROR = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class _Certificate:
    not_after: float
    serial: str


@dataclass(slots=True)
class _Names:
    """The Mesh as reports need it: which service a workload belongs to, and who listens at an address."""

    mesh: Mesh
    services: dict[Name, str] = field(default_factory=dict[Name, str])
    listeners: dict[str, Name] = field(default_factory=dict[str, Name])

    @classmethod
    def of(cls, mesh: Mesh) -> "_Names":
        names = cls(mesh)
        for name, workload in mesh.workloads.items():
            names.services[name] = service_of(mesh, name) or caller_of(str(name))
            for port in workload.spec.ports:
                names.listeners[f"{workload.spec.address}:{port.mesh_port or port.port}"] = name
        return names


class Measures:
    """Counts Reports. Times are monotonic seconds, but for those of certificates."""

    def __init__(self, world: World, *, events: Events) -> None:
        self._world = world
        self._events = events
        self._series = Series()
        self._steersman = Steersman()
        self._certificates: dict[Name, _Certificate] = {}
        self._successes: dict[Name, float] = {}
        self._ejected: dict[tuple[PortRef, Name], set[str]] = {}
        self._totals = Totals()
        self._names = _Names.of(world.mesh)

    # -- counting ---------------------------------------------------------------------------------------------------

    def count(self, report: Report) -> None:
        """Count one Report, which nobody counted before."""
        if self._names.mesh is not self._world.mesh:
            self._names = _Names.of(self._world.mesh)
        samples: dict[Edge, Sample] = {}
        for proxy in report.proxies:
            self._certify(proxy)
            for edge in proxy.edges:
                self._count_edge(edge, samples)
            self._count_endpoints(proxy, samples)
        self._series.add(samples, at=self._world.now())
        self._totals.add(samples)

    def _certify(self, proxy: ProxyReport) -> None:
        for each in proxy.certificates:
            self._certificates[each.workload] = _Certificate(not_after=each.not_after, serial=each.serial)

    def _count_edge(self, report: EdgeReport, samples: dict[Edge, Sample]) -> None:
        mine = self._names.services.get(report.workload, "")
        if not mine:
            return
        if report.direction == "outbound" and report.service is not None:
            edge = Edge(mine, str(report.service.owner), report.service.port)
            samples.setdefault(edge, Sample()).absorb(_sample(report))
        elif report.direction == "inbound" and report.rule:
            denied = Sample(denied=sum(report.codes.values()))
            samples.setdefault(self._denied_edge(report, mine, samples), Sample()).absorb(denied)

    def _denied_edge(self, report: EdgeReport, mine: str, samples: Mapping[Edge, Sample]) -> Edge:
        """The edge whose call was denied: the caller by its identity, the port as it was called if that is known."""
        source = _caller(report.peer)
        known = (edge for edge in samples if (edge.source, edge.destination) == (source, mine) and not edge.instance)
        service = self._world.mesh.services.get(_name(mine))
        first = service.spec.ports[0].port if service and service.spec.ports else 0
        return next(known, Edge(source, mine, first))

    def _count_endpoints(self, proxy: ProxyReport, samples: dict[Edge, Sample]) -> None:
        registration = self._world.registrations.get(proxy.proxy)
        occupant = registration.state.occupants[0] if registration and registration.state.occupants else None
        if occupant is None:
            return
        source = self._names.services.get(occupant.seat.workload, "")
        seen: dict[Key, list[Seen]] = {}
        for report in proxy.endpoints:
            instance = self._names.listeners.get(report.endpoint)
            if instance is None or not source:
                continue
            edge = Edge(source, str(report.service.owner), report.service.port, str(instance))
            samples.setdefault(edge, Sample()).absorb(_instance_sample(report))
            self._notice(report, instance, proxy.proxy)
            seen.setdefault((report.service, occupant.zone), []).append(self._seen(report, instance, proxy.proxy))
        for key, each in seen.items():
            self._steersman.saw(key, each, now=self._world.now())

    def _seen(self, report: EndpointReport, instance: Name, proxy: str) -> Seen:
        workload = self._world.mesh.workloads.get(instance)
        latency = Histogram(report.latency.buckets, sum_us=report.latency.sum_us)
        service_time = Histogram(report.service_time.buckets, sum_us=report.service_time.sum_us)
        return Seen(
            workload=str(instance),
            zone=workload.spec.zone if workload else "",
            caller=proxy,
            answers=latency.count,
            errors=report.errors,
            timeouts=report.timeouts,
            active=report.active,
            latency_us=latency.mean,
            service_us=service_time.mean,
            rtt_us=float(report.rtt_us),
            is_ejected=report.is_ejected,
        )

    def _notice(self, report: EndpointReport, instance: Name, proxy: str) -> None:
        if report.requests > report.errors:
            self._successes[instance] = self._world.now()
        ejecting = self._ejected.setdefault((report.service, instance), set())
        (ejecting.add if report.is_ejected else ejecting.discard)(proxy)

    # -- what follows ---------------------------------------------------------------------------------------------

    async def steer(self) -> None:
        """Publish weights once a second, for ever, when they moved."""
        while True:
            await asyncio.sleep(INTERVAL)
            self._forget()
            terrain = survey(self._world.mesh, self._steersman.ports())
            decision = self._steersman.steer(terrain, now=self._world.now())
            if decision.steering is not None:
                self._world.steer(decision.steering)
            for move in decision.moves:
                self._events.add(kind=move.kind, severity=move.severity, about=move.about, message=move.sentence)

    def _forget(self) -> None:
        self._successes = {n: at for n, at in self._successes.items() if n in self._world.mesh.workloads}
        self._certificates = {n: each for n, each in self._certificates.items() if n in self._world.mesh.workloads}
        here = {registration.state.proxy for registration in self._world.registrations}
        self._ejected = {key: left for key, proxies in self._ejected.items() if (left := proxies & here)}

    # -- what is asked ----------------------------------------------------------------------------------------------

    def last_success(self) -> Mapping[Name, float]:
        """When callers last had an answer from each workload."""
        return self._successes

    def certificate_expiry(self, workload: Name) -> float:
        """When a workload's certificate ends, in Unix seconds; 0.0 when its agent did not say."""
        found = self._certificates.get(workload)
        return found.not_after if found else 0.0

    def certificate_serial(self, workload: Name) -> str:
        """The serial of a workload's certificate, in hex, or ""."""
        found = self._certificates.get(workload)
        return found.serial if found else ""

    def totals(self) -> "Totals":
        """Counters since this control plane started."""
        return self._totals

    def edges(self, window: float) -> tuple[messages.Edge, ...]:
        """All edges with traffic in the last ``window`` seconds."""
        now = self._world.now()
        return tuple(self._edge(each, window, now) for each in self._series.edges(window=window, now=now))

    def _edge(self, summary: Summary, window: float, now: float) -> messages.Edge:
        edge = summary.edge
        port = PortRef(*_name(edge.destination), edge.port)
        instances = self._series.instances(edge, window=window, now=now)
        return messages.Edge(
            source=edge.source,
            destination=edge.destination,
            port=edge.port,
            protocol=self._protocol(port),
            rate=_rate(summary),
            denied_per_second=summary.denied_rate,
            endpoints=tuple(self._instance(port, each) for each in instances),
        )

    def _protocol(self, port: PortRef) -> str:
        service = self._world.mesh.services.get(port.owner)
        found = next((each for each in service.spec.ports if each.port == port.port), None) if service else None
        return (found.app_protocol or "http") if found else ""

    def _instance(self, port: PortRef, summary: Summary) -> messages.EdgeEndpoint:
        name = _name(summary.edge.instance)
        workload = self._world.mesh.workloads.get(name)
        zone = workload.spec.zone if workload else ""
        standings = (each for each in self._steersman.instances(port) if each.workload == summary.edge.instance)
        return messages.EdgeEndpoint(
            workload=summary.edge.instance,
            zone=zone,
            rate=_rate(summary),
            weight=min((each.weight for each in standings), default=FAIR),
            is_ejected=bool(self._ejected.get((port, name))),
        )


@dataclass(slots=True)
class Totals:
    """Counters per edge since the start, for Prometheus; bounded like the series."""

    edges: dict[Edge, Sample] = field(default_factory=dict[Edge, Sample])
    limit: int = 2000

    def add(self, samples: Mapping[Edge, Sample]) -> None:
        """Add what one Report counted; edges only, not single instances."""
        for edge, sample in samples.items():
            if not edge.instance and (edge in self.edges or len(self.edges) < self.limit):
                self.edges.setdefault(edge, Sample()).absorb(sample)


def _sample(report: EdgeReport) -> Sample:
    requests = sum(report.codes.values())
    failures = sum(count for code, count in report.codes.items() if code >= SERVER_ERROR or code == 0)
    return Sample(
        requests=requests,
        failures=failures,
        connections=report.connections,
        bytes_sent=report.bytes_sent,
        bytes_received=report.bytes_received,
        latency=Histogram(report.latency.buckets, sum_us=report.latency.sum_us),
    )


def _instance_sample(report: EndpointReport) -> Sample:
    latency = Histogram(report.latency.buckets, sum_us=report.latency.sum_us)
    return Sample(requests=report.requests, failures=report.errors, latency=latency)


def _rate(summary: Summary) -> messages.Rate:
    return messages.Rate(
        requests_per_second=summary.rate,
        success=summary.success,
        p50_ms=summary.p50_ms,
        p95_ms=summary.p95_ms,
        p99_ms=summary.p99_ms,
    )


def _caller(peer: str) -> str:
    try:
        role = SpiffeId.parse(peer).role
    except SpiffeError:
        return "(plaintext)"
    return f"{role.namespace}/{role.service_account}" if isinstance(role, WorkloadIdentity) else peer


def _name(text: str) -> Name:
    namespace, _, name = text.rpartition("/")
    return Name(namespace, name)
