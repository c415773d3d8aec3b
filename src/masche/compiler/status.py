"""What became of every resource when the mesh was compiled: the conditions that the Gateway API names, and Diagnostics.

Decided from the Mesh alone, with the same functions that make Views. Invariant: a resource whose parts are all carried
out has no Diagnostic, and one that is wrong in a part keeps the rest.
"""

from collections.abc import Iterator
from itertools import chain

from masche.compiler import gateways
from masche.compiler.attach import attachments, is_service, met_by, parent_name, ports_of
from masche.compiler.backends import Unresolved, resolve
from masche.compiler.endpoints import accepts_plaintext
from masche.compiler.grpc_routes import every_route
from masche.compiler.policystatus import policy_statuses
from masche.compiler.targets import service_status
from masche.model.diagnostic import Diagnostic, Severity, Status
from masche.model.mesh import Mesh
from masche.model.refs import Kind, Name, PortRef
from masche.model.resources.core import EndpointSlice, Service
from masche.model.resources.gateway_api import Gateway, GatewayClass, HTTPRoute, HTTPRouteRule, Listener
from masche.model.resources.references import BackendObjectReference, ParentReference
from masche.model.resources.workload import Workload


def statuses(mesh: Mesh) -> tuple[Status, ...]:
    """Return the Status of every resource about which there is something to say, sorted by what it is about."""
    found = chain(
        (_route(mesh, each) for each in every_route(mesh.http_routes, mesh.grpc_routes)),
        (_gateway(mesh, each) for each in mesh.gateways.values()),
        (_slice(mesh, each) for each in mesh.endpoint_slices.values()),
        (service_status(mesh, each) for each in mesh.services.values()),
        (_workload(mesh, each) for each in mesh.workloads.values() if each.spec.tls == "DISABLE"),
        policy_statuses(mesh),
    )
    return tuple(sorted((each for each in found if each.conditions or each.diagnostics), key=lambda each: each.ref))


# ---------------------------------------------------------------------------------------------------------- routes


def _route(mesh: Mesh, route: HTTPRoute) -> Status:
    parents = list(_parents(mesh, route))
    backends = list(_references(mesh, route))
    return Status(
        ref=route.ref,
        conditions=(
            ("Accepted", not parents, parents[0][0] if parents else "Accepted"),
            ("ResolvedRefs", not backends, backends[0][0] if backends else "ResolvedRefs"),
        ),
        diagnostics=tuple(each for _, each in chain(parents, backends)),
    )


def _parents(mesh: Mesh, route: HTTPRoute) -> Iterator[tuple[str, Diagnostic]]:
    for index, parent in enumerate(route.spec.parent_refs):
        where = f"{route.ref} spec.parentRefs[{index}]"
        reason, why, fix = _parent_problem(mesh, route, parent)
        if reason:
            code = "parent-missing" if reason == "NoMatchingParent" else "parent-refused"
            yield (
                reason,
                Diagnostic(code=code, where=where, why=why, fix=fix, severity=Severity.WARNING, ref=route.ref),
            )


_NO_PROBLEM = ("", "", "")


def _parent_problem(mesh: Mesh, route: HTTPRoute, parent: ParentReference) -> tuple[str, str, str]:
    """Return the reason, why and fix; three empty words when the parent takes the route."""
    name = parent_name(route, parent)
    if is_service(parent):
        service = mesh.services.get(name)
        if service is None:
            return "NoMatchingParent", f"there is no Service {name}", "create it, or correct the parentRef"
        if not ports_of(service, parent):
            return "NoMatchingParent", f"no HTTP port of Service {name} is meant", "correct port or sectionName"
        return _outranked(mesh, service, route, parent)
    gateway = mesh.gateways.get(name) if parent.kind == Kind.GATEWAY else None
    if gateway is None:
        return "NoMatchingParent", f"there is no {parent.kind} {name}", "create it, or correct the parentRef"
    return _gateway_problem(mesh, gateway, route, parent)


def _outranked(mesh: Mesh, service: Service, route: HTTPRoute, parent: ParentReference) -> tuple[str, str, str]:
    """Of routes of one namespace at one port those of the most specific kind decide alone."""
    known = attachments(mesh.services, mesh.http_routes, mesh.grpc_routes)
    for port in ports_of(service, parent):
        at_port = known.get(PortRef(*service.name, port.port), ())
        met = met_by(at_port, service=service.name, caller=route.metadata.namespace)
        others = [each.route for each in met if each.route.kind is not route.kind]
        if others and not any(each.route.ref == route.ref for each in met):
            why = f"at port {port.port} of Service {service.name} {others[0].ref} decides, of a more specific kind"
            return "NoMatchingParent", why, "say the same in a GRPCRoute, or attach the two to different ports"
    return _NO_PROBLEM


def _gateway_problem(mesh: Mesh, gateway: Gateway, route: HTTPRoute, parent: ParentReference) -> tuple[str, str, str]:
    meant = [each for each in gateways.listeners(gateway) if gateways.is_listener(gateway, each, route, parent)]
    if not meant:
        return "NoMatchingParent", f"no listener of Gateway {gateway.name} is meant", "correct port or sectionName"
    allowed = [each for each in meant if gateways.is_allowed(mesh, gateway, each, route)]
    if not allowed:
        why = f"no listener of Gateway {gateway.name} lets in {route.kind}s of namespace {route.metadata.namespace}"
        return "NotAllowedByListeners", why, "widen allowedRoutes of a listener"
    if not any(list(gateways.hosts_at(mesh, gateway, each, route)) for each in allowed):
        why = f"no hostname of the route is one of a listener of Gateway {gateway.name}"
        return "NoMatchingListenerHostname", why, "give route and listener a hostname in common"
    return _NO_PROBLEM


