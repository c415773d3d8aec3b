"""Encode a Cluster: who may answer for one port of a Service, and how its instances are used.

Decided from the Cluster of a View alone. Invariant: a peer that shows none of the cluster's identities is refused
inside the handshake, before a byte of a request is sent.
"""

from functools import lru_cache

from masche.compiler.envoy import edge, failing, peer
from masche.compiler.envoy.balancing import balancing, hash_policy, limits
from masche.compiler.envoy.carried import CALLED, inside, through
from masche.compiler.envoy.parts import ADS, ADS_WAIT, extension, refs_of
from masche.model.blob import Blob
from masche.model.view import Cluster, Protocol, Traffic
from masche.wire import framing, secret, types
from masche.wire.messages import Body, Json, any_of, encode

CLUSTER = "envoy.config.cluster.v3.Cluster"
_TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

TLS_1_3: Body = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
"""Both ends of the range: Envoy's client side would otherwise stop at TLS 1.2 and offer nothing at all."""

MTLS_KEY = "mtls"
MTLS_METADATA = "envoy.transport_socket_match"
PLAINTEXT = "plaintext"
"""An endpoint whose metadata say ``mtls: plaintext`` has no proxy and is called in the clear."""

LOCAL = "local"
"""One that says ``mtls: local`` is served by the very proxy that calls, and is called inside of it."""

RAW_BUFFER: Body = extension(
    "envoy.transport_sockets.raw_buffer", "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
)

_EDS: Body = {
    "type": "EDS",
    "eds_cluster_config": {"eds_config": ADS},
    # Who is no longer an endpoint gets no further request.
    "ignore_health_on_host_removal": True,
}

KEEPALIVE_TIMEOUT = 5.0
"""Seconds within which a ping is answered by a peer that is there."""

HTTP2_UPSTREAM: Body = {
    "max_concurrent_streams": 100,
    "initial_stream_window_size": edge.STREAM_WINDOW_BYTES,
    "initial_connection_window_size": edge.CONNECTION_WINDOW_BYTES,
    "allow_connect": True,
    "connection_keepalive": {"interval": 10, "timeout": KEEPALIVE_TIMEOUT},
}
"""HTTP/2 as a client speaks it; a peer behind a link that went silent is noticed within 15 seconds."""


@lru_cache(maxsize=65_536)
def cluster(source: Cluster, *, is_carried: bool = False, is_shared: bool = False) -> Blob:
    """Return the encoded cluster; its endpoints come by EDS under the same name.

    ``is_carried`` says that some may be reached by a detour, ``is_shared`` that several workloads call through it.
    """
    name = source.service.path
    body = encode(
        CLUSTER,
        {
            "name": name,
            **_EDS,
            **balancing(source.traffic),
            **_limits(source.traffic),
            **_transport(source, is_carried=is_carried, is_shared=is_shared),
        },
    )
    origins = (*source.origins, *(origin for _, origin in source.traffic.origins))
    return framing.blob(types.CLUSTER, name, body, refs_of(origins), eds_name=name)


def _limits(traffic: Traffic) -> Body:
    return {
        "per_connection_buffer_limit_bytes": edge.BUFFER_BYTES,
        **limits(traffic),
    }


def _transport(source: Cluster, *, is_carried: bool, is_shared: bool) -> Body:
    """One socket for both ways, the direct and the carried: a second one, by match, would double each TLS context."""
    plaintext = {"name": PLAINTEXT, "match": {MTLS_KEY: PLAINTEXT}, "transport_socket": RAW_BUFFER}
    context: Body = {"common_tls_context": _tls(source, is_shared=is_shared)}
    socket = extension("envoy.transport_sockets.tls", _TLS, {**context, **(peer.NO_RESUMPTION if is_shared else {})})
    tls: Body = {
        "transport_socket": through(socket) if is_carried else socket,
        "transport_socket_matches": [plaintext, *((_LOCAL,) if is_shared else ())],
    }
    if not source.protocol.is_http:
        return tls
    return {**tls, "typed_extension_protocol_options": {_HTTP_OPTIONS: any_of(_HTTP_OPTIONS, _http_options(source))}}


_LOCAL: Body = {"name": LOCAL, "match": {MTLS_KEY: LOCAL}, "transport_socket": inside(RAW_BUFFER, CALLED)}


def _tls(source: Cluster, *, is_shared: bool) -> Body:
    names = [{"san_type": "URI", "matcher": {"exact": identity}} for identity in source.identities]
    return {
        "tls_params": TLS_1_3,
        "alpn_protocols": _alpn(source),
        **(peer.CALLERS_CERTIFICATE if is_shared else peer.OWN_CERTIFICATE),
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": names},
            "validation_context_sds_secret_config": {"name": secret.ROOTS, "sds_config": ADS_WAIT},
        },
    }


def _alpn(source: Cluster) -> list[str]:
    if not source.protocol.is_http:
        return []
    return ["http/1.1"] if _is_http1(source) else ["h2"]


def _http_options(source: Cluster) -> Body:
    """HTTP/2 between proxies: a third cheaper than HTTP/1.1, and one handshake serves many requests."""
    traffic = source.traffic
    common: dict[str, Json] = {"max_headers_count": 200, "idle_timeout": traffic.idle_timeout}
    if traffic.max_connection_age:
        common["max_connection_duration"] = traffic.max_connection_age
        common["max_connection_duration_jitter"] = {"value": 10}
    versions: Body = {"http_protocol_options": {}} if _is_http1(source) else {"http2_protocol_options": _http2(traffic)}
    return {
        "common_http_protocol_options": common,
        "explicit_http_config": versions,
        **hash_policy(traffic),
        **failing.looked_at(source),
    }


def _http2(traffic: Traffic) -> Body:
    """The usual, with as many pings as the policy asks for."""
    if traffic.keepalive:
        ping: Body = {"interval": traffic.keepalive, "timeout": KEEPALIVE_TIMEOUT}
        return {**HTTP2_UPSTREAM, "connection_keepalive": ping}
    return {name: value for name, value in HTTP2_UPSTREAM.items() if name != "connection_keepalive"}


def _is_http1(source: Cluster) -> bool:
    """Say whether some instance may speak HTTP/1.1 alone: a cluster speaks one version, unless its port says which.

    So does an instance without a proxy, and one that serves by the library, whose server is the application's own.
    """
    return (source.has_plaintext or source.has_library) and source.protocol is Protocol.HTTP
