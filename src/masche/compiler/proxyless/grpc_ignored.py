"""What people wrote and programs with gRPC's own xDS client and server do not carry out.

Decided from the View of such a program, part by part, with the resource that each part came from. gRPC itself ignores
in silence what it does not know; here it is said. Invariant: nothing is said where no such program is concerned.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, assert_never

from masche.compiler.proxyless.grpc_routes import is_hashed_by_channel
from masche.compiler.proxyless.grpc_servers import is_unseen
from masche.compiler.rules import SAFE_RETRY
from masche.compiler.trafficpolicy import HASH_ON
from masche.model.calling import Algorithm, Traffic
from masche.model.refs import Origin
from masche.model.view import Attribute, Backend, Cluster, Forward, Inbound, MtlsMode, Redirect, Refuse, Route, View


class Ignored(NamedTuple):
    """One thing: where it is written, what becomes of it, and what to do about it."""

    origin: Origin
    why: str
    fix: str


Said = tuple[str, str]

_SIDECAR = "run the callers with --placement sidecar, or remove it"
_SERVER_SIDECAR = "run the workload with --placement sidecar, or remove it"


def ignored(view: View) -> Iterator[Ignored]:
    """Yield what of a View a gRPC program without a proxy does not carry out."""
    for way in view.outbound:
        for route in way.routes if way.protocol.is_http else ():
            yield from _at(route.origins, _route(route))
    for cluster in view.clusters:
        yield from _cluster(cluster)
    yield from _inbound(view.inbound)


def _at(origins: tuple[Origin, ...], said: Iterator[Said]) -> Iterator[Ignored]:
    found = tuple(said)
    return (Ignored(origin, *each) for origin in origins for each in found)


# ----------------------------------------------------------------------------------------------------------- routes


def _route(route: Route) -> Iterator[Said]:
    if not (route.request_headers.is_empty and route.response_headers.is_empty):
        yield "headers are not changed", _SIDECAR
    if route.fault:
        yield "no trouble is made for a gRPC client", _SIDECAR
    action = route.action
    match action:
        case Forward():
            yield from _forward(action)
        case Redirect():
            yield _REDIRECTED
        case Refuse():
            return
        case _:
            assert_never(action)


_REDIRECTED = "a gRPC client follows no redirect: the calls fail with UNAVAILABLE", "name a backend"


def _forward(action: Forward) -> Iterator[Said]:
    if action.host_rewrite or action.path_rewrite or any(map(_is_rewritten, action.backends)):
        yield "neither path nor host are rewritten", _SIDECAR
    if not all(each.request_headers.is_empty and each.response_headers.is_empty for each in action.backends):
        yield "headers are not changed for a backend", _SIDECAR
    if action.mirrors or any(each.mirrors for each in action.backends):
        yield "nothing is mirrored", _SIDECAR
    if any(each.redirect for each in action.backends):
        yield _REDIRECTED
    if action.stream_timeout:
        yield "a try has no time of its own", "write timeouts.request"
    if action.retry not in {None, SAFE_RETRY}:
        yield (
            "gRPC itself repeats what reached nobody, once; a call is a POST, and no answer to it is repeated",
            "remove it",
        )


def _is_rewritten(backend: Backend) -> bool:
    return bool(backend.host_rewrite or backend.path_rewrite)


# --------------------------------------------------------------------------------------------------------- clusters


_UNKNOWN: Mapping[str, Said] = {
    "loadBalancing.slowStart": ("a new instance gets its whole share at once", _SIDECAR),
    "timeouts.perTry": ("a try has no time of its own", "write timeouts.request"),
    "timeouts.connect": ("gRPC decides itself how long it tries to connect", _SIDECAR),
    "timeouts.idle": ("gRPC decides itself how long a connection is kept", _SIDECAR),
    "timeouts.streamIdle": ("a call may be silent for as long as it likes", "let the application set a deadline"),
    "connection.": ("gRPC keeps its connections as its channel's options say", _SIDECAR),
    "hedging.": ("no call is sent twice", _SIDECAR),
    "retryBudget.": ("nothing is repeated but what reached nobody, once", "remove it"),
    "circuitBreaker.maxConnections": ("there is one connection to each instance", "write circuitBreaker.maxRequests"),
    "circuitBreaker.maxPending": (
        "calls that wait for a connection count as calls",
        "write circuitBreaker.maxRequests",
    ),
    "circuitBreaker.maxRetries": ("nothing is repeated but what reached nobody, once", "remove it"),
    "outlierEjection.consecutiveErrors": ("gRPC counts shares of errors, and none in a row", "write errorPercent"),
}
"""By place, or how it begins."""


def _cluster(cluster: Cluster) -> Iterator[Ignored]:
    if not cluster.protocol.is_http:
        return
    for place, origin in cluster.traffic.origins:
        said = next((each for start, each in _UNKNOWN.items() if place.startswith(start)), None)
        if said := said or _balancing(cluster.traffic, place):
            yield Ignored(origin, *said)
    if cluster.has_plaintext:
        yield from _at(cluster.origins, iter([_PLAINTEXT]))


_PLAINTEXT = "instances that take plaintext alone are not called", "run them in the mesh"


def _balancing(traffic: Traffic, place: str) -> Said | None:
    if place == "loadBalancing.algorithm" and traffic.algorithm in {Algorithm.LEAST_REQUEST, Algorithm.RANDOM}:
        return f"grpcio has no {traffic.algorithm}: instances take turns", "write RoundRobin, or run a sidecar"
    if place == HASH_ON and is_hashed_by_channel(traffic):
        return "gRPC has no cookies: each channel stays with one instance", "hash on a Header"
    if place == "locality.detours" and traffic.locality.detours:
        return "what would take a detour goes the direct way", _SIDECAR
    return None


# ---------------------------------------------------------------------------------------------------------- inbound


def _inbound(inbound: Inbound) -> Iterator[Ignored]:
    modes = {inbound.mtls, *(mode for _, mode in inbound.port_mtls)}
    for origin in inbound.origins:
        if "mtls" in origin.where.lower() and MtlsMode.PERMISSIVE in modes:
            yield Ignored(origin, "a gRPC server takes mutual TLS alone, no plaintext", _SERVER_SIDECAR)
        if "adaptiveConcurrency" in origin.where:
            yield Ignored(origin, "a gRPC server has no limit of its own", _SERVER_SIDECAR)
    for limit in inbound.limits:
        yield from _at(limit.origins, iter([("a gRPC server counts no requests and refuses none", _SERVER_SIDECAR)]))
    for policy in inbound.policies:
        conditions = [each for rule in policy.rules for each in rule.when]
        if any(is_unseen(each) or each.attribute is Attribute.SNI for each in conditions):
            what = "gRPC shows no policy this header, nor the server's name: a rule to ALLOW never matches"
            yield from _at(policy.origins, iter([(what, "use another condition")]))
