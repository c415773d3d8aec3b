"""The destinations that a View's routes lead to, each once: who may answer there, and how it is used."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, assert_never

from masche.compiler.protocol import protocol
from masche.compiler.remember import by_identity
from masche.compiler.selection import identities, roster, slices_by_service
from masche.compiler.trafficpolicy import traffic
from masche.model.mesh import Mesh
from masche.model.refs import Name, Origin, PortRef
from masche.model.resources.core import Service
from masche.model.resources.gateway_api import HTTPRoute
from masche.model.vantage import Placement
from masche.model.view import Action, Backend, Cluster, Forward, Redirect, Refuse, Route


def of_routes(routes: Iterable[Route]) -> Iterator[PortRef]:
    """Yield every destination of these routes, mirrors too."""
    for route in routes:
        yield from _of_action(route.action)


def of_backends(backends: Iterable[Backend]) -> Iterator[PortRef]:
    """Yield the destinations that exist."""
    return (backend.cluster for backend in backends if backend.cluster)


def _of_action(action: Action) -> Iterator[PortRef]:
    match action:
        case Forward():
            yield from of_backends(action.backends)
            mirrors = (*action.mirrors, *(mirror for backend in action.backends for mirror in backend.mirrors))
            yield from (mirror.cluster for mirror in mirrors)
        case Redirect() | Refuse():
            return
        case _:
            assert_never(action)


def clusters(mesh: Mesh, destinations: Iterable[PortRef]) -> tuple[Cluster, ...]:
    """Return one Cluster per destination, sorted."""
    return tuple(cluster(mesh, ref) for ref in sorted(set(destinations)))


def cluster(mesh: Mesh, ref: PortRef) -> Cluster:
    """Return the Cluster of one Service port."""
    made = _made(mesh.services, mesh.workloads, mesh.endpoint_slices, mesh.traffic_policies, mesh.config)
    key = ref, ref in _repeated(mesh.http_routes)
    if key not in made:
        made[key] = _make(mesh, ref, is_repeated=key[1])
    return made[key]


@by_identity
def _made(*_tables: Any) -> dict[tuple[PortRef, bool], Cluster]:
    """What was made of these tables so far, by whether answers are repeated."""
    return {}


@by_identity
def _repeated(routes: Mapping[Name, HTTPRoute]) -> frozenset[PortRef]:
    """Return whose answers are repeated by some route, whoever it is for: a cluster is the same to all."""
    return frozenset(
        PortRef(backend.namespace or route.metadata.namespace, backend.name, backend.port or 0)
        for route in routes.values()
        for rule in route.spec.rules
        if rule.retry is not None and rule.retry.codes and rule.retry.attempts != 0
        for backend in rule.backend_refs
    )


def _make(mesh: Mesh, ref: PortRef, *, is_repeated: bool) -> Cluster:
    service = mesh.services[ref.owner]
    port = next(port for port in service.spec.ports if port.port == ref.port and port.protocol == "TCP")
    who = identities(mesh.services, mesh.workloads, mesh.config)
    return Cluster(
        service=ref,
        protocol=protocol(port),
        identities=who[ref.owner],
        traffic=traffic(mesh.services, mesh.traffic_policies, mesh.config)[ref.owner],
        has_plaintext=_has_plaintext(mesh, service),
        has_library=_has_library(mesh, service),
        is_repeated=is_repeated,
        origins=(Origin(service.ref, "spec.ports"),),
    )


def _has_plaintext(mesh: Mesh, service: Service) -> bool:
    """Say whether some instance has no proxy of its own, whether or not it may be called."""
    if not service.spec.selector:
        return service.name in slices_by_service(mesh.endpoint_slices)
    members = roster(mesh.workloads).members(service)
    return any(each.spec.tls == "DISABLE" for each in members)


def _has_library(mesh: Mesh, service: Service) -> bool:
    """Say whether some instance is served by the library in its own process, whether or not it may be called."""
    if not service.spec.selector:
        return False
    return any(each.spec.placement is Placement.LIBRARY for each in roster(mesh.workloads).members(service))
