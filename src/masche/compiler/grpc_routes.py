"""GRPCRoutes as the HTTPRoutes that mean the same: a gRPC call is a POST to ``/<service>/<method>`` (gRPC over HTTP/2).

So a GRPCRoute attaches, matches, spreads and reports its status by the very code that HTTPRoutes have, under its own
kind. Invariant: what a caller cannot tell apart from an HTTPRoute is not decided here.
"""

from collections.abc import Mapping
from typing import ClassVar

from masche.compiler.remember import by_identity
from masche.model.refs import Kind, Name
from masche.model.resources.gateway_api import (
    HTTPBackendRef,
    HTTPHeaderMatch,
    HTTPPathMatch,
    HTTPRoute,
    HTTPRouteFilter,
    HTTPRouteMatch,
    HTTPRouteRule,
    HTTPRouteSpec,
)
from masche.model.resources.grpc_route import (
    GRPCBackendRef,
    GRPCMethodMatch,
    GRPCRoute,
    GRPCRouteFilter,
    GRPCRouteMatch,
    GRPCRouteRule,
)
from masche.model.view import PathKind, RequestMatch, ValueKind

_ANY = "[^/]+"
"""One part of a path, whatever it is."""


class _Translated(HTTPRoute):
    """An HTTPRoute that was written as a GRPCRoute."""

    kind: ClassVar[Kind] = Kind.GRPC_ROUTE


@by_identity
def every_route(http: Mapping[Name, HTTPRoute], grpc: Mapping[Name, GRPCRoute]) -> tuple[HTTPRoute, ...]:
    """Return all routes; those that were written as GRPCRoutes keep their kind."""
    return (*http.values(), *map(_translated, grpc.values()))


def _translated(route: GRPCRoute) -> HTTPRoute:
    rules = tuple(map(_rule, route.spec.rules)) or (HTTPRouteRule(),)
    spec = HTTPRouteSpec(parent_refs=route.spec.parent_refs, hostnames=route.spec.hostnames, rules=rules)
    return _Translated(metadata=route.metadata, spec=spec)


def _rule(rule: GRPCRouteRule) -> HTTPRouteRule:
    return HTTPRouteRule(
        name=rule.name,
        matches=tuple(map(_match, rule.matches)),
        filters=tuple(map(_filter, rule.filters)),
        backend_refs=tuple(map(_backend, rule.backend_refs)),
    )


def _match(match: GRPCRouteMatch) -> HTTPRouteMatch:
    headers = tuple(
        HTTPHeaderMatch.model_construct(type=each.type, name=each.name, value=each.value) for each in match.headers
    )
    return HTTPRouteMatch(path=_path(match.method), headers=headers)


def _path(method: GRPCMethodMatch | None) -> HTTPPathMatch:
    """ "If not specified, a match against any service or method will happen" (Gateway API, GRPCMethodMatch).

    The parts of a path were judged when the route was read; together they may be longer than those of an HTTPRoute.
    """
    service, name = (method.service or "", method.method or "") if method else ("", "")
    if not service and not name:
        return HTTPPathMatch()
    if method and method.type is ValueKind.REGEX:
        value = f"/{_group(service)}/{_group(name)}"
        return HTTPPathMatch.model_construct(type=PathKind.REGEX, value=value)
    if not service:
        return HTTPPathMatch.model_construct(type=PathKind.REGEX, value=f"/{_ANY}/{name}")
    kind = PathKind.EXACT if name else PathKind.PREFIX
    return HTTPPathMatch.model_construct(type=kind, value=f"/{service}/{name}".rstrip("/"))


def _group(expression: str) -> str:
    return f"(?:{expression})" if expression else _ANY


def characters(match: RequestMatch) -> tuple[int, int]:
    """Return how many characters of the service and of the method a match names; those of an expression count as they
    are written.
    """
    if match.path_kind is not PathKind.REGEX:
        service, _, name = match.path[1:].partition("/")
        return len(service), len(name)
    parts = (match.path[1 : -len(_ANY) - 1], _ANY) if match.path.endswith(f"/{_ANY}") else _parts(match.path)
    service, name = (0 if part == _ANY else len(part.removeprefix("(?:").removesuffix(")")) for part in parts)
    return service, name


def _parts(path: str) -> tuple[str, str]:
    """The last slash outside of an expression parts the service from the method; no name holds one."""
    if path.startswith(f"/{_ANY}/"):
        return _ANY, path[len(_ANY) + 2 :]
    service, _, name = path[1:].partition(")/")
    return service, name


def _filter(each: GRPCRouteFilter) -> HTTPRouteFilter:
    return HTTPRouteFilter(
        type=each.type,
        request_header_modifier=each.request_header_modifier,
        response_header_modifier=each.response_header_modifier,
        request_mirror=each.request_mirror,
        extension_ref=each.extension_ref,
    )


def _backend(ref: GRPCBackendRef) -> HTTPBackendRef:
    return HTTPBackendRef(
        group=ref.group,
        kind=ref.kind,
        name=ref.name,
        namespace=ref.namespace,
        port=ref.port,
        weight=ref.weight,
        filters=tuple(map(_filter, ref.filters)),
    )
