"""Encode network filters: HTTP connection managers, always on top of ``edge``, and TCP proxies.

Invariant: there is no other place in which a connection manager is made, so none can lack a limit.
"""

from collections.abc import Sequence

from masche.compiler.envoy import edge
from masche.compiler.envoy.parts import ADS, extension
from masche.compiler.envoy.reports import instances
from masche.wire.messages import Body, Json

_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"

_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
ROUTER = extension("envoy.filters.http.router", _ROUTER, {"suppress_envoy_headers": True})
"""Last of every chain: it sends the request on."""


def calling_router(workload: str = "") -> Body:
    """Return the same where instances are chosen, so that each is reported on; ``workload`` says by whom."""
    body: Body = {"suppress_envoy_headers": True, "upstream_log": instances(workload)}
    return extension("envoy.filters.http.router", _ROUTER, body)


CALLING_ROUTER = calling_router()

WEBSOCKET: Body = {"upgrade_type": "websocket"}
CONNECT: Body = {"upgrade_type": "CONNECT"}


def by_table(name: str) -> Body:
    """Return the route specifier of a manager that gets its RouteConfiguration by name."""
    return {"rds": {"config_source": ADS, "route_config_name": name}}


def connection_manager(
    name: str,
    routes: Body,
    filters: Sequence[Body],
    logs: Sequence[Body],
    *,
    upgrades: Sequence[Body] = (WEBSOCKET,),
    router: Body = CALLING_ROUTER,
    **more: Json,
) -> Body:
    """Return the network filter that reads requests; ``filters`` stand before the router, in order."""
    body: dict[str, Json] = {
        **edge.CONNECTION_MANAGER,
        "stat_prefix": name,
        **routes,
        "http_filters": [*filters, router],
        "access_log": list(logs),
        "upgrade_configs": list(upgrades),
        **more,
    }
    return extension("envoy.filters.network.http_connection_manager", _MANAGER, body)


def tcp_proxy(
    name: str,
    clusters: Sequence[tuple[str, int]],
    logs: Sequence[Body],
    idle_timeout: float,
    **more: Json,
) -> Body:
    """Return the network filter that passes bytes to one of the weighted ``clusters``."""
    weighted = {"clusters": [{"name": cluster, "weight": weight} for cluster, weight in clusters]}
    body: dict[str, Json] = {
        "stat_prefix": name,
        "weighted_clusters": weighted,
        "access_log": list(logs),
        # A connection that cannot be made is tried at another instance.
        "max_connect_attempts": 3,
        "idle_timeout": idle_timeout,
        **more,
    }
    return extension("envoy.filters.network.tcp_proxy", _TCP_PROXY, body)
