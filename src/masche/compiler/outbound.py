"""How a caller of some namespace reaches one port of a Service: the names it uses and the whole table of routes.

Without a route the Service itself answers everything; with one, what no rule matches is a 404 (GAMMA: "if an
HTTPRoute is attached, requests that match no rule must not fall through"). Equal inputs give the same
object.
"""

from collections.abc import Iterable
from typing import Any

from masche.compiler import names, rules
from masche.compiler.addresses import virtual_addresses
from masche.compiler.attach import Attachment, attachments, met_by
from masche.compiler.faults import troubled
from masche.compiler.precedence import specificity
from masche.compiler.protocol import bare_port, ports, protocol
from masche.compiler.remember import by_identity
from masche.compiler.rules import Setting
from masche.compiler.times import times
from masche.compiler.trafficpolicy import traffic
from masche.model.mesh import Mesh
from masche.model.refs import Origin, PortRef
from masche.model.resources.core import Service, ServicePort
from masche.model.view import Backend, Forward, Outbound, Protocol, RequestMatch, Route

Key = tuple[PortRef, bool, str]
"""A port, whether the caller is of its namespace, and the namespace whose consumer routes decide (or ``""``)."""


def outbound(mesh: Mesh, service: Service, *, caller: str) -> tuple[Outbound, ...]:
    """Return one Outbound per TCP port of the Service, for callers of namespace ``caller``."""
    return tuple(_one(mesh, service, port, caller) for port in sorted(ports(service), key=lambda each: each.port))


def _one(mesh: Mesh, service: Service, port: ServicePort, caller: str) -> Outbound:
    ref = PortRef(*service.name, port.port)
    all_of_port = attachments(mesh.services, mesh.http_routes, mesh.grpc_routes).get(ref, ())
    deciding = met_by(all_of_port, service=service.name, caller=caller)
    consumer = next((caller for each in deciding if each.route.metadata.namespace != service.name.namespace), "")
    made = _made(*_inputs(mesh))
    key = (ref, caller == service.name.namespace, consumer)
    if key not in made:
        made[key] = _make(mesh, service, port, caller=caller, deciding=deciding)
    return made[key]


def _inputs(mesh: Mesh) -> tuple[Any, ...]:
    """Every table on which an Outbound depends."""
    return (
        mesh.services,
        mesh.http_routes,
        mesh.grpc_routes,
        mesh.reference_grants,
        mesh.traffic_policies,
        mesh.fault_policies,
        mesh.config,
    )


@by_identity
def _made(*_tables: Any) -> dict[Key, Outbound]:
    """What was made of these tables so far."""
    return {}


def _make(
    mesh: Mesh, service: Service, port: ServicePort, *, caller: str, deciding: tuple[Attachment, ...]
) -> Outbound:
    ref = PortRef(*service.name, port.port)
    spoken = protocol(port)
    itself = (Backend(cluster=ref),)
    return Outbound(
        service=ref,
        protocol=spoken,
        hosts=names.hosts(service.name, caller),
        answers_bare=bare_port(service) == port.port,
        addresses=virtual_addresses(mesh.services)[service.name],
        routes=_table(mesh, ref, spoken, deciding) if spoken.is_http else (),
        backends=() if spoken.is_http else itself,
        origins=(Origin(service.ref, "spec.ports"),),
    )


def _table(mesh: Mesh, ref: PortRef, spoken: Protocol, deciding: tuple[Attachment, ...]) -> tuple[Route, ...]:
    settings = traffic(mesh.services, mesh.traffic_policies, mesh.config)[ref.owner]
    setting = Setting(mesh=mesh, traffic=settings, protocol=spoken, service=ref)
    if not deciding:
        return tuple(troubled(mesh, (_default(mesh, ref, setting),), ref.owner))
    made = (route for each in deciding for route in rules.routes(each.route, setting))
    return by_precedence(troubled(mesh, made, ref.owner))


def by_precedence(routes: Iterable[Route]) -> tuple[Route, ...]:
    """Sort Routes that come in the order of seniority; what is equally specific keeps it."""
    return tuple(sorted(routes, key=specificity))


def _default(mesh: Mesh, ref: PortRef, setting: Setting) -> Route:
    """Everything goes to the Service itself, and what never reached it is tried again."""
    action = Forward(backends=(Backend(cluster=ref),), retry=rules.SAFE_RETRY)
    return Route(
        name=f"{ref.owner} default",
        match=RequestMatch(),
        action=times(setting.traffic, setting.protocol).on(action),
        origins=(Origin(mesh.services[ref.owner].ref),),
    )
