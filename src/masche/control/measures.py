"""What agents report, made useful: series per edge and zone, the last success of each workload, and what steers.

A Report names proxies, ports and addresses; people name services. Invariant: a machine is heard about its own proxies
alone, and only about ports of Services that the Mesh has and instances that they select; whatever else it says is
counted nowhere, so that what is remembered is bounded by the Mesh and not by who reports.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from masche.compiler.selection import matches
from masche.control.ejections import Ejections
from masche.control.flows import Flows
from masche.control.helm import Helm
from masche.control.naming import Naming, naming, reporting
from masche.control.registrations import Registration
from masche.control.samples import Calls, Samples, Totals, add, add_edge, calls, divided, of_instance
from masche.control.world import World
from masche.link.messages import EdgeReport, EndpointReport, Occupant, Plight, ProxyReport, Report, Verdict
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.model.vantage import Placement
from masche.telemetry.events import Events
from masche.telemetry.series import Edge, Series


@dataclass(frozen=True, slots=True, kw_only=True)
class _Certificate:
    not_after: float
    serial: str


class Measures:
    """Counts Reports and hears verdicts. Times are monotonic seconds; ``wall`` and those of certificates are Unix.

    ``called`` is told each edge that is counted, with the service account (and namespace) of its workload.
    """

    def __init__(
        self, world: World, *, events: Events, wall: Callable[[], float], called: Callable[[Name, EdgeReport], None]
    ) -> None:
        self._world = world
        self._called = called
        self._edges = Series()
        self._zones = Series()
        self._ejections = Ejections()
        self._certificates: dict[Name, _Certificate] = {}
        self._successes: dict[Name, float] = {}
        self._totals = Totals()
        self._last_calls: dict[str, Calls] = {}
        self.helm = Helm(world, events=events, ejections=self._ejections)
        self.flows = Flows(
            world, edges=self._edges, zones=self._zones, helm=self.helm, ejections=self._ejections, wall=wall
        )
        world.settled_hooks.append(self._forget)

    # -- counting ---------------------------------------------------------------------------------------------------

    def count(self, report: Report) -> None:
        """Count one Report, which nobody counted before and whose machine is the one that it says."""
        names, edges, zones = naming(self._world.mesh), Samples(), Samples()
        for proxy in report.proxies:
            registration = reporting(self._world.registrations, proxy.proxy, report.machine)
            if registration is not None:
                self._certify(proxy, registration)
                self._count_edges(proxy, registration, edges, names)
                self._count_endpoints(proxy, registration, edges, zones, names)
        now = self._world.now()
        self._edges.add(edges, at=now)
        self._zones.add(zones, at=now)
        self._totals.add(edges)

    def judge(self, word: Verdict | Plight, machine: str) -> None:
        """Hear a word that does not wait for a Report."""
        match word:
            case Verdict():
                self.verdict(word, machine)
            case Plight():
                self.plight(word, machine)

    def verdict(self, verdict: Verdict, machine: str) -> None:
        """Hear at once what the next Report of this machine will say as well: a proxy keeps off an endpoint, or not."""
        names = naming(self._world.mesh)
        registration = reporting(self._world.registrations, verdict.proxy, machine)
        caller = _caller(registration) if registration else None
        instance = names.listeners.get(verdict.endpoint)
        if caller is None or instance is None or not _answers(self._world.mesh, verdict.service, instance):
            return
        if verdict.via or self._is_news(verdict, instance):
            sight = (str(instance), names.via(verdict.via), verdict.proxy)
            key = (verdict.service, caller.zone)
            self.helm.sightings.judge(key, sight, zone=names.zones[instance], is_ejected=verdict.is_ejected)
            self.helm.hurry()

    def plight(self, plight: Plight, machine: str) -> None:
        """Hear at once of an instance what its own agent says: it fails all of its callers, or no more."""
        registration = reporting(self._world.registrations, plight.proxy, machine)
        if registration is None or registration.occupant(plight.workload) is None:
            return
        if self.helm.plights.note(plight, at=self._world.now()):
            self.helm.hurry()

    def _is_news(self, verdict: Verdict, instance: Name) -> bool:
        """Note a verdict on the direct way; one on a detour says nothing of who may be reached directly."""
        return self._ejections.note(
            (verdict.service, instance),
            verdict.proxy,
            is_ejected=verdict.is_ejected,
            at=self._world.now(),
            cause=verdict.cause,
        )

    def _certify(self, proxy: ProxyReport, registration: Registration) -> None:
        for each in proxy.certificates:
            if registration.occupant(each.workload) is not None and each.workload in self._world.newest.workloads:
                self._certificates[each.workload] = _Certificate(not_after=each.not_after, serial=each.serial)

    def _count_edges(self, proxy: ProxyReport, registration: Registration, samples: Samples, names: Naming) -> None:
        for edge in proxy.edges:
            if (occupant := self._occupant(registration, edge)) is not None:
                add_edge(edge, samples, names=names, mesh=self._world.mesh)
                self._called(Name(edge.workload.namespace, occupant.service_account), edge)

    def _occupant(self, registration: Registration, edge: EdgeReport) -> Occupant | None:
        """Whose edge it is; None for one that does not count."""
        is_known = edge.service is None or _exists(self._world.mesh, edge.service)
        return self._world.registrations.occupant(registration, edge.workload) if is_known else None

    def _count_endpoints(
        self, proxy: ProxyReport, registration: Registration, edges: Samples, zones: Samples, names: Naming
    ) -> None:
        caller = _caller(registration)
        if caller is None:
            return
        calls = self._calls(proxy, caller, registration, names)
        reached = {(each.service, each.endpoint) for each in proxy.endpoints if not each.is_ejected}
        for report in proxy.endpoints:
            instance = names.listeners.get(report.endpoint)
            if instance is not None and _answers(self._world.mesh, report.service, instance):
                for source, part in divided(of_instance(report), calls.get(report.service, {})):
                    add(edges, Edge(source, str(report.service.owner), report.service.port, str(instance)), part)
                way = Edge(caller.zone, names.zones[instance], 0, names.via(report.via))
                add(zones, way, of_instance(report))
                self._sight(report, instance, proxy.proxy, caller.zone, names)
                is_cut_off = (report.service, report.endpoint) not in reached
                self._ejections.note(
                    (report.service, instance), proxy.proxy, is_ejected=is_cut_off, at=self._world.now()
                )

    def _calls(self, proxy: ProxyReport, caller: Occupant, registration: Registration, names: Naming) -> Calls:
        """Who called each port through a proxy, and how often.

        A node's workloads call through the same clusters, and Envoy does not tell whose tries at an instance were
        whose: they are divided as the calls are, or as they were when a port was last called.
        """
        if registration.state.placement is not Placement.NODE:
            alone = {names.node(caller.seat.workload): 1}
            return {each.service: alone for each in proxy.endpoints}
        now = calls((edge for edge in proxy.edges if self._occupant(registration, edge) is not None), names)
        self._last_calls[proxy.proxy] = {**self._last_calls.get(proxy.proxy, {}), **now}
        return self._last_calls[proxy.proxy]

    def _sight(self, report: EndpointReport, instance: Name, proxy: str, caller_zone: str, names: Naming) -> None:
        if report.requests > report.errors:
            self._successes[instance] = self._world.now()
        via = names.via(report.via)
        key = (report.service, caller_zone)
        self.helm.sightings.add(key, (str(instance), via, proxy), report, zone=names.zones[instance])

    def _forget(self) -> None:
        """Let go of what the Mesh does not have any more."""
        here = self._world.newest.workloads
        self.helm.plights.keep_only(here, now=self._world.now())  # who comes back by that name begins afresh
        self._successes = {name: at for name, at in self._successes.items() if name in here}
        self._certificates = {name: each for name, each in self._certificates.items() if name in here}
        services = self._world.mesh.services
        self._last_calls = {
            proxy: {port: callers for port, callers in known.items() if port.owner in services}
            for proxy, known in self._last_calls.items()
            if self._world.registrations.get(proxy) is not None
        }

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

    def totals(self) -> Totals:
        """Counters since this control plane started."""
        return self._totals


def _caller(registration: Registration) -> Occupant | None:
    """A workload that calls through a proxy; of a node's, which has several, the first says in which zone all are."""
    return registration.state.occupants[0] if registration.state.occupants else None


def _exists(mesh: Mesh, port: PortRef) -> bool:
    service = mesh.services.get(port.owner)
    return service is not None and any(each.port == port.port for each in service.spec.ports)


def _answers(mesh: Mesh, port: PortRef, instance: Name) -> bool:
    """Whether the Mesh has the port, and its Service selects the instance."""
    service, workload = mesh.services.get(port.owner), mesh.workloads.get(instance)
    if service is None or workload is None or not _exists(mesh, port) or instance.namespace != port.owner.namespace:
        return False
    return bool(service.spec.selector) and matches(service.spec.selector, workload.metadata.labels)