def _references(mesh: Mesh, route: HTTPRoute) -> Iterator[tuple[str, Diagnostic]]:
    for place, ref in _all_references(route):
        found = resolve(mesh, ref, namespace=route.metadata.namespace, kind=route.kind, called=_called(route))
        if isinstance(found, Unresolved):
            yield (
                found.reason,
                Diagnostic(
                    code=_CODES[found.reason],
                    where=f"{route.ref} {place}",
                    why=found.why,
                    fix=found.fix,
                    severity=Severity.WARNING,
                    ref=route.ref,
                ),
            )


def _called(route: HTTPRoute) -> tuple[Name, ...]:
    """The one Service whose callers the route is for; at a Gateway, or for callers of several, there is none."""
    parents = route.spec.parent_refs
    names = {parent_name(route, parent) for parent in parents}
    return tuple(names) if len(names) == 1 and all(map(is_service, parents)) else ()


_CODES = {
    "InvalidKind": "backend-kind",
    "RefNotPermitted": "backend-not-permitted",
    "BackendNotFound": "backend-missing",
}


def _all_references(route: HTTPRoute) -> Iterator[tuple[str, BackendObjectReference]]:
    for index, rule in enumerate(route.spec.rules):
        for place, ref in _rule_references(rule):
            yield f"spec.rules[{index}].{place}", ref


def _rule_references(rule: HTTPRouteRule) -> Iterator[tuple[str, BackendObjectReference]]:
    for number, ref in enumerate(rule.backend_refs):
        yield f"backendRefs[{number}]", ref
    for number, each in enumerate(rule.filters):
        if each.request_mirror:
            yield f"filters[{number}].requestMirror.backendRef", each.request_mirror.backend_ref


# -------------------------------------------------------------------------------------------------------- gateways


def _gateway(mesh: Mesh, gateway: Gateway) -> Status:
    if not _is_ours(mesh, gateway):
        return Status(ref=gateway.ref)
    problems = list(_listener_problems(mesh, gateway))
    is_programmed = any(gateways.can_serve(mesh, gateway, each) for each in gateways.listeners(gateway))
    return Status(
        ref=gateway.ref,
        conditions=(
            ("Accepted", not problems, "ListenersNotValid" if problems else "Accepted"),
            ("Programmed", is_programmed, "Programmed" if is_programmed else "Invalid"),
        ),
        diagnostics=tuple(problems),
    )


def _is_ours(mesh: Mesh, gateway: Gateway) -> bool:
    """A Gateway whose class is not there is taken for ours; one of somebody else's class is not."""
    known = mesh.gateway_classes.get(Name("", gateway.spec.gateway_class_name))
    return known is None or known.spec.controller_name == GatewayClass.CONTROLLER


def _listener_problems(mesh: Mesh, gateway: Gateway) -> Iterator[Diagnostic]:
    carried_out = {listener.name for listener in gateways.listeners(gateway)}
    for index, listener in enumerate(gateway.spec.listeners):
        where = f"{gateway.ref} spec.listeners[{index}]"
        why, fix = _listener_problem(mesh, gateway, listener, is_carried_out=listener.name in carried_out)
        if why:
            yield Diagnostic(
                code="listener-refused", where=where, why=why, fix=fix, severity=Severity.WARNING, ref=gateway.ref
            )


def _listener_problem(mesh: Mesh, gateway: Gateway, listener: Listener, *, is_carried_out: bool) -> tuple[str, str]:
    if listener.protocol not in gateways.CARRIED_OUT or (listener.tls and listener.tls.mode == "Passthrough"):
        return f"protocol {listener.protocol} is not carried out", "use HTTP, or HTTPS that ends here"
    if not is_carried_out:
        return f"port {listener.port} is taken by another protocol or the same hostname", "change port or hostname"
    if not gateways.can_serve(mesh, gateway, listener):
        return "none of its certificateRefs can be used", "name a TLS Secret that exists and that may be referred to"
    return "", ""


# ------------------------------------------------------------------------------------------------------- endpoints


def _slice(mesh: Mesh, each: EndpointSlice) -> Status:
    service = mesh.services.get(Name(each.metadata.namespace, each.service))
    if service is None or service.spec.selector:
        why = f"no Service of namespace {each.metadata.namespace} without a selector is called {each.service!r}"
        fix = f"set the label {EndpointSlice.SERVICE_LABEL} to such a Service"
        return Status(ref=each.ref, diagnostics=(_left_out(each, why, fix),))
    if not all(accepts_plaintext(mesh, each.metadata.namespace, {}, port.port) for port in each.ports):
        return Status(ref=each.ref, diagnostics=(_plaintext(each),))
    return Status(ref=each.ref)


def _workload(mesh: Mesh, each: Workload) -> Status:
    ports = [port.port for port in each.spec.ports]
    if all(accepts_plaintext(mesh, each.metadata.namespace, each.metadata.labels, port) for port in ports):
        return Status(ref=each.ref)
    return Status(ref=each.ref, diagnostics=(_plaintext(each),))


def _plaintext(each: EndpointSlice | Workload) -> Diagnostic:
    why = f"it could only be called in plaintext, and namespace {each.metadata.namespace} is STRICT"
    return _left_out(each, why, "run it behind the mesh, or make its PeerAuthentication PERMISSIVE")


def _left_out(each: EndpointSlice | Workload, why: str, fix: str) -> Diagnostic:
    return Diagnostic(
        code="endpoint-left-out", where=str(each.ref), why=why, fix=fix, severity=Severity.WARNING, ref=each.ref
    )
