"""The part of a Mesh that steering must know: where instances stand, what is allowed, and where a detour could pass.

Invariant: what is not in the Terrain is forgotten by the Steersman, and never steered.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from masche.compiler.clusters import cluster
from masche.compiler.east_west import gateways
from masche.compiler.endpoints import placed
from masche.compiler.locality import callers
from masche.compiler.remember import by_identity
from masche.model.calling import UNSAID, Traffic
from masche.model.mesh import Mesh
from masche.model.refs import PortRef
from masche.model.view import Health


@dataclass(frozen=True, slots=True)
class Site:
    """One instance: a Workload's name, its zone, and whether the mesh holds it for healthy."""

    workload: str
    zone: str
    is_healthy: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One (Service, port): its instances, with their ``names``, and the effective Traffic."""

    sites: tuple[Site, ...]
    traffic: Traffic = UNSAID
    names: frozenset[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset(site.workload for site in self.sites))


@dataclass(frozen=True, slots=True, kw_only=True)
class Terrain:
    """All of it. ``gateways`` are the zones with an east-west gateway, ``callers`` counts Workloads by zone."""

    ports: Mapping[PortRef, Ground]
    gateways: frozenset[str] = frozenset()
    callers: Mapping[str, int] = field(default_factory=dict[str, int])


def survey(mesh: Mesh, ports: Iterable[PortRef]) -> Terrain:
    """Look at these ports of a Mesh; a port that is not there is left out."""
    return Terrain(
        ports={port: ground for port in ports if (ground := _ground(mesh, port))},
        gateways=frozenset(gateways(mesh)),
        callers=callers(mesh.workloads),
    )


def _ground(mesh: Mesh, port: PortRef) -> Ground | None:
    known = _grounds(mesh.services, mesh.workloads, mesh.endpoint_slices, mesh.traffic_policies, mesh.config)
    if port not in known:
        known[port] = _surveyed(mesh, port)
    return known[port]


@by_identity
def _grounds(*_tables: object) -> dict[PortRef, Ground | None]:
    """What was looked at so far in these tables."""
    return {}


def _surveyed(mesh: Mesh, port: PortRef) -> Ground | None:
    service = mesh.services.get(port.owner)
    if service is None or not any(each.port == port.port and each.protocol == "TCP" for each in service.spec.ports):
        return None
    return Ground(sites=tuple(_sites(mesh, port)), traffic=cluster(mesh, port).traffic)


def _sites(mesh: Mesh, port: PortRef) -> Iterator[Site]:
    for zone, endpoint in placed(mesh, port):
        if endpoint.health is not Health.DRAINING:
            yield Site(endpoint.workload, zone, endpoint.health is Health.HEALTHY)
