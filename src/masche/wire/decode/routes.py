"""Decode a RouteConfiguration into a Table, route by route, as Envoy would walk it.

What a table and a virtual host say for all their routes is written into each route: changes of headers, mirrors,
repeats, faults. Invariant: the first route that matches does what Envoy's would; what cannot be done so is refused,
and with it the whole table, so that an earlier one stays in force.
"""

from collections import Counter
from dataclasses import replace
from functools import lru_cache
from typing import Any

from masche.model.told import Table
from masche.model.view import Action, Backend, Forward, HeaderChange, Mirror, RequestMatch, Route, VirtualHost
from masche.wire import framing
from masche.wire.decode import filters
from masche.wire.decode.actions import answer, forward, mirror, redirect
from masche.wire.decode.headers import CHANGES, folded, request_and_response
from masche.wire.decode.paths import route_match
from masche.wire.decode.reading import MAX_BYTES, message_of, named, only
from masche.wire.framing import WireError

TABLE = "envoy.config.route.v3.RouteConfiguration"
_HOST_NAME = "envoy.config.route.v3.VirtualHost"
_MATCH_NAME = "envoy.config.route.v3.RouteMatch"
_VIRTUAL_HOSTS = 2
"""The number of the field ``RouteConfiguration.virtual_hosts``."""

_SILENT = frozenset(
    {"metadata", "decorator", "tracing", "stat_prefix", "name", "virtual_clusters", "per_request_buffer_limit_bytes"}
)
"""What only names, counts or remarks something."""

_TABLE = CHANGES | {
    "name", "virtual_hosts", "validate_clusters", "most_specific_header_mutations_wins", "request_mirror_policies",
    "ignore_port_in_host_matching", "typed_per_filter_config", "cluster_specifier_plugins", "metadata",
    "max_direct_response_body_size_bytes",
}  # fmt: skip
_HOST = CHANGES | _SILENT | {
    "domains", "routes", "retry_policy", "hedge_policy", "request_mirror_policies", "typed_per_filter_config",
    "rate_limits", "include_request_attempt_count", "include_attempt_count_in_response",
    "include_is_timeout_retry_header",
}  # fmt: skip
_ROUTE = CHANGES | _SILENT | {"match", "route", "redirect", "direct_response", "typed_per_filter_config"}


def table(name: str, data: bytes) -> Table:
    """Decode one RouteConfiguration. A virtual host whose bytes did not change is the same object as before.

    Raises:
        WireError: something in it cannot be carried out.
    """
    if len(data) > MAX_BYTES:
        raise WireError(f"a RouteConfiguration of {len(data)} bytes is too large")
    hosts: list[bytes] = []
    others: list[bytes] = []
    for each in framing.fields(data):
        if each.number == _VIRTUAL_HOSTS and each.wire_type == framing.LENGTH_DELIMITED:
            hosts.append(data[each.value : each.end])
        else:
            others.append(data[each.start : each.end])
    message = message_of(TABLE, b"".join(others))
    return _table(named(message, name, "RouteConfiguration"), hosts, b"".join(others), message)


def of_message(message: Any) -> Table:
    """Return the Table that a RouteConfiguration inside a Listener describes."""
    return table("", message.SerializeToString())


def _table(name: str, encoded: list[bytes], rest: bytes, message: Any) -> Table:
    hosts = tuple(_remembered(each, rest) for each in encoded)
    counts = Counter(domain for host in hosts for domain in host.hosts)
    for domain, count in counts.items():
        if count > 1:
            raise WireError(f"{name}: the domain {domain!r} stands {count} times in the table")
    return Table(name=name, hosts=hosts, ignores_port=message.ignore_port_in_host_matching)


@lru_cache(maxsize=16_384)
def _remembered(encoded: bytes, rest: bytes) -> VirtualHost:
    around = _around(rest)
    message = message_of(_HOST_NAME, encoded)
    return _host(message, around, f"{around.message.name}/{message.name}")


@lru_cache(maxsize=64)
def _around(rest: bytes) -> "_Around":
    message = message_of(TABLE, rest)
    only(message, message.name, _TABLE)
    return _Around.of(message, message.name)


