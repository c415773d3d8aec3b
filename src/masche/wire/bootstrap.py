"""What an Envoy of the mesh is started with: everything else it learns from its agent, over one Unix socket.

Decided from where the proxy stands and which sockets it uses. Written as JSON, because Envoy's YAML reads a bare ``n``
as a boolean. Invariant: an Envoy that has nothing yet waits for ever (``initial_fetch_timeout`` 0) instead of going
live with an empty configuration.
"""

import json
from typing import Any

from masche.wire import stats
from masche.wire.types import PREFIX

XDS_CLUSTER = "xds"
"""The cluster by which Envoy reaches its agent."""

DEFAULT_MAX_CONNECTIONS = 10_000
DEFAULT_MAX_HEAP_BYTES = 512 * 1024 * 1024
_EVICTION_SECONDS = 600
_MONITOR = "envoy.resource_monitors."
_ACTION = "envoy.overload_actions."


def bootstrap(
    *,
    node_id: str,
    cluster: str,
    zone: str,
    xds_socket: str,
    admin_socket: str,
    source: str = "",
    outlier_log: str = "",
    max_connections: int = DEFAULT_MAX_CONNECTIONS,
    max_heap_bytes: int = DEFAULT_MAX_HEAP_BYTES,
) -> bytes:
    """Return the bootstrap of one Envoy, as JSON.

    ``node_id`` is the proxy's id, ``cluster`` what it belongs to (a service), ``zone`` may be empty; the sockets are
    paths of Unix sockets, of at most 107 bytes. ``source`` is the address that its calls come from; "" leaves that to
    the routing table. ``outlier_log`` is the file, if any, that gets a line for each instance which Envoy cuts off or
    lets back in. Beyond ``max_connections`` new connections are refused, and near ``max_heap_bytes`` requests are,
    before the kernel has to choose a victim.
    """
    body: dict[str, Any] = {
        "node": {"id": node_id, "cluster": cluster, "locality": {"zone": zone}},
        "admin": {"address": {"pipe": {"path": admin_socket, "mode": 0o600}}, "ignore_global_conn_limit": True},
        "dynamic_resources": _dynamic_resources(),
        "static_resources": {"clusters": [_agent(xds_socket)]},
        "cluster_manager": _cluster_manager(source, outlier_log),
        "bootstrap_extensions": [
            _extension(
                "envoy.bootstrap.internal_listener", "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"
            )
        ],
        "stats_config": _stats_config(),
        # Histograms are merged when statistics are flushed, and the agent reports once a second.
        "stats_flush_interval": "1s",
        "stats_eviction_interval": f"{_EVICTION_SECONDS}s",
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        "layered_runtime": {"layers": [{"name": "mesh", "static_layer": _RUNTIME}]},
        "overload_manager": _overload_manager(max_connections, max_heap_bytes),
        "memory_allocator_manager": _ALLOCATOR,
    }
    return json.dumps(body, separators=(",", ":")).encode()


_RUNTIME: dict[str, int] = {
    # A connection most of whose first streams are reset at once is an attack (rapid reset): it is closed.
    "overload.premature_reset_total_stream_count": 500,
    "overload.premature_reset_min_stream_lifetime_seconds": 1,
    # One connection must not keep a worker busy: so many requests are begun per wake-up, the rest wait their turn.
    "http.max_requests_per_io_cycle": 10,
    # A regular expression is judged where it is written. Envoy's own limit of 100 instructions would refuse the whole
    # table that it stands in, and with it the routes of everybody else; what RE2 compiles at all runs in linear time.
    "re2.max_program_size.error_level": 1_000_000,
}


_ALLOCATOR: dict[str, Any] = {
    # Envoy keeps what it freed: a third of all, once it has taken in what came bit by bit. After a change of the
    # configuration, which leaves most of it behind, what is more than this goes back at once, ...
    "max_unfreed_memory_bytes": 8 * 1024 * 1024,
    # ... and what has not been needed for a minute at this rate.
    "bytes_to_release": 4 * 1024 * 1024,
    "memory_release_interval": "1s",
}


