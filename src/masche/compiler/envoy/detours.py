"""Encode how a proxy takes a detour: the internal listener in which it begins, and the way to the gateway.

Order of a call: the cluster of the Service chooses an endpoint and makes mutual TLS with it, inside Envoy, into the
listener ``detour``; what comes out there is carried by a CONNECT request over mutual TLS to the gateway that the
endpoint names. Invariant: whoever cannot show one of the gateways' identities carries nothing.
"""

from functools import lru_cache

from masche.compiler.envoy import carried, edge, peer
from masche.compiler.envoy.clusters import CLUSTER, HTTP2_UPSTREAM, TLS_1_3
from masche.compiler.envoy.inbound import LISTENER
from masche.compiler.envoy.managers import tcp_proxy
from masche.compiler.envoy.parts import ADS_WAIT, extension
from masche.compiler.envoy.reports import BROKEN_DETOURS
from masche.model.blob import Blob
from masche.wire import framing, secret, types
from masche.wire.messages import Body, any_of, encode

_TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

_CONNECT_TIMEOUT = 2
"""Seconds; a detour is a long way, and the call's own connect timeout runs outside of it."""

TUNNEL_WINDOWS: Body = {
    # A tunnel holds a whole HTTP/2 connection, whose own window is 1 MiB, and must not be narrower than what it holds.
    "initial_stream_window_size": edge.CONNECTION_WINDOW_BYTES,
    "initial_connection_window_size": 4 * edge.CONNECTION_WINDOW_BYTES,
}
"""HTTP/2 that carries tunnels, at either end."""


@lru_cache(maxsize=64)
def blobs(gateways: tuple[str, ...], *, is_shared: bool = False) -> tuple[Blob, ...]:
    """Return the cluster and the listener of a proxy that may take detours by ``gateways`` (SPIFFE IDs); or nothing.

    Where several workloads share the proxy, each shows the gateway its own certificate.
    """
    return (_cluster(gateways, is_shared=is_shared), _listener()) if gateways else ()


def _listener() -> Blob:
    asked = {"hostname": f"%DYNAMIC_METADATA({carried.TUNNEL}:{carried.DESTINATION})%"}
    tunnel = tcp_proxy(
        carried.LISTENER,
        ((carried.LISTENER, 1),),
        BROKEN_DETOURS,
        edge.MAX_CONNECTION_AGE,
        # The connection that is carried is tried again by its own cluster, at another instance or by another way.
        max_connect_attempts=1,
        tunneling_config=asked,
    )
    body: Body = {
        "name": carried.LISTENER,
        "internal_listener": {},
        "per_connection_buffer_limit_bytes": edge.BUFFER_BYTES,
        "traffic_direction": "OUTBOUND",
        "listener_filters": [_FROM_METADATA],
        "filter_chains": [{"name": "tunnel", "filters": [tunnel]}],
    }
    return framing.blob(types.LISTENER, carried.LISTENER, encode(LISTENER, body))


_FROM_METADATA = extension(
    "envoy.filters.listener.original_dst", "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
)
"""Reads from the endpoint's metadata where the gateway is."""


def _cluster(gateways: tuple[str, ...], *, is_shared: bool) -> Blob:
    context: Body = {"common_tls_context": _tls(gateways, is_shared=is_shared)}
    body: Body = {
        "name": carried.LISTENER,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": _CONNECT_TIMEOUT,
        "per_connection_buffer_limit_bytes": edge.BUFFER_BYTES,
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 30, "keepalive_interval": 5}
        },
        "circuit_breakers": {"thresholds": [_UNLIMITED]},
        "transport_socket": extension(
            "envoy.transport_sockets.tls", _TLS, {**context, **(peer.NO_RESUMPTION if is_shared else {})}
        ),
        "typed_extension_protocol_options": {_HTTP_OPTIONS: any_of(_HTTP_OPTIONS, _OPTIONS)},
    }
    return framing.blob(types.CLUSTER, carried.LISTENER, encode(CLUSTER, body))


def _tls(gateways: tuple[str, ...], *, is_shared: bool) -> Body:
    names = [{"san_type": "URI", "matcher": {"exact": identity}} for identity in gateways]
    return {
        "tls_params": TLS_1_3,
        "alpn_protocols": ["h2"],
        **(peer.CALLERS_CERTIFICATE if is_shared else peer.OWN_CERTIFICATE),
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": {"name": secret.ROOTS, "sds_config": ADS_WAIT},
        },
    }


_UNLIMITED: Body = {
    "max_connections": 1_000_000,
    "max_pending_requests": 1_000_000,
    "max_requests": 1_000_000,
}
"""What is carried is limited where it is called: by the cluster of its Service."""

_OPTIONS: Body = {
    "common_http_protocol_options": {"idle_timeout": edge.IDLE_TIMEOUT, "max_connection_duration": 3600},
    "explicit_http_config": {"http2_protocol_options": {**HTTP2_UPSTREAM, **TUNNEL_WINDOWS}},
}
