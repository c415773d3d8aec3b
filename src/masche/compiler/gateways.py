"""What a gateway must carry out: its listeners by port, and for every hostname the table of routes that attach there.

"Requests must be matched to the most specific listener", then to the routes with the most specific hostname. Invariant:
a route is only ever reached through a listener that lets its namespace, its kind and one of its hostnames in.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from masche.compiler import hostnames, rules
from masche.compiler.attach import is_service, parent_name
from masche.compiler.backends import GATEWAY_GROUP
from masche.compiler.faults import troubled
from masche.compiler.grants import is_granted
from masche.compiler.grpc_routes import every_route
from masche.compiler.outbound import by_precedence
from masche.compiler.precedence import seniority
from masche.compiler.rules import Setting
from masche.model.mesh import Mesh
from masche.model.refs import Kind, Name, Origin
from masche.model.resources.gateway_api import Gateway, HTTPRoute, Listener
from masche.model.resources.references import LabelSelector, LabelSelectorRequirement, ParentReference
from masche.model.view import GatewayListener, Route, VirtualHost

CARRIED_OUT = ("HTTP", "HTTPS")


def gateway(mesh: Mesh, name: Name) -> tuple[GatewayListener, ...]:
    """Return one GatewayListener per port of the Gateway; none when there is no such Gateway."""
    found = mesh.gateways.get(name)
    if found is None:
        return ()
    usable = sorted((each for each in listeners(found) if can_serve(mesh, found, each)), key=lambda each: each.port)
    return tuple(_port(mesh, found, port, list(some)) for port, some in groupby(usable, key=lambda each: each.port))


def listeners(found: Gateway) -> Iterator[Listener]:
    """Yield the listeners that are carried out: those in conflict with an earlier one on their port are not."""
    taken: dict[int, tuple[str, set[str]]] = {}
    for listener in found.spec.listeners:
        protocol, hosts = taken.setdefault(listener.port, (listener.protocol, set()))
        host = listener.hostname or hostnames.ANY
        is_usable = listener.protocol in CARRIED_OUT and not (listener.tls and listener.tls.mode == "Passthrough")
        if is_usable and protocol == listener.protocol and host not in hosts:
            hosts.add(host)
            yield listener


def can_serve(mesh: Mesh, found: Gateway, listener: Listener) -> bool:
    """Say whether a listener has what it needs: one for HTTPS cannot do without a certificate."""
    return listener.protocol != "HTTPS" or any(True for _ in certificates(mesh, found, listener))


def _port(mesh: Mesh, found: Gateway, port: int, some: list[Listener]) -> GatewayListener:
    is_tls = some[0].protocol == "HTTPS"
    return GatewayListener(
        name=f"{found.name}/{port}",
        port=port,
        is_tls=is_tls,
        virtual_hosts=tuple(host for listener in some for host in _hosts(mesh, found, listener, some)),
        certificates=tuple(each for listener in some for each in certificates(mesh, found, listener)) if is_tls else (),
        origins=tuple(Origin(found.ref, f"spec.listeners[{listener.name}]") for listener in some),
    )


def certificates(mesh: Mesh, found: Gateway, listener: Listener) -> Iterator[tuple[str, str]]:
    """Yield the certificates that may be shown: Secrets that exist and that may be referred to."""
    source = (GATEWAY_GROUP, str(Kind.GATEWAY), found.metadata.namespace)
    for ref in listener.tls.certificate_refs if listener.tls else ():
        target = Name(ref.namespace or found.metadata.namespace, ref.name)
        is_usable = (ref.group, ref.kind) == ("", Kind.SECRET) and target in mesh.secrets
        if is_usable and is_granted(mesh.reference_grants, source=source, group="", kind=Kind.SECRET, target=target):
            yield listener.hostname or "", f"kubernetes://{target}"


def _hosts(mesh: Mesh, found: Gateway, listener: Listener, of_port: list[Listener]) -> Iterator[VirtualHost]:
    """Yield a table per hostname for which no other listener of the port is more specific."""
    own = listener.hostname or hostnames.ANY
    attached = [
        (route, frozenset(hosts))
        for route in sorted(every_route(mesh.http_routes, mesh.grpc_routes), key=seniority)
        if (hosts := list(hosts_at(mesh, found, listener, route)))
    ]
    wanted = {own} | {host for _, hosts in attached for host in hosts}
    others = [each.hostname or hostnames.ANY for each in of_port if each is not listener]
    for host in sorted(wanted, key=lambda each: (hostnames.specificity(each), each)):
        if not any(hostnames.covers(other, host) and hostnames.covers(own, other) for other in others):
            yield VirtualHost(hosts=(host,), routes=_table(mesh, listener, host, attached))


def _table(
    mesh: Mesh, listener: Listener, host: str, attached: Iterable[tuple[HTTPRoute, frozenset[str]]]
) -> tuple[Route, ...]:
    """The routes of the most specific hostname come first as a whole, then those of wider ones."""
    ranked: dict[tuple[bool, int], list[Route]] = {}
    setting = Setting(mesh=mesh, port=_unusual_port(listener))
    for route, hosts in attached:
        fitting = [each for each in hosts if hostnames.covers(each, host)]
        if fitting:
            rank = min(map(hostnames.specificity, fitting))
            ranked.setdefault(rank, []).extend(troubled(mesh, rules.routes(route, setting)))
    return tuple(route for _, routes in sorted(ranked.items()) for route in by_precedence(routes))


def _unusual_port(listener: Listener) -> int:
    """The port that a redirect must name; "SHOULD NOT add the port number" when it is the well-known one."""
    return 0 if (listener.protocol, listener.port) in {("HTTP", 80), ("HTTPS", 443)} else listener.port


def hosts_at(mesh: Mesh, found: Gateway, listener: Listener, route: HTTPRoute) -> Iterator[str]:
    """Yield the hostnames under which a route is reached through a listener; nothing when it does not attach."""
    is_parent = any(is_listener(found, listener, route, parent) for parent in route.spec.parent_refs)
    if not is_parent or not is_allowed(mesh, found, listener, route):
        return
    own = listener.hostname or hostnames.ANY
    common = (hostnames.intersection(own, host) for host in route.spec.hostnames or (hostnames.ANY,))
    yield from dict.fromkeys(host for host in common if host)


def is_listener(found: Gateway, listener: Listener, route: HTTPRoute, parent: ParentReference) -> bool:
    """Say whether a parentRef means this listener."""
    return (
        not is_service(parent)
        and parent.kind == Kind.GATEWAY
        and parent_name(route, parent) == found.name
        and parent.section_name in {None, listener.name}
        and parent.port in {None, listener.port}
    )


def is_allowed(mesh: Mesh, found: Gateway, listener: Listener, route: HTTPRoute) -> bool:
    """Say whether the listener lets in routes of this kind and namespace."""
    kinds = listener.allowed_routes.kinds
    if kinds and not any((each.group, each.kind) == (GATEWAY_GROUP, route.kind) for each in kinds):
        return False
    allowed = listener.allowed_routes.namespaces
    match allowed.from_:
        case "All":
            return True
        case "Same":
            return route.metadata.namespace == found.metadata.namespace
        case "Selector":
            return allowed.selector is not None and _selects(allowed.selector, _labels(mesh, route.metadata.namespace))


def _labels(mesh: Mesh, namespace: str) -> Mapping[str, str]:
    """A namespace's labels; like Kubernetes it always has one with its name."""
    written = mesh.namespaces.get(Name("", namespace))
    return {"kubernetes.io/metadata.name": namespace, **(written.metadata.labels if written else {})}


def _selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.match_labels.items()) and all(
        _meets(each, labels) for each in selector.match_expressions
    )


def _meets(requirement: LabelSelectorRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
