"""Encode how a gRPC client without a proxy finds its way: a Listener per name of a Service, and its table of routes.

What decides is the path of a call, ``/package.Service/Method``, which has two segments, always, and no query; a call is
a POST. Whatever could only match something else is left out here. Invariant: a call that a route refuses, redirects or
leads to nobody fails with UNAVAILABLE; it is never sent by a later route.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import assert_never

from masche.compiler.envoy.parts import ADS, extension, refs_of, regex
from masche.compiler.envoy.routes import cluster_name, refusal
from masche.model.blob import Blob
from masche.model.calling import HashOn, Traffic
from masche.model.refs import PortRef
from masche.model.view import (
    Backend,
    Cluster,
    Forward,
    Outbound,
    PathKind,
    Redirect,
    Refuse,
    RequestMatch,
    Route,
    ValueKind,
    ValueMatch,
)
from masche.wire import framing, types
from masche.wire.messages import Body, Json, encode

LISTENER = "envoy.config.listener.v3.Listener"
HCM = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = extension("router", "envoy.extensions.filters.http.router.v3.Router")
"""The last filter of a chain, which gRPC wants to be there."""

CHANNEL = "io.grpc.channel_id"
"""What stands for a caller: gRFC A42, "a unique identifier for the channel"."""

EARLY = 2.0
"""grpcio 1.85 believes that a call began one to two seconds before it did, by which its longest duration is shorter:
with one second written every call would fail at once. So a call may take up to a second longer than what is written,
and never less. Measured; the deadlines that an application sets are exact."""

_TABLE = "envoy.config.route.v3.RouteConfiguration"

Hashes = tuple[tuple[PortRef, HashOn, str], ...]
"""By what the calls to a destination are hashed."""


def names(way: Outbound) -> Iterator[str]:
    """Yield what stands after ``xds:///`` where this port is meant: every name with the port, and some without."""
    for host in way.hosts:
        yield f"{host}:{way.service.port}"
        if way.answers_bare:
            yield host


def ways(outbounds: Iterable[Outbound], clusters: Iterable[Cluster]) -> Iterator[Blob]:
    """Yield the Listeners and tables of all that may be called; bytes without requests are beyond gRPC."""
    hashed: Mapping[PortRef, tuple[HashOn, str]] = {
        each.service: (each.traffic.hash_on, each.traffic.hash_name)
        for each in clusters
        if each.traffic.hash_on is not None and each.traffic.algorithm.is_hash
    }
    for way in outbounds:
        if way.protocol.is_http:
            reached = {each.cluster for each in _backends(way.routes) if each.cluster in hashed}
            yield table(way, tuple((each, *hashed[each]) for each in sorted(filter(None, reached))))
            yield from (listener(name, way.service) for name in names(way))


def destination(backend: Backend) -> PortRef | None:
    """Return where a backend's share of the calls goes: to nobody where it was to be redirected."""
    return None if backend.redirect else backend.cluster


def leads_nowhere(outbounds: Iterable[Outbound]) -> bool:
    """Say whether some route has a backend that is nobody."""
    return any(not destination(each) for way in outbounds for each in _backends(way.routes))


def _backends(routes: Iterable[Route]) -> Iterator[Backend]:
    return (backend for each in routes if isinstance(each.action, Forward) for backend in each.action.backends)


@lru_cache(maxsize=65_536)
def listener(name: str, service: PortRef) -> Blob:
    """Return the client Listener of one name, which points at the table of its port."""
    manager = {
        "rds": {"config_source": ADS, "route_config_name": service.path},
        "http_filters": [ROUTER],
    }
    body: Body = {"name": name, "api_listener": {"api_listener": extension("", HCM, manager)["typed_config"]}}
    return framing.blob(types.LISTENER, name, encode(LISTENER, body))


@lru_cache(maxsize=16_384)
def table(way: Outbound, hashes: Hashes = ()) -> Blob:
    """Return the table of routes of one port, in which the first match decides."""
    by = {service: (on, name) for service, on, name in hashes}
    routes = [body for each in way.routes for body in _routes(each, by)]
    body: Body = {
        "name": way.service.path,
        "virtual_hosts": [{"name": way.service.path, "domains": ["*"], "routes": routes}],
    }
    origins = (*way.origins, *(origin for each in way.routes for origin in each.origins))
    return framing.blob(types.ROUTES, way.service.path, encode(_TABLE, body), refs_of(origins))


