"""The part of a Mesh that steering must know: where instances stand, what is allowed, and where a detour could pass.

Invariant: what is not in the Terrain is forgotten by the Steersman, and never steered.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from masche.compiler.clusters import cluster
from masche.compiler.endpoints import placed
from masche.compiler.remember import by_identity
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.model.resources.workload import Workload, WorkloadState
from masche.model.view import Health, Traffic

EAST_WEST = ("masche.dev/gateway", "east-west")
"""The label of a Workload of the root namespace that carries detours."""

MESH_PORT = 15008
"""Where an east-west gateway takes them."""

UNSAID = Traffic()
"""What holds for a port when nobody wrote a policy."""


@dataclass(frozen=True, slots=True)
class Site:
    """One instance: a Workload's name, its zone, and whether the mesh holds it for healthy."""

    workload: str
    zone: str
    is_healthy: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One (Service, port): its instances and the effective Traffic."""

    sites: tuple[Site, ...]
    traffic: Traffic = UNSAID


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
        gateways=frozenset(each.spec.zone for each in gateways(mesh.workloads, mesh.config.spec.root_namespace)),
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


@by_identity
def callers(workloads: Mapping[Name, Workload]) -> Mapping[str, int]:
    """How many Workloads stand in each zone."""
    return MappingProxyType(Counter(each.spec.zone for each in workloads.values()))


@by_identity
def gateways(workloads: Mapping[Name, Workload], namespace: str) -> tuple[Workload, ...]:
    """The READY east-west gateways, sorted by name."""
    label, value = EAST_WEST
    return tuple(
        each
        for _, each in sorted(workloads.items())
        if each.metadata.namespace == namespace
        and each.metadata.labels.get(label) == value
        and each.state is WorkloadState.READY
    )
