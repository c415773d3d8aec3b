"""The part of a Mesh that steering must know: where instances stand, what is allowed, and where a detour could pass.

Invariant: what is not in the Terrain is forgotten by the Steersman, and never steered.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import is_
from typing import NamedTuple

from masche.compiler.east_west import gateways
from masche.compiler.endpoints import placed
from masche.compiler.locality import callers
from masche.compiler.selection import roster
from masche.compiler.trafficpolicy import traffic
from masche.model.calling import UNSAID, Traffic
from masche.model.mesh import Mesh
from masche.model.refs import PortRef
from masche.model.view import Health


class Site(NamedTuple):
    """One instance: a Workload's name, its zone, and whether the mesh holds it for healthy."""

    workload: str
    zone: str
    is_healthy: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """One (Service, port): its instances, with their ``names``, ``zones`` and ``counts`` by zone, and the effective
    Traffic; where callers choose some of them, their ``addresses`` (``host:port``), by which they do.
    """

    sites: tuple[Site, ...]
    traffic: Traffic = UNSAID
    addresses: Mapping[str, str] = field(default_factory=dict[str, str])
    names: frozenset[str] = field(init=False, compare=False, repr=False)
    healthy: frozenset[str] = field(init=False, compare=False, repr=False)
    zones: frozenset[str] = field(init=False, compare=False, repr=False)
    counts: Mapping[str, int] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset(site.workload for site in self.sites))
        object.__setattr__(self, "healthy", frozenset(site.workload for site in self.sites if site.is_healthy))
        object.__setattr__(self, "zones", frozenset(site.zone for site in self.sites))
        object.__setattr__(self, "counts", Counter(site.zone for site in self.sites))


class _Made(NamedTuple):
    """A Ground, and the objects that it was made of and of nothing else."""

    sources: tuple[object, ...]
    ground: Ground


@dataclass(frozen=True, slots=True, kw_only=True)
class Terrain:
    """All of it. ``gateways`` are the zones with an east-west gateway, ``callers`` counts Workloads by zone,
    ``calling`` has the same as pairs, and ``made_of`` is what the next ``survey`` need not look at again.
    """

    ports: Mapping[PortRef, Ground]
    gateways: frozenset[str] = frozenset()
    callers: Mapping[str, int] = field(default_factory=dict[str, int])
    made_of: Mapping[PortRef, _Made] = field(default_factory=dict[PortRef, _Made], compare=False, repr=False)
    calling: tuple[tuple[str, int], ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "calling", tuple(sorted(self.callers.items())))


def survey(mesh: Mesh, ports: Iterable[PortRef], before: Terrain | None = None) -> Terrain:
    """Look at these ports of a Mesh; a port that is not there is left out.

    What did not change since the Terrain ``before`` is taken over from it; the result never depends on that.
    """
    tables = (mesh.endpoint_slices, mesh.traffic_policies, mesh.config, mesh.peer_authentications, mesh.namespaces)
    known = before.made_of if before else dict[PortRef, _Made]()
    made_of: dict[PortRef, _Made] = {}
    for port in ports:
        service = mesh.services.get(port.owner)
        if service is None or not any(each.port == port.port and each.protocol == "TCP" for each in service.spec.ports):
            continue
        sources = (service, *roster(mesh.workloads).members(service), *tables)
        made = known.get(port)
        if made is None or len(made.sources) != len(sources) or not all(map(is_, made.sources, sources)):
            made = _Made(sources, _ground(mesh, port, made))
        made_of[port] = made
    return Terrain(
        ports={port: made.ground for port, made in made_of.items()},
        gateways=frozenset(gateways(mesh)),
        callers=callers(mesh.workloads),
        made_of=made_of,
    )


def _ground(mesh: Mesh, port: PortRef, before: _Made | None) -> Ground:
    """The same object as before when it is equal."""
    known = traffic(mesh.services, mesh.traffic_policies, mesh.config)[port.owner]
    addresses = dict(_addresses(mesh, port)) if known.subset_size else {}
    made = Ground(sites=tuple(_sites(mesh, port)), traffic=known, addresses=addresses)
    return before.ground if before and before.ground == made else made


def _sites(mesh: Mesh, port: PortRef) -> Iterator[Site]:
    for zone, endpoint in placed(mesh, port):
        if endpoint.health is not Health.DRAINING:
            yield Site(endpoint.workload, zone, endpoint.health is Health.HEALTHY)


def _addresses(mesh: Mesh, port: PortRef) -> Iterator[tuple[str, str]]:
    for _, endpoint in placed(mesh, port):
        host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
        yield endpoint.workload, f"{host}:{endpoint.port}"