def _routes(source: Route, hashes: Mapping[PortRef, tuple[HashOn, str]]) -> Iterator[Body]:
    found = route_match(source.match)
    if found is not None:
        yield {"name": source.name, "match": found, **_action(source, hashes)}


def _action(source: Route, hashes: Mapping[PortRef, tuple[HashOn, str]]) -> Body:
    action = source.action
    match action:
        case Forward():
            backends = tuple(each for each in action.backends if each.weight > 0)
            if not backends:
                return {"direct_response": refusal(action.lacking_status, "no backend takes this request")}
            return {"route": _forward(action, backends, hashes)}
        case Redirect():
            return {"direct_response": refusal(501, "a gRPC client follows no redirect")}
        case Refuse():
            return {"direct_response": refusal(action.status, action.why)}
        case _:
            assert_never(action)


def _forward(
    action: Forward, backends: tuple[Backend, ...], hashes: Mapping[PortRef, tuple[HashOn, str]]
) -> dict[str, Json]:
    body: dict[str, Json] = dict(_clusters(backends))
    if action.timeout:
        body["max_stream_duration"] = {"max_stream_duration": action.timeout + EARLY}
    hashed = next((hashes[each.cluster] for each in backends if each.cluster and each.cluster in hashes), None)
    if hashed:
        body["hash_policy"] = [_hash(*hashed)]
    return body


def _clusters(backends: tuple[Backend, ...]) -> Body:
    """One cluster that two backends share is two: gRPC adds nothing up, and need not."""
    if len(backends) == 1:
        return {"cluster": cluster_name(destination(backends[0]))}
    weighted = [{"name": cluster_name(destination(each)), "weight": each.weight} for each in backends]
    return {"weighted_clusters": {"clusters": weighted}}


def _hash(on: HashOn, name: str) -> Body:
    """A channel knows no address of its own, and gRPC no cookies: there the channel stays with one instance."""
    match on:
        case HashOn.HEADER:
            return {"header": {"header_name": name}}
        case HashOn.SOURCE_IP | HashOn.COOKIE:
            return {"filter_state": {"key": CHANNEL}}


def is_hashed_by_channel(traffic: Traffic) -> bool:
    """Say whether the channel stands in for what a policy hashes by."""
    return traffic.algorithm.is_hash and traffic.hash_on is HashOn.COOKIE


# ---------------------------------------------------------------------------------------------------------- matches


def route_match(match: RequestMatch) -> dict[str, Json] | None:
    """Return a RouteMatch, or None when no gRPC call can match."""
    path = _path(match)
    if path is None or match.method not in {"", "POST"} or match.query:
        return None
    headers = [_header(each) for each in match.headers]
    return {**path, **({"headers": headers} if headers else {})}


def _path(match: RequestMatch) -> Body | None:
    match match.path_kind:
        case PathKind.EXACT:
            return {"path": match.path} if len(_segments(match.path)) == 2 else None
        case PathKind.REGEX:
            return {"safe_regex": regex(match.path)}
        case PathKind.PREFIX:
            return _prefix(match.path.rstrip("/"))
        case _:
            raise ValueError(f"{match.path_kind} is not among what people write")


def _prefix(path: str) -> Body | None:
    """Whole segments: a prefix of two of them is the path itself, and one of three is of no call."""
    match len(_segments(path)) if path else 0:
        case 0:
            return {"prefix": ""}
        case 1:
            return {"prefix": f"{path}/"}
        case 2:
            return {"path": path}
        case _:
            return None


def _segments(path: str) -> list[str]:
    return path.split("/")[1:]


def _header(value: ValueMatch) -> Body:
    """Metadata in gRPC's words; ``host`` is the authority."""
    name = value.name.lower()
    match value.kind:
        case ValueKind.EXACT:
            wanted: Body = {"exact": value.value}
        case ValueKind.REGEX:
            wanted = {"safe_regex": regex(value.value)}
        case _:
            raise ValueError(f"{value.kind} is not among what people write")
    return {"name": ":authority" if name == "host" else name, "string_match": wanted}
