"""The instances of one Service port as the callers of one zone see them; the only entry that runs when endpoints or
Steering change.

Invariant: STARTING Workloads are never among them, and an instance that could only be reached in plaintext is given
only where its namespace accepts plaintext.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from masche.compiler.localities import located
from masche.compiler.peer import effective
from masche.compiler.selection import roster, slices_by_service
from masche.compiler.trafficpolicy import traffic
from masche.model.calling import LocalityRules
from masche.model.mesh import Mesh
from masche.model.refs import PortRef
from masche.model.resources.core import EndpointSlice, Service, ServicePort, SliceEndpoint
from masche.model.resources.workload import Workload, WorkloadPort, WorkloadState
from masche.model.steering import Steer, Steering
from masche.model.view import Endpoints, EndpointView, Health, Locality, MtlsMode

FAIR = 100
"""The weight of an instance that nobody steers, in percent of a fair share."""

LEAST, MOST = 1, 1000
"""By steering alone no instance falls under 1 % nor rises over ten times its fair share."""

NOBODY_STEERS = Steer()

_HEALTH = {
    WorkloadState.READY: Health.HEALTHY,
    WorkloadState.UNHEALTHY: Health.UNHEALTHY,
    WorkloadState.DRAINING: Health.DRAINING,
}

Placed = tuple[str, EndpointView]
"""A zone and an endpoint in it."""


def endpoints(mesh: Mesh, steering: Steering, port: PortRef, zone: str) -> Endpoints:
    """Return the endpoints of ``port`` for callers in ``zone``, by zone, sorted.

    With instances in one zone alone there is one Locality without a weight; with several, each has its share. A Service
    or port that does not exist has none.
    """
    steer = steering.steers.get((port, zone), NOBODY_STEERS)
    weights = dict(steer.weights)
    by_zone: defaultdict[str, list[EndpointView]] = defaultdict(list)
    for where, endpoint in placed(mesh, port):
        by_zone[where].append(_steered(endpoint, weights, steer.ejected))
    direct = tuple(
        Locality(zone=where, priority=0, endpoints=tuple(sorted(some, key=_order)))
        for where, some in sorted(by_zone.items())
    )
    if len(direct) < 2 and not steer.detours:
        return Endpoints(service=port, localities=direct)
    return Endpoints(service=port, localities=located(mesh, direct, steer, _rules(mesh, port), zone))


def _rules(mesh: Mesh, port: PortRef) -> LocalityRules:
    return traffic(mesh.services, mesh.traffic_policies, mesh.config)[port.owner].locality


def _order(endpoint: EndpointView) -> tuple[str, str, int]:
    return endpoint.workload, endpoint.address, endpoint.port


def _service_port(service: Service, number: int) -> ServicePort | None:
    return next((each for each in service.spec.ports if each.port == number and each.protocol == "TCP"), None)


def placed(mesh: Mesh, port: PortRef) -> Iterator[Placed]:
    """Yield the instances of a port that may be called, each with its zone; none when there is no such port."""
    service = mesh.services.get(port.owner)
    target = service and _service_port(service, port.port)
    if service is not None and target is not None:
        yield from _instances(mesh, service, target)


def _instances(mesh: Mesh, service: Service, target: ServicePort) -> Iterator[Placed]:
    for workload in roster(mesh.workloads).members(service):
        port = application_port(workload, target.target)
        if port and workload.state is not WorkloadState.STARTING:
            is_mtls = workload.spec.tls == "MUTUAL"
            if is_mtls or accepts_plaintext(mesh, workload.metadata.namespace, workload.metadata.labels, port.port):
                yield workload.spec.zone, _of_workload(workload, port, is_mtls=is_mtls)
    if not service.spec.selector:
        yield from _manual(mesh, service, target)


def application_port(workload: Workload, target: int | str) -> WorkloadPort | None:
    """Return the workload's port with this number, or this name; None when it has none, as clients have not."""
    return next((port for port in workload.spec.ports if target in {port.port, port.name}), None)


def _of_workload(workload: Workload, port: WorkloadPort, *, is_mtls: bool) -> EndpointView:
    return EndpointView(
        address=workload.spec.address,
        port=(port.mesh_port or port.port) if is_mtls else port.port,
        workload=str(workload.name),
        health=_HEALTH[workload.state],
        weight=FAIR,
        is_mtls=is_mtls,
    )


def accepts_plaintext(mesh: Mesh, namespace: str, labels: Mapping[str, str], port: int) -> bool:
    """Say whether a namespace lets an instance without identity answer: not under STRICT."""
    authentication = effective(mesh, namespace=namespace, labels=labels)
    return dict(authentication.ports).get(port, authentication.mode) is not MtlsMode.STRICT


# -------------------------------------------------------------------------------------------------- EndpointSlices


def _manual(mesh: Mesh, service: Service, target: ServicePort) -> Iterator[Placed]:
    """Endpoints that somebody wrote down have no identity, so they are called in plaintext or not at all."""
    for each in slices_by_service(mesh.endpoint_slices).get(service.name, ()):
        for port in each.ports:
            is_same = port.name == target.name and port.protocol == "TCP"
            if is_same and accepts_plaintext(mesh, service.name.namespace, {}, port.port):
                for number, endpoint in enumerate(each.endpoints):
                    yield endpoint.zone or "", _of_slice(each, number, endpoint, port.port)


def _of_slice(each: EndpointSlice, number: int, endpoint: SliceEndpoint, port: int) -> EndpointView:
    return EndpointView(
        address=endpoint.addresses[0],
        port=port,
        workload=f"{each.name}[{number}]",
        health=_slice_health(endpoint),
        weight=FAIR,
        is_mtls=False,
    )


def _slice_health(endpoint: SliceEndpoint) -> Health:
    """Unknown counts as ready (Kubernetes)."""
    if endpoint.conditions.terminating:
        return Health.DRAINING
    return Health.UNHEALTHY if endpoint.conditions.ready is False else Health.HEALTHY


# -------------------------------------------------------------------------------------------------------- steering


def _steered(endpoint: EndpointView, weights: Mapping[str, int], ejected: frozenset[str]) -> EndpointView:
    """Apply what was measured, within the bounds."""
    is_ejected = endpoint.workload in ejected and endpoint.health is Health.HEALTHY
    if not is_ejected and endpoint.workload not in weights:
        return endpoint
    weight = weights.get(endpoint.workload, endpoint.weight)
    health = Health.UNHEALTHY if is_ejected else endpoint.health
    return replace(endpoint, health=health, weight=min(max(weight, LEAST), MOST))
