"""How calls to a workload are received: what its ports speak, who must show a certificate, what is allowed.

Invariant: when two Services disagree about what a port speaks, it is carried as bytes, so that no rule about requests
ever allows what it cannot see.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Any

from masche.compiler.limits import limits
from masche.compiler.peer import effective
from masche.compiler.policy import policies
from masche.compiler.protocol import ports, protocol
from masche.compiler.remember import by_identity
from masche.compiler.selection import matches
from masche.compiler.times import idle_times
from masche.compiler.trafficpolicy import traffic
from masche.model.calling import AdaptiveConcurrency, Traffic
from masche.model.mesh import Mesh
from masche.model.refs import Name, Origin, PortRef
from masche.model.resources.core import Service
from masche.model.vantage import Vantage
from masche.model.view import Inbound, InboundPort, Protocol


def inbound(mesh: Mesh, vantage: Vantage) -> Inbound:
    """Return the receiving side of a vantage, on which who runs has no influence."""
    made = _made(
        mesh.services,
        mesh.authorization_policies,
        mesh.peer_authentications,
        mesh.traffic_policies,
        mesh.rate_limit_policies,
        mesh.config,
    )
    if vantage not in made:
        made[vantage] = _make(mesh, vantage)
    return made[vantage]


@by_identity
def _made(*_tables: Any) -> dict[Vantage, Inbound]:
    """What was made of these tables so far."""
    return {}


def _make(mesh: Mesh, vantage: Vantage) -> Inbound:
    spoken = _ports(mesh, vantage)
    authentication = effective(mesh, namespace=vantage.namespace, labels=dict(vantage.labels))
    return Inbound(
        mtls=authentication.mode,
        port_mtls=authentication.ports,
        ports=spoken,
        policies=policies(mesh, vantage),
        limits=limits(mesh, vantage),
        origins=(*authentication.origins, *_limiting(mesh, spoken)),
    )


def _limiting(mesh: Mesh, spoken: Iterable[InboundPort]) -> Iterator[Origin]:
    """Who wrote how long and how much at a time these ports are willing to work."""
    settings = traffic(mesh.services, mesh.traffic_policies, mesh.config)
    owners = dict.fromkeys(ref.owner for port in spoken for ref in port.services)
    written = (each for owner in owners for each in settings[owner].origins)
    yield from dict.fromkeys(origin for place, origin in written if place in _LIMITS)


_LIMITS = {
    "timeouts.streamIdle",
    "outlierEjection.consecutiveErrors",
    *(f"adaptiveConcurrency.{each}" for each in ("enabled", "maxConcurrency", "baseLatency")),
}


def _ports(mesh: Mesh, vantage: Vantage) -> tuple[InboundPort, ...]:
    spoken: defaultdict[int | str, list[tuple[PortRef, Protocol]]] = defaultdict(list)
    labels = dict(vantage.labels)
    for name, service in _candidates(mesh.services, vantage):
        if matches(service.spec.selector, labels):
            for port in ports(service):
                spoken[port.target].append((PortRef(*name, port.port), protocol(port)))
    settings = traffic(mesh.services, mesh.traffic_policies, mesh.config)
    return tuple(_port(target, some, settings) for target, some in sorted(spoken.items(), key=lambda one: str(one[0])))


def _candidates(services: Mapping[Name, Service], vantage: Vantage) -> Iterator[tuple[Name, Service]]:
    """The Services of a namespace that select, among others, on a label that who stands here has."""
    found = _by_label(services)
    for label in vantage.labels:
        yield from found.get((vantage.namespace, label), ())


@by_identity
def _by_label(
    services: Mapping[Name, Service],
) -> Mapping[tuple[str, tuple[str, str]], Sequence[tuple[Name, Service]]]:
    """Every Service that selects, by its namespace and the first label that it selects on."""
    found: dict[tuple[str, tuple[str, str]], list[tuple[Name, Service]]] = {}
    for name, service in services.items():
        if service.spec.selector:
            found.setdefault((name.namespace, min(service.spec.selector.items())), []).append((name, service))
    return found


def _port(
    target: int | str, spoken: Sequence[tuple[PortRef, Protocol]], settings: Mapping[Name, Traffic]
) -> InboundPort:
    """Several Services may share a port: it waits as long as the most patient says, and is limited by the strictest."""
    services = tuple(sorted(ref for ref, _ in spoken))
    policies = [settings[ref.owner] for ref in services]
    idle, stream_idle = zip(*map(idle_times, policies), strict=True)
    return InboundPort(
        target=target,
        protocol=_agreed({each for _, each in spoken}),
        services=services,
        idle_timeout=_longest(idle),
        stream_idle_timeout=_longest(stream_idle),
        concurrency=min((each.concurrency for each in policies), key=_leniency),
        consecutive_errors=min(each.outlier.consecutive_errors for each in policies),
    )


def _longest(times: Iterable[float]) -> float:
    """The longest of times of which 0 means for ever."""
    return max(times, key=lambda each: each or inf)


def _leniency(concurrency: AdaptiveConcurrency) -> tuple[bool, int]:
    return not concurrency.enabled, concurrency.max_concurrency


def _agreed(protocols: set[Protocol]) -> Protocol:
    if len(protocols) == 1:
        return next(iter(protocols))
    return Protocol.TCP if Protocol.TCP in protocols else Protocol.HTTP