_CLUSTER_STATS = (
    r"upstream_cx_(active|total|connect_fail|overflow)",
    r"upstream_rq_(active|total|pending_overflow|retry|retry_overflow)",
    r"membership_(healthy|total)",
    r"outlier_detection\.ejections_active",
    r"ssl\.(handshake|connection_error|fail_verify_san|fail_verify_error)",
)
_LISTENER_STATS = (
    r"downstream_cx_(active|total|overflow)",
    r"ssl\.(handshake|connection_error|no_certificate|fail_verify_.*)",
)


def _extension(name: str, type_name: str, **body: Any) -> dict[str, Any]:
    return {"name": name, "typed_config": {"@type": PREFIX + type_name, **body}}


def _dynamic_resources() -> dict[str, Any]:
    wait: dict[str, Any] = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}
    back_off = {"retry_back_off": {"base_interval": "0.2s", "max_interval": "1s"}}
    ads = {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [{"envoy_grpc": {"cluster_name": XDS_CLUSTER, "retry_policy": back_off}}],
    }
    return {"ads_config": ads, "cds_config": wait, "lds_config": wait}


def _cluster_manager(source: str, outlier_log: str) -> dict[str, Any]:
    bound = {"upstream_bind_config": {"source_address": {"address": source, "port_value": 0}}} if source else {}
    return {**bound, **({"outlier_detection": {"event_log_path": outlier_log}} if outlier_log else {})}


def _agent(socket: str) -> dict[str, Any]:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    keepalive = {"connection_keepalive": {"interval": "10s", "timeout": "5s"}}
    return {
        "name": XDS_CLUSTER,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": XDS_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket}}}}]}],
        },
        "typed_extension_protocol_options": {
            options: {"@type": PREFIX + options, "explicit_http_config": {"http2_protocol_options": keepalive}}
        },
    }


def _stats_config() -> dict[str, Any]:
    """Keep the mesh's own statistics and the few of Envoy's that ``status`` reads: a sidecar stays small."""
    scope = f"{stats.SCOPE}."
    prefixes = [scope, "server.", "control_plane.", "cluster_manager.", "listener_manager.", "overload."]
    cluster = rf"cluster\.(outbound|inbound|passthrough).*\.({'|'.join(_CLUSTER_STATS)})"
    listener = rf"listener\..*\.({'|'.join(_LISTENER_STATS)})"
    patterns: list[dict[str, Any]] = [{"prefix": each} for each in prefixes]
    patterns += [{"safe_regex": {"regex": each}} for each in (cluster, listener)]
    return {
        "stats_matcher": {"inclusion_list": {"patterns": patterns}},
        "histogram_bucket_settings": [
            {"match": {"exact": f"{scope}{stats.CONNECTION_MS}"}, "buckets": stats.CONNECTION_BOUNDS_MS},
            {"match": {"prefix": scope}, "buckets": stats.LATENCY_US},
        ],
    }


def _overload_manager(max_connections: int, max_heap_bytes: int) -> dict[str, Any]:
    """Refuse before the kernel kills: connections by count, then requests, then the streams that hold most memory."""

    def at(action: str, threshold: float) -> dict[str, Any]:
        trigger = {"name": f"{_MONITOR}fixed_heap", "threshold": {"value": threshold}}
        return {"name": _ACTION + action, "triggers": [trigger]}

    connections = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    heap = "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig"
    scaled = {"name": f"{_MONITOR}fixed_heap", "scaled": {"scaling_threshold": 0.9, "saturation_threshold": 0.98}}
    return {
        "refresh_interval": "0.25s",
        "buffer_factory_config": {"minimum_account_to_track_power_of_two": 20},
        "resource_monitors": [
            _extension(
                f"{_MONITOR}global_downstream_max_connections",
                connections,
                max_active_downstream_connections=max_connections,
            ),
            _extension(f"{_MONITOR}fixed_heap", heap, max_heap_size_bytes=max_heap_bytes),
        ],
        "actions": [
            at("shrink_heap", 0.95),
            at("stop_accepting_requests", 0.98),
            at("stop_accepting_connections", 0.98),
            {"name": f"{_ACTION}reset_high_memory_stream", "triggers": [scaled]},
        ],
    }
