"""Encode the listener in which the connections arrive that a workload makes, wherever it meant to connect.

Decided from the ways out of a View and the place of capture in a Seat. The destination that the application connected
to decides everything: the virtual address of a Service, with its port, means that Service, whatever the Host header
says; any other is connected to as it is, or nobody is where only the mesh may be called. Nothing that is sent is looked
at first, so a server that speaks first is heard at once. Invariant: what goes to a Service goes through a filter chain
that says whose connection it is.
"""

from collections.abc import Iterable
from functools import lru_cache

from masche.compiler.addresses import IPV4, IPV6
from masche.compiler.envoy import capture_table, clusters, edge, faults, on_demand, reports, spent
from masche.compiler.envoy.balancing import BY_CALLER
from masche.compiler.envoy.inbound import LISTENER
from masche.compiler.envoy.managers import by_table, calling_router, connection_manager, tcp_proxy
from masche.compiler.envoy.outbound import CORS, weighted
from masche.compiler.envoy.parts import address, extension, refs_of
from masche.compiler.envoy.passthrough import LOCAL_RANGES
from masche.compiler.envoy.peer import introduced
from masche.compiler.envoy.seated import Seated
from masche.model.blob import Blob
from masche.model.vantage import Seat
from masche.model.view import Outbound, View
from masche.wire import framing, types
from masche.wire.messages import Body, Json, encode

PASSTHROUGH = "passthrough/captured"
"""The cluster for what is not of the mesh: it connects to where the application meant to connect."""

LISTENERS_REMEMBERED = 1_024
"""As many as the seats of a few machines."""

ANYWHERE, ANYWHERE_6 = "0.0.0.0", "::"  # noqa: S104 - where nftables leads to; the namespace's rules let no one else in

ORIGINAL_DESTINATION = extension(
    "envoy.filters.listener.original_dst", "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
)
"""Asks the kernel where a connection was meant to go before it was redirected."""

_HTTP, _NOWHERE = "http", "nowhere"
"""Filter chains: for every Service that speaks HTTP, and one that does not exist, so that its connections end."""

_STRING = "google.protobuf.StringValue"
_INPUTS = "envoy.extensions.matching.common_inputs.network.v3"
_IP_MATCHER = "envoy.extensions.matching.input_matchers.ip.v3.Ip"
"""Not ``xds.type.matcher.v3.IPMatcher``, which is a work in progress, as Envoy says with every listener."""


def blobs(view: View, seat: Seat, seated: Seated) -> tuple[Blob, ...]:
    """Return the cluster, the listener and the table of routes of a seat whose connections are captured; or nothing."""
    if seat.capture is None:
        return ()
    passed = () if view.is_registry_only else (_PASSTHROUGH,)
    tcp = tuple(each for each in view.outbound if not each.protocol.is_http and each.addresses)
    table = capture_table.table(view)
    made = _listener(
        tcp,
        seat,
        seated,
        view.identity,
        table.name,
        is_registry_only=view.is_registry_only,
        is_troubled=view.is_troubled,
    )
    return (*passed, made, table)


@lru_cache(maxsize=LISTENERS_REMEMBERED)
def _listener(
    tcp: tuple[Outbound, ...],
    seat: Seat,
    seated: Seated,
    identity: str,
    table: str,
    *,
    is_registry_only: bool,
    is_troubled: bool,
) -> Blob:
    """The listener, on which a Service that speaks HTTP has no influence: these are told apart in the table."""
    chains = [_http(seated, identity, table, is_troubled=is_troubled), *(_tcp(each, seated, identity) for each in tcp)]
    body: dict[str, Json] = {
        "name": seated.capture,
        **addresses(seat, seat.capture.port if seat.capture else 0),
        "traffic_direction": "OUTBOUND",
        **edge.LISTENER,
        "listener_filters": [ORIGINAL_DESTINATION],
        "filter_chains": chains,
        "filter_chain_matcher": _matcher(tcp),
    }
    if not is_registry_only:
        body["default_filter_chain"] = _other(seated, identity)
    refs = refs_of(origin for each in tcp for origin in each.origins)
    return framing.blob(types.LISTENER, seated.capture, encode(LISTENER, body), refs)


def addresses(seat: Seat, port: int) -> Body:
    """Return where a listener for redirected connections is bound: on every address of the seat's namespace."""
    first: Body = {"address": address(ANYWHERE, port, seat.namespace_path)}
    if not (seat.capture and seat.capture.has_ipv6):
        return first
    return {**first, "additional_addresses": [{"address": address(ANYWHERE_6, port, seat.namespace_path)}]}


