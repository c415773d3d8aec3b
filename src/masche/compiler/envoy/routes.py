"""Encode one Route of a View as the routes of Envoy that carry it out.

A few for one: idempotent requests are repeated more often than others, and streams last longer; and there are more
where backends of one rule rewrite paths differently. Invariant: the first of Envoy's routes that matches does what the
Route says, and a Route that matches always does something, be it a refusal.
"""

from functools import lru_cache
from itertools import accumulate
from typing import assert_never

from masche.compiler.envoy import copies, faults, on_demand, spent
from masche.compiler.envoy.cors import cors
from masche.compiler.envoy.matches import Taken, route_match
from masche.compiler.envoy.parts import fraction, header_changes
from masche.compiler.envoy.retries import cases, repeats
from masche.compiler.envoy.rewrites import path_redirect, path_rewrite
from masche.model.refs import PortRef
from masche.model.view import Backend, Forward, Mirror, Redirect, Refuse, Route
from masche.wire.framing import field
from masche.wire.messages import Body, Json, encode

ROUTE = "envoy.config.route.v3.Route"

INVALID = "invalid"
"""A cluster that never exists: what is routed to it gets the status of ``cluster_not_found_response_code``."""

_REDIRECTS = {
    301: "MOVED_PERMANENTLY",
    302: "FOUND",
    303: "SEE_OTHER",
    307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}
_LACKING = {500: "INTERNAL_SERVER_ERROR", 503: "SERVICE_UNAVAILABLE"}
_TEN_THOUSAND = 10_000
_WELL_KNOWN_PORTS = {"http": 80, "https": 443}


@lru_cache(maxsize=65_536)
def routes(source: Route, authority: str = "", *, is_shared: bool = False) -> bytes:
    """Return the fields ``routes`` (number 3) of a VirtualHost that carry out one Route, in order.

    ``authority`` replaces the request's own, unless the Route itself rewrites it; "" leaves it as it came. On a proxy
    that ``is_shared`` by several workloads copies are introduced anew.
    """
    steps = _inner(source, authority)
    some = map(copies.through, steps) if is_shared else steps
    return b"".join(field(3, encode(ROUTE, {**_outer(source), **inner})) for inner in some)


def routes_together(source: Route, chosen: Body) -> bytes:
    """Return the same of a Route to one plain backend, for many: ``chosen`` says how each gets its cluster."""
    return b"".join(
        field(3, encode(ROUTE, {**_outer(source), **_choosing(each, chosen)})) for each in _inner(source, "")
    )


def _choosing(inner: Body, chosen: Body) -> Body:
    action = inner["route"]
    assert isinstance(action, dict), "a Route to a backend forwards"
    return {**inner, "route": {**{name: value for name, value in action.items() if name != "cluster"}, **chosen}}


def _outer(source: Route) -> Body:
    """What all routes made from one have in common."""
    return {
        "name": source.name,
        **header_changes(source.request_headers, source.response_headers),
        **_filters(source),
    }


def _filters(source: Route) -> Body:
    """What filters do on this route alone."""
    action = source.action
    is_repeating = isinstance(action, Forward) and action.retry and action.retry.codes
    is_lacking = isinstance(action, Forward) and any(each.cluster is None for each in action.backends)
    asked: Body = {
        **(cors(source.cors) if source.cors else {}),
        **(faults.asked(source.fault) if source.fault else {}),
        **(spent.ASKED if is_repeating else {}),
        **(on_demand.NEVER if is_lacking else {}),
    }
    return {"typed_per_filter_config": asked} if asked else {}


def _inner(source: Route, authority: str) -> list[Body]:
    action = source.action
    match action:
        case Forward():
            return _forward(source, action, authority)
        case Redirect():
            return [{"match": route_match(source.match), "redirect": _redirect(source, action)}]
        case Refuse():
            return [{"match": route_match(source.match), "direct_response": refusal(action.status, action.why)}]
        case _:
            assert_never(action)


def refusal(status: int, why: str) -> Body:
    """Return an answer made on the spot, in one readable line."""
    return {"status": status, "body": {"inline_string": f"{why}\n"}}


def _forward(source: Route, action: Forward, authority: str) -> list[Body]:
    backends = tuple(backend for backend in action.backends if backend.weight > 0)
    if not backends:
        refused = refusal(action.lacking_status, "no backend takes this request")
        return [{"match": route_match(source.match), "direct_response": refused}]
    host = action.host_rewrite or authority
    return [
        {"match": {**route_match(source.match, taken), **share}, **_step(source, action, some, host, taken)}
        for taken in cases(source.match.method, action)
        for share, some in _by_share(backends)
    ]