class _Around:
    """What a table says for all its routes."""

    __slots__ = ("changes", "is_outermost_last", "message", "mirrors")

    def __init__(self, message: Any, changes: tuple[HeaderChange, HeaderChange], mirrors: tuple[Mirror, ...]) -> None:
        self.message, self.changes, self.mirrors = message, changes, mirrors
        self.is_outermost_last = not message.most_specific_header_mutations_wins

    @classmethod
    def of(cls, message: Any, where: str) -> "_Around":
        changes = request_and_response(message, where)
        return cls(message, changes, _mirrors(message, where))

    def order(self, route: HeaderChange, host: HeaderChange, table: HeaderChange) -> HeaderChange:
        """Envoy: "evaluated in order from most specific to least specific", unless the most specific is to win."""
        return folded(folded(route, host), table) if self.is_outermost_last else folded(folded(table, host), route)


def _mirrors(message: Any, where: str) -> tuple[Mirror, ...]:
    return tuple(mirror(each, f"{where}.request_mirror_policies") for each in message.request_mirror_policies)


def _host(message: Any, around: _Around, where: str) -> VirtualHost:
    only(message, where, _HOST)
    if not message.domains:
        raise WireError(f"{where} has no domains")
    hosts = tuple(_domain(each, where) for each in message.domains)
    changes, mirrors = request_and_response(message, where), _mirrors(message, where) or around.mirrors
    routes = tuple(
        _route(each, message, around, (changes, mirrors), f"{where}[{index}]")
        for index, each in enumerate(message.routes)
    )
    return VirtualHost(hosts=hosts, routes=routes)


def _domain(text: str, where: str) -> str:
    """``*`` alone, at the beginning or at the end."""
    if not text or "*" in text[1:-1] or (len(text) > 1 and text[0] == text[-1] == "*"):
        raise WireError(f"{where}: {text!r} is no domain")
    return text.lower()


_Shared = tuple[tuple[HeaderChange, HeaderChange], tuple[Mirror, ...]]


def _route(message: Any, host: Any, around: _Around, shared: _Shared, where: str) -> Route:
    place = f"{where} {message.name}".rstrip()
    only(message, place, _ROUTE)
    changes, (of_host, mirrors) = request_and_response(message, place), shared
    owners = (message, host, around.message)
    trouble = filters.told(owners, filters.FAULT, place)
    crossing = filters.told(owners, filters.CORS, place)
    made = Route(
        name=message.name or where,
        match=_match(message.match, place),
        action=_action(message, host, mirrors, place),
        request_headers=around.order(changes[0], of_host[0], around.changes[0]),
        response_headers=around.order(changes[1], of_host[1], around.changes[1]),
        cors=filters.cors(crossing, place) if crossing is not None else None,
        fault=filters.fault(trouble, place) if trouble is not None else None,
    )
    return made if around.is_outermost_last else _innermost_last(made)


def _match(message: Any, where: str) -> RequestMatch:
    """Routes of a mesh match in few ways, so each is decoded once; and so is each way to repeat (``actions``)."""
    try:
        return _known_match(message.SerializeToString())
    except WireError as error:
        raise WireError(f"{where}: {error}") from error


@lru_cache(maxsize=4_096)
def _known_match(encoded: bytes) -> RequestMatch:
    return route_match(message_of(_MATCH_NAME, encoded), "match")


def _innermost_last(made: Route) -> Route:
    """The changes of a backend come last when the most specific one is to win, so each brings all of them."""
    action = made.action
    if not isinstance(action, Forward) or all(_is_unchanging(each) for each in action.backends):
        return made
    backends = tuple(
        replace(
            each,
            request_headers=folded(made.request_headers, each.request_headers),
            response_headers=folded(made.response_headers, each.response_headers),
        )
        for each in action.backends
    )
    none = HeaderChange()
    return replace(made, action=replace(action, backends=backends), request_headers=none, response_headers=none)


def _is_unchanging(backend: Backend) -> bool:
    return backend.request_headers.is_empty and backend.response_headers.is_empty


def _action(message: Any, host: Any, mirrors: tuple[Mirror, ...], where: str) -> Action:
    match message.WhichOneof("action"):
        case "route":
            made = forward(message.route, host, f"{where}.route")
            return replace(made, mirrors=made.mirrors or mirrors) if isinstance(made, Forward) else made
        case "redirect":
            return redirect(message.redirect, f"{where}.redirect")
        case "direct_response":
            return answer(message.direct_response, f"{where}.direct_response")
        case other:
            raise WireError(f"{where}: {other or 'a route without an action'} is not carried out here")