# ------------------------------------------------------------------------------------------ which chain takes a call


def _matcher(tcp: tuple[Outbound, ...]) -> Body:
    """A Service that speaks TCP has a chain for each port; everything else at virtual addresses is taken for HTTP."""
    by_address: dict[str, dict[str, str]] = {}
    for each in tcp:
        for virtual in each.addresses:
            by_address.setdefault(virtual, {})[str(each.service.port)] = each.service.path
    if not by_address:
        return _BY_RANGE
    exact = {virtual: {"matcher": _by_port(ports)} for virtual, ports in sorted(by_address.items())}
    tree: Body = {"input": _input("DestinationIPInput"), "exact_match_map": {"map": exact}}
    return {"matcher_tree": tree, "on_no_match": {"matcher": _BY_RANGE}}


def _by_port(chains: dict[str, str]) -> Body:
    ports: Body = {port: _to(chain) for port, chain in sorted(chains.items())}
    tree: Body = {"input": _input("DestinationPortInput"), "exact_match_map": {"map": ports}}
    return {"matcher_tree": tree, "on_no_match": _to(_HTTP)}


def _input(name: str) -> Body:
    return extension(name, f"{_INPUTS}.{name}")


def _to(chain: str) -> Body:
    return {"action": extension("chain", _STRING, {"value": chain})}


def _within(name: str, ranges: Iterable[tuple[str, int]], chain: str) -> Body:
    matcher: Body = {
        "cidr_ranges": [{"address_prefix": prefix, "prefix_len": length} for prefix, length in ranges],
        "stat_prefix": name,
    }
    predicate: Body = {
        "input": _input("DestinationIPInput"),
        "custom_match": extension("envoy.matching.matchers.ip", _IP_MATCHER, matcher),
    }
    return {"predicate": {"single_predicate": predicate}, "on_match": _to(chain)}


_BY_RANGE: Body = {
    "matcher_list": {
        "matchers": [
            _within("virtual", ((str(each.network_address), each.prefixlen) for each in (IPV4, IPV6)), _HTTP),
            # The proxy stands elsewhere than the application: what is local to the one is not local to the other.
            _within("local", LOCAL_RANGES, _NOWHERE),
        ]
    }
}


# ---------------------------------------------------------------------------------------------------------- the chains


@lru_cache(maxsize=4_096)
def _http(seated: Seated, identity: str, table: str, *, is_troubled: bool) -> Body:
    """Every Service that speaks HTTP; which is meant is told by the address, in one table for all.

    A proxy that serves several workloads is given every cluster unasked, and waits for none.
    """
    manager = connection_manager(
        seated.capture,
        by_table(table),
        [
            CORS,
            spent.FILTER,
            *faults.filters(is_troubled=is_troubled),
            *(() if seated.is_shared else (on_demand.FILTER,)),
        ],
        reports.outbound_http(identity, seated.tag),
        router=calling_router(seated.tag),
        skip_xff_append=True,
        local_reply_config={"mappers": [spent.REPLY]},
        early_header_mutation_extensions=[capture_table.WHERE_TO],
    )
    return {"name": _HTTP, "filters": [introduced(seated, identity), manager]}


@lru_cache(maxsize=16_384)
def _tcp(outbound: Outbound, seated: Seated, identity: str) -> Body:
    name = outbound.service.path
    logs = reports.outbound_tcp(identity, seated.tag)
    proxy = tcp_proxy(name, weighted(outbound), logs, edge.MAX_CONNECTION_AGE, hash_policy=BY_CALLER)
    return {"name": name, "filters": [introduced(seated, identity), proxy]}


@lru_cache(maxsize=4_096)
def _other(seated: Seated, identity: str) -> Body:
    """What is not of the mesh: bytes, to where they were meant to go. How long it is silent is between the two."""
    logs = reports.outbound_tcp(identity, seated.tag, PASSTHROUGH.partition("/")[0])
    proxy = tcp_proxy(PASSTHROUGH, ((PASSTHROUGH, 1),), logs, edge.MAX_CONNECTION_AGE, max_connect_attempts=1)
    return {"name": PASSTHROUGH, "filters": [proxy]}


def _passthrough() -> Blob:
    body: Body = {
        "name": PASSTHROUGH,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": 5,
        "per_connection_buffer_limit_bytes": edge.BUFFER_BYTES,
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 30, "keepalive_interval": 5}
        },
        "circuit_breakers": {"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000}]},
    }
    return framing.blob(types.CLUSTER, PASSTHROUGH, encode(clusters.CLUSTER, body))


_PASSTHROUGH = _passthrough()
