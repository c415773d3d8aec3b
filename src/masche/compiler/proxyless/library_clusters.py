"""Encode a Cluster for the library: who may answer, and in one extension the whole effective TrafficPolicy.

The standard fields say what they can, as they say it to a proxy; the extension says all. Invariant: a peer that shows
none of the cluster's identities is refused inside the handshake, and an instance without a proxy is called in plaintext
only where the cluster says that there are such instances.
"""

from functools import lru_cache

from masche.compiler.envoy.balancing import balancing, limits
from masche.compiler.envoy.clusters import MTLS_KEY, PLAINTEXT, RAW_BUFFER
from masche.compiler.envoy.parts import ADS, extension, refs_of
from masche.compiler.proxyless.grpc_clusters import CLUSTER, PROVIDER, TLS
from masche.model.blob import Blob
from masche.model.view import Cluster, Protocol
from masche.wire import framing, types
from masche.wire.decode import traffic as words
from masche.wire.messages import Body, any_of, encode

_TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

_SPOKEN: dict[Protocol, Body] = {
    protocol: {"explicit_http_config": {f"{version}_protocol_options": {}}}
    for protocol, version in ((Protocol.HTTP, "http"), (Protocol.HTTP2, "http2"), (Protocol.GRPC, "http2"))
}


@lru_cache(maxsize=65_536)
def cluster(source: Cluster, east_west: tuple[str, ...] = ()) -> Blob:
    """Return the encoded cluster; its endpoints come by EDS under the same name. Gateways between zones that show one
    of ``east_west`` may carry a call there.
    """
    name, traffic = source.service.path, source.traffic
    body: Body = {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": ADS, "service_name": name},
        **balancing(traffic),
        **limits(traffic),
        "typed_extension_protocol_options": _extensions(source, east_west),
        "transport_socket": extension(TLS, _TLS, {"common_tls_context": _tls(source)}),
        **(_SOME_PLAINTEXT if source.has_plaintext else {}),
    }
    origins = (*source.origins, *(origin for _, origin in traffic.origins))
    return framing.blob(types.CLUSTER, name, encode(CLUSTER, body), refs_of(origins), eds_name=name)


_SOME_PLAINTEXT: Body = {
    "transport_socket_matches": [{"name": PLAINTEXT, "match": {MTLS_KEY: PLAINTEXT}, "transport_socket": RAW_BUFFER}]
}


def _extensions(source: Cluster, east_west: tuple[str, ...]) -> Body:
    ours: Body = {words.EXTENSION: words.extension(source, east_west)}
    spoken = _SPOKEN.get(source.protocol)
    return {_HTTP_OPTIONS: any_of(_HTTP_OPTIONS, spoken), **ours} if spoken else ours


def _tls(source: Cluster) -> Body:
    """The library holds its certificate and its roots itself; a context only points at them."""
    names = [{"san_type": "URI", "matcher": {"exact": identity}} for identity in source.identities]
    return {
        "tls_certificate_provider_instance": PROVIDER,
        "validation_context": {"ca_certificate_provider_instance": PROVIDER, "match_typed_subject_alt_names": names},
    }
