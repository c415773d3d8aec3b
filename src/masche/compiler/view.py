"""What a workload that stands at one Vantage must be given, made from the Mesh and the Vantage and nothing else.

Invariant: equal tables and equal Vantages give equal Views, and no address of any endpoint is looked at.
"""

from collections import defaultdict
from dataclasses import replace
from itertools import chain
from typing import Any

from masche.compiler import scope
from masche.compiler.clusters import clusters, of_backends, of_routes
from masche.compiler.east_west import identities
from masche.compiler.faults import any_troubled
from masche.compiler.gateways import gateway
from masche.compiler.inbound import inbound
from masche.compiler.names import spiffe_id
from masche.compiler.outbound import outbound
from masche.compiler.proxyless import grpc_ignored
from masche.compiler.proxyless.grpc_ignored import Ignored
from masche.compiler.remember import by_identity
from masche.compiler.status import statuses as of_mesh
from masche.compiler.vantage import stand
from masche.model.diagnostic import Diagnostic, Severity, Status
from masche.model.mesh import Mesh
from masche.model.refs import Ref
from masche.model.resources.mesh_config import OutboundTrafficPolicy
from masche.model.vantage import Dialect, Placement, Vantage
from masche.model.view import Cluster, GatewayListener, Outbound, View


def view(mesh: Mesh, vantage: Vantage) -> View:
    """Return the whole View. A gateway is given what its listeners lead to and calls nobody else."""
    listeners = gateway(mesh, vantage.gateway) if vantage.gateway else ()
    ways, destinations = _gateway_side(mesh, listeners) if _is_gateway(vantage) else _calling_side(mesh, vantage)
    config = mesh.config.spec
    return View(
        vantage=vantage,
        trust_domain=config.trust_domain,
        identity=spiffe_id(config.trust_domain, vantage.namespace, vantage.service_account),
        outbound=ways,
        clusters=destinations,
        inbound=inbound(mesh, vantage),
        gateway=listeners,
        is_registry_only=config.outbound_traffic_policy is OutboundTrafficPolicy.REGISTRY_ONLY,
        east_west=identities(mesh),
        is_troubled=bool(mesh.fault_policies) and any(any_troubled(way.routes) for way in ways),
    )


Sides = tuple[tuple[Outbound, ...], tuple[Cluster, ...]]
"""The ways out, and the destinations to which they lead."""


def _is_gateway(vantage: Vantage) -> bool:
    return vantage.placement is Placement.GATEWAY


def _gateway_side(mesh: Mesh, listeners: tuple[GatewayListener, ...]) -> Sides:
    routes = (route for listener in listeners for host in listener.virtual_hosts for route in host.routes)
    return (), clusters(mesh, of_routes(routes))


def _calling_side(mesh: Mesh, vantage: Vantage) -> Sides:
    """What a caller is given depends on its namespace and what it declares, so all of one namespace share it."""
    shared = _shared(
        mesh.services,
        mesh.http_routes,
        mesh.grpc_routes,
        mesh.reference_grants,
        mesh.traffic_policies,
        mesh.fault_policies,
        mesh.workloads,
        mesh.endpoint_slices,
        mesh.config,
    )
    key = (vantage.namespace, vantage.dependencies)
    if key not in shared:
        called = scope.services(mesh, vantage)
        ways = tuple(chain.from_iterable(outbound(mesh, each, caller=vantage.namespace) for each in called))
        routes = chain.from_iterable(way.routes for way in ways)
        backends = chain.from_iterable(way.backends for way in ways)
        shared[key] = ways, clusters(mesh, chain(of_routes(routes), of_backends(backends)))
    return shared[key]


@by_identity
def _shared(*_tables: Any) -> dict[tuple[str, tuple[str, ...] | None], Sides]:
    """What was made of these tables so far, by namespace and dependencies."""
    return {}


def statuses(mesh: Mesh) -> tuple[Status, ...]:
    """Return the Status of every resource about which there is something to say, sorted by what it is about.

    To what is true of the mesh comes what programs that use gRPC without a proxy do not carry out. All other placements
    carry out everything.
    """
    found = {each.ref: each for each in of_mesh(mesh)}
    for ref, diagnostics in _not_carried_out(mesh).items():
        before = found.get(ref, Status(ref=ref))
        found[ref] = replace(before, diagnostics=(*before.diagnostics, *diagnostics))
    return tuple(found[ref] for ref in sorted(found))


def _not_carried_out(mesh: Mesh) -> dict[Ref, list[Diagnostic]]:
    """What such programs ignore, each thing once."""
    concerned: dict[Vantage, list[str]] = defaultdict(list)
    for name, workload in sorted(mesh.workloads.items()):
        if workload.status and workload.status.dialect == Dialect.GRPC:
            where = stand(mesh, workload, placement=Placement.LIBRARY, dialect=Dialect.GRPC)
            concerned[where].append(str(name))
    by: dict[Ignored, list[str]] = defaultdict(list)
    for vantage, workloads in concerned.items():
        for each in dict.fromkeys(grpc_ignored.ignored(view(mesh, vantage))):
            by[each].extend(workloads)
    said: dict[Ref, list[Diagnostic]] = defaultdict(list)
    for each, workloads in by.items():
        said[each.origin.ref].append(_ignored_by_grpc(sorted(workloads), each))
    return said


def _ignored_by_grpc(workloads: list[str], each: Ignored) -> Diagnostic:
    others = f" and {len(workloads) - 1} more" if len(workloads) > 1 else ""
    return Diagnostic(
        code="ignored-by-grpc",
        where=str(each.origin),
        why=f"programs that use gRPC without a proxy ({workloads[0]}{others}) ignore this: {each.why}",
        fix=each.fix,
        severity=Severity.WARNING,
        ref=each.origin.ref,
    )
