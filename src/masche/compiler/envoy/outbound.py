"""Encode how a workload reaches its mesh: a local listener per Service port, and the explicit HTTP proxy.

All bind loopback only, and none adds the caller's loopback address to X-Forwarded-For, where it would tell the callee
nothing. Invariant: whichever way a request takes, it is routed by the same routes.
"""

from functools import lru_cache

from masche.compiler.envoy import edge, faults, on_demand, passthrough, reports, spent
from masche.compiler.envoy.balancing import BY_CALLER
from masche.compiler.envoy.clusters import CLUSTER
from masche.compiler.envoy.cors import FILTER as CORS_FILTER
from masche.compiler.envoy.inbound import LISTENER
from masche.compiler.envoy.managers import CONNECT, WEBSOCKET, by_table, connection_manager, tcp_proxy
from masche.compiler.envoy.parts import address, extension, refs_of
from masche.compiler.envoy.peer import introduced
from masche.compiler.envoy.route_tables import PROXY, PROXY_CONNECT
from masche.compiler.envoy.routes import INVALID, cluster_name
from masche.compiler.envoy.seated import Seated
from masche.compiler.faults import any_troubled
from masche.model.blob import Blob
from masche.model.refs import Name, Ref
from masche.model.vantage import Seat
from masche.model.view import Outbound
from masche.wire import framing, types
from masche.wire.messages import Body, encode

LOOPBACK = "127.0.0.1"

LOCAL_LISTENERS_REMEMBERED = 100_000
"""About as many as proxies hold together: 300 of them with 300 services each."""

CORS: Body = {**extension(CORS_FILTER, "envoy.extensions.filters.http.cors.v3.Cors"), "disabled": True}
"""Answers preflight requests before they are sent anywhere; it sleeps where a route has no such policy."""


def local_listener(outbound: Outbound, port: int, identity: str, seat: Seat) -> Blob:
    """Return the listener that ``<SERVICE>_URL`` points at.

    An HTTP one names its table of routes and does not change with it, so it is encoded once for all revisions.
    """
    weights = () if outbound.protocol.is_http else weighted(outbound)
    refs = refs_of(outbound.origins)
    seated = Seated(workload=Name(*seat.workload), is_shared=False)
    where = (seat.namespace_path, port)
    is_troubled = any_troubled(outbound.routes)
    return _local(outbound.service.path, weights, where, identity, seated=seated, refs=refs, is_troubled=is_troubled)


@lru_cache(maxsize=LOCAL_LISTENERS_REMEMBERED)
def _local(
    name: str,
    weights: tuple[tuple[str, int], ...],
    where: tuple[str, int],
    identity: str,
    *,
    seated: Seated,
    refs: frozenset[Ref],
    is_troubled: bool,
) -> Blob:
    namespace_path, port = where
    if weights:
        chain = tcp_proxy(name, weights, reports.outbound_tcp(identity), edge.MAX_CONNECTION_AGE, hash_policy=BY_CALLER)
    else:
        said: Body = {"mappers": [spent.REPLY]}
        logs = reports.outbound_http(identity)
        chain = connection_manager(
            name,
            by_table(name),
            [CORS, *faults.filters(is_troubled=is_troubled), spent.FILTER, on_demand.FILTER],
            logs,
            skip_xff_append=True,
            local_reply_config=said,
        )
    return _listener(name, port, [introduced(seated, identity), chain], namespace_path, refs)


def proxy_listeners(identity: str, seat: Seat, *, is_troubled: bool = False) -> tuple[Blob, ...]:
    """Return the explicit proxy, and the internal listener in which its tunnels to HTTP services end.

    ``is_troubled``: on some of its routes there is trouble.
    """
    logs = reports.outbound_http(identity)
    filters = [CORS, *faults.filters(is_troubled=is_troubled), spent.FILTER, *passthrough.FILTERS, on_demand.FILTER]
    table = by_table(PROXY)
    said: Body = {"mappers": [*passthrough.REPLIES, spent.REPLY]}
    proxy, inner = (
        connection_manager(name, table, filters, logs, upgrades=upgrades, skip_xff_append=True, local_reply_config=said)
        for name, upgrades in ((PROXY, (WEBSOCKET, CONNECT)), (PROXY_CONNECT, (WEBSOCKET,)))
    )
    caller = introduced(Seated(workload=Name(*seat.workload), is_shared=False), identity)
    internal: Body = {"name": PROXY_CONNECT, "internal_listener": {}, "filter_chains": [{"filters": [caller, inner]}]}
    return (
        _listener(PROXY, seat.proxy_port, [caller, proxy], seat.namespace_path, frozenset()),
        framing.blob(types.LISTENER, PROXY_CONNECT, encode(LISTENER, {**internal, **_INTERNAL})),
    )


_INTERNAL: Body = {"per_connection_buffer_limit_bytes": edge.BUFFER_BYTES, "traffic_direction": "OUTBOUND"}


def proxy_clusters() -> tuple[Blob, ...]:
    """Return the clusters that the explicit proxy needs beside those of the mesh."""
    return (passthrough.CLUSTER, _PROXY_CONNECT)


def weighted(outbound: Outbound) -> tuple[tuple[str, int], ...]:
    """Return the clusters among which connections to a Service are shared out; without any, one that is not there."""
    backends = tuple((cluster_name(each.cluster), each.weight) for each in outbound.backends if each.weight > 0)
    return backends or ((INVALID, 1),)


def _listener(name: str, port: int, network_filters: list[Body], namespace_path: str, refs: frozenset[Ref]) -> Blob:
    body: Body = {
        "name": name,
        "address": address(LOOPBACK, port, namespace_path),
        "traffic_direction": "OUTBOUND",
        **edge.LISTENER,
        "filter_chains": [{"name": "local", "filters": network_filters}],
    }
    return framing.blob(types.LISTENER, name, encode(LISTENER, body), refs)


def _internal_cluster() -> Blob:
    internal = {"envoy_internal_address": {"server_listener_name": PROXY_CONNECT}}
    body: Body = {
        "name": PROXY_CONNECT,
        "type": "STATIC",
        "connect_timeout": 1,
        "per_connection_buffer_limit_bytes": edge.BUFFER_BYTES,
        "load_assignment": {
            "cluster_name": PROXY_CONNECT,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": internal}}]}],
        },
    }
    return framing.blob(types.CLUSTER, PROXY_CONNECT, encode(CLUSTER, body))


_PROXY_CONNECT = _internal_cluster()