def _step(source: Route, action: Forward, backends: tuple[Backend, ...], host: str, taken: Taken) -> Body:
    """Redirect, when the backends are one that does; else forward."""
    if backends[0].cluster and backends[0].redirect:
        return {"redirect": _redirect(source, backends[0].redirect)}
    return {"route": _route_action(source, action, backends, host, taken)}


def _by_share(backends: tuple[Backend, ...]) -> list[tuple[Body, tuple[Backend, ...]]]:
    """Give backends that rewrite paths, redirect or mirror a route each, since Envoy's weighted clusters cannot.

    Envoy draws one random number per request and compares it with the fraction of each route in turn, so the fractions
    are cumulative, and the last route takes the rest.
    """
    if not any(backend.path_rewrite or backend.redirect or backend.mirrors for backend in backends):
        return [({}, backends)]
    totals = list(accumulate(backend.weight for backend in backends))
    shares: list[Body] = [{"runtime_fraction": fraction(total, totals[-1])} for total in totals[:-1]]
    return [(share, (backend,)) for share, backend in zip([*shares, {}], backends, strict=True)]


def _route_action(source: Route, action: Forward, backends: tuple[Backend, ...], host: str, taken: Taken) -> Body:
    body: dict[str, Json] = {
        **_clusters(backends, host),
        **path_rewrite(backends[0].path_rewrite or action.path_rewrite, source.match),
        **repeats(action, taken, source.match.method),
    }
    if any(backend.cluster is None for backend in backends):
        body["cluster_not_found_response_code"] = _LACKING[action.lacking_status]
    if mirrors := (*action.mirrors, *backends[0].mirrors):
        body["request_mirror_policies"] = [_mirror(mirror) for mirror in mirrors]
    return body


def _clusters(backends: tuple[Backend, ...], host: str) -> Body:
    """Choose among the backends; ``host`` is the new authority where a backend has none of its own.

    A route's new authority would win over a weighted cluster's, so it stands in one of the two places only.
    """
    is_per_backend = any(backend.host_rewrite for backend in backends)
    rewritten: Body = {"host_rewrite_literal": host} if host and not is_per_backend else {}
    if len(backends) == 1 and _is_plain(backends[0]):
        return {**rewritten, "cluster": cluster_name(backends[0].cluster)}
    weighted = [_weighted(backend, host if is_per_backend else "") for backend in backends]
    return {**rewritten, "weighted_clusters": {"clusters": weighted}}


def _is_plain(backend: Backend) -> bool:
    return backend.request_headers.is_empty and backend.response_headers.is_empty and not backend.host_rewrite


def _weighted(backend: Backend, host: str) -> Body:
    body: dict[str, Json] = {
        "name": cluster_name(backend.cluster),
        "weight": backend.weight,
        **header_changes(backend.request_headers, backend.response_headers),
    }
    if new := backend.host_rewrite or host:
        body["host_rewrite_literal"] = new
    return body


def cluster_name(cluster: PortRef | None) -> str:
    """Return the name of a backend's cluster; an invalid backend's is one that does not exist."""
    return cluster.path if cluster else INVALID


def _mirror(mirror: Mirror) -> Body:
    return {
        "cluster": mirror.cluster.path,
        "runtime_fraction": _copied(mirror),
        "disable_shadow_host_suffix_append": True,
    }


def _copied(mirror: Mirror) -> Body:
    """Envoy compares the one number that it drew for the route with this share, too, by its remainder.

    A share of a million would be of the very requests that a cumulative share of the routes took, or of none of them.
    """
    share, rest = divmod(mirror.numerator * _TEN_THOUSAND, mirror.denominator or 1)
    if rest:
        return fraction(mirror.numerator, mirror.denominator)
    return {"default_value": {"numerator": min(share, _TEN_THOUSAND), "denominator": "TEN_THOUSAND"}}


def _redirect(source: Route, action: Redirect) -> Body:
    """Gateway API: "If redirect scheme is not-empty, the redirect port MUST be the well-known port [of] the scheme"."""
    body: dict[str, Json] = {"response_code": _REDIRECTS[action.status], **path_redirect(action.path, source.match)}
    if action.scheme:
        body["scheme_redirect"] = action.scheme
    if action.host:
        body["host_redirect"] = action.host
    if port := action.port or (0 if action.host else _WELL_KNOWN_PORTS.get(action.scheme, 0)):
        body["port_redirect"] = port
    return body
