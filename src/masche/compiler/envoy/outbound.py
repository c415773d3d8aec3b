"""Encode how a workload reaches its mesh: a local listener per Service port, and the explicit HTTP proxy.

All bind loopback only, and none adds the caller's loopback address to X-Forwarded-For, where it would tell the callee
nothing. Invariant: whichever way a request takes, it is routed by the same routes.
"""

from masche.compiler.envoy import edge, reports
from masche.compiler.envoy.clusters import CLUSTER
from masche.compiler.envoy.cors import FILTER as CORS_FILTER
from masche.compiler.envoy.inbound import LISTENER
from masche.compiler.envoy.managers import CONNECT, WEBSOCKET, by_table, connection_manager, tcp_proxy
from masche.compiler.envoy.parts import address, extension, refs_of
from masche.compiler.envoy.route_tables import PASSTHROUGH, PROXY, PROXY_CONNECT
from masche.compiler.envoy.routes import INVALID, cluster_name
from masche.model.blob import Blob
from masche.model.refs import Ref
from masche.model.vantage import Seat
from masche.model.view import Outbound
from masche.wire import framing, types
from masche.wire.messages import Body, any_of, encode

LOOPBACK = "127.0.0.1"

CORS = extension(CORS_FILTER, "envoy.extensions.filters.http.cors.v3.Cors")
"""Answers preflight requests before they are sent anywhere; it does nothing where a route has no such policy."""

_DNS_CACHE: Body = {
    "name": PASSTHROUGH,
    "dns_lookup_family": "V4_PREFERRED",
    "max_hosts": 1024,
    # As the application itself would resolve it, /etc/hosts included.
    "typed_dns_resolver_config": extension(
        "envoy.network.dns_resolver.getaddrinfo",
        "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig",
    ),
}
_FORWARD = extension(
    "envoy.filters.http.dynamic_forward_proxy",
    "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
    {"dns_cache_config": _DNS_CACHE, "save_upstream_address": True},
)
"""Resolves the host of a request that is not for the mesh."""

_LOCAL_RANGES = (
    ("127.0.0.0", 8),
    ("0.0.0.0", 8),  # noqa: S104 - refused as a destination, not bound
    ("169.254.0.0", 16),
    ("::1", 128),
    ("::", 128),
    ("fe80::", 10),
)


def _not_to(prefix: str, length: int) -> Body:
    matcher = {"upstream_ip": {"address_prefix": prefix, "prefix_len": length}}
    type_name = "envoy.extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher"
    return {"matcher": extension("envoy.rbac.matchers.upstream_ip_port", type_name, matcher)}


_NEVER_LOCAL = extension(
    "envoy.filters.http.rbac",
    "envoy.extensions.filters.http.rbac.v3.RBAC",
    {
        "rules": {
            "action": "DENY",
            "policies": {
                "loopback and link-local addresses are never proxied": {
                    "permissions": [_not_to(*each) for each in _LOCAL_RANGES],
                    "principals": [{"any": True}],
                }
            },
        }
    },
)
"""A name that resolves to this host is refused as the address itself would be; it looks at what was resolved."""


def local_listener(outbound: Outbound, port: int, identity: str, seat: Seat) -> Blob:
    """Return the listener that ``<SERVICE>_URL`` points at."""
    name = outbound.service.path
    if outbound.protocol.is_http:
        chain = connection_manager(name, by_table(name), [CORS], reports.outbound_http(identity), skip_xff_append=True)
    else:
        chain = tcp_proxy(name, _weighted(outbound), reports.outbound_tcp(identity), edge.MAX_CONNECTION_AGE)
    return _listener(name, port, chain, seat, refs_of(outbound.origins))


def proxy_listeners(identity: str, seat: Seat) -> tuple[Blob, ...]:
    """Return the explicit proxy, and the internal listener in which its tunnels to HTTP services end."""
    logs = reports.outbound_http(identity)
    filters = [CORS, _FORWARD, _NEVER_LOCAL]
    table = by_table(PROXY)
    proxy = connection_manager(PROXY, table, filters, logs, (WEBSOCKET, CONNECT), skip_xff_append=True)
    inner = connection_manager(PROXY_CONNECT, table, filters, logs, skip_xff_append=True)
    internal: Body = {"name": PROXY_CONNECT, "internal_listener": {}, "filter_chains": [{"filters": [inner]}]}
    return (
        _listener(PROXY, seat.proxy_port, proxy, seat, frozenset()),
        framing.blob(types.LISTENER, PROXY_CONNECT, encode(LISTENER, {**internal, **_INTERNAL})),
    )


_INTERNAL: Body = {"per_connection_buffer_limit_bytes": edge.BUFFER_BYTES, "traffic_direction": "OUTBOUND"}


def proxy_clusters() -> tuple[Blob, ...]:
    """Return the clusters that the explicit proxy needs beside those of the mesh."""
    return (_PASSTHROUGH, _PROXY_CONNECT)


def _weighted(outbound: Outbound) -> tuple[tuple[str, int], ...]:
    backends = tuple((cluster_name(each.cluster), each.weight) for each in outbound.backends if each.weight > 0)
    return backends or ((INVALID, 1),)


def _listener(name: str, port: int, network_filter: Body, seat: Seat, refs: frozenset[Ref]) -> Blob:
    body: Body = {
        "name": name,
        "address": address(LOOPBACK, port, seat.namespace_path),
        "traffic_direction": "OUTBOUND",
        **edge.LISTENER,
        "filter_chains": [{"name": "local", "filters": [network_filter]}],
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


def _passthrough_cluster() -> Blob:
    forward = any_of(
        "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig", {"dns_cache_config": _DNS_CACHE}
    )
    body: Body = {
        "name": PASSTHROUGH,
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": 5,
        "per_connection_buffer_limit_bytes": edge.BUFFER_BYTES,
        "cluster_type": {"name": "envoy.clusters.dynamic_forward_proxy", "typed_config": forward},
    }
    return framing.blob(types.CLUSTER, PASSTHROUGH, encode(CLUSTER, body))


_PROXY_CONNECT = _internal_cluster()
_PASSTHROUGH = _passthrough_cluster()
