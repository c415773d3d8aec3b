"""Which routes attach to which port of which Service, and which of them a caller of some namespace meets.

GAMMA (GEP-1294): a route in the Service's namespace is a producer's and is for all callers; a route elsewhere is a
consumer's, for the callers of its own namespace alone, and where there is one the producer's are not asked. Of routes
of several kinds at one port the most specific kind decides alone: GRPCRoutes before HTTPRoutes.
Invariant: a route of a third namespace changes nothing for anybody else.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from masche.compiler.grpc_routes import every_route
from masche.compiler.precedence import seniority
from masche.compiler.protocol import ports, protocol
from masche.compiler.remember import by_identity
from masche.model.refs import Kind, Name, PortRef
from masche.model.resources.core import Service, ServicePort
from masche.model.resources.gateway_api import HTTPRoute
from masche.model.resources.grpc_route import GRPCRoute
from masche.model.resources.references import ParentReference


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """One route at one port, by its ``parentRefs[index]``."""

    route: HTTPRoute
    index: int


def parent_name(route: HTTPRoute, parent: ParentReference) -> Name:
    """Return what a parentRef names; without a namespace it is the route's own."""
    return Name(parent.namespace or route.metadata.namespace, parent.name)


def is_service(parent: ParentReference) -> bool:
    """Say whether a parentRef is for calls inside the mesh. A Service may be written without its empty group."""
    return parent.kind == Kind.SERVICE and parent.group in {"", "gateway.networking.k8s.io"}


def ports_of(service: Service, parent: ParentReference) -> tuple[ServicePort, ...]:
    """Return the HTTP ports that the parentRef means: all of them, or those of its port and section name."""
    return tuple(
        port
        for port in ports(service)
        if protocol(port).is_http and parent.port in {None, port.port} and parent.section_name in {None, port.name}
    )


@by_identity
def attachments(
    services: Mapping[Name, Service], http: Mapping[Name, HTTPRoute], grpc: Mapping[Name, GRPCRoute]
) -> Mapping[PortRef, tuple[Attachment, ...]]:
    """Return all routes of each Service port, the most senior first."""
    found: defaultdict[PortRef, list[Attachment]] = defaultdict(list)
    for route in sorted(every_route(http, grpc), key=seniority):
        seen: set[PortRef] = set()
        for index, port in _ports(services, route):
            if port not in seen:
                seen.add(port)
                found[port].append(Attachment(route=route, index=index))
    return MappingProxyType({port: tuple(some) for port, some in found.items()})


def _ports(services: Mapping[Name, Service], route: HTTPRoute) -> Iterator[tuple[int, PortRef]]:
    for index, parent in enumerate(route.spec.parent_refs):
        service = services.get(parent_name(route, parent)) if is_service(parent) else None
        if service:
            for port in ports_of(service, parent):
                yield index, PortRef(*service.name, port.port)


def met_by(all_of_port: tuple[Attachment, ...], *, service: Name, caller: str) -> tuple[Attachment, ...]:
    """Return the attachments that decide for callers of namespace ``caller``: its own, else the producer's."""
    own = tuple(each for each in all_of_port if each.route.metadata.namespace == caller)
    met = own or tuple(each for each in all_of_port if each.route.metadata.namespace == service.namespace)
    return tuple(each for each in met if each.route.kind is Kind.GRPC_ROUTE) or met
