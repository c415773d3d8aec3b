"""Encode a mirror in which a workload of a shared proxy sees its own certificate: ``masche check --identities`` looks.

A call to the witness's address leaves as every call does that a workload makes to other machines, with a certificate
that is chosen in the same way, but ends in a listener within the proxy that answers whose it was. Invariant: the
listener answers with nothing else, and is reached from within this Envoy alone.
"""

from masche.compiler.envoy import edge, peer
from masche.compiler.envoy.carried import inside
from masche.compiler.envoy.clusters import CLUSTER, TLS_1_3
from masche.compiler.envoy.inbound import LISTENER
from masche.compiler.envoy.managers import ROUTER, connection_manager
from masche.compiler.envoy.parts import ADS_WAIT, extension, header
from masche.compiler.envoy.route_tables import ROUTE, virtual_host
from masche.model.blob import Blob
from masche.wire import framing, secret, types, witness
from masche.wire.framing import field
from masche.wire.messages import Body, encode

NAME = "witness"
"""The listener, and the cluster that leads to it."""

_UPSTREAM = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_DOWNSTREAM = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"


def _host() -> bytes:
    action: Body = {"cluster": NAME, "timeout": 5}
    route = field(3, encode(ROUTE, {"match": {"prefix": "/"}, "route": action}))
    return virtual_host(NAME, (f"{witness.ADDRESS}:{witness.PORT}",), route)


def _cluster() -> Blob:
    address: Body = {"envoy_internal_address": {"server_listener_name": NAME, "endpoint_id": NAME}}
    context: Body = {"tls_params": TLS_1_3, "alpn_protocols": ["http/1.1"], **peer.CALLERS_CERTIFICATE}
    # Whose the other end is need not be asked: it is this very process.
    socket = extension("envoy.transport_sockets.tls", _UPSTREAM, {"common_tls_context": context, **peer.NO_RESUMPTION})
    body: Body = {
        "name": NAME,
        "type": "STATIC",
        "connect_timeout": 2,
        "per_connection_buffer_limit_bytes": edge.BUFFER_BYTES,
        "load_assignment": {
            "cluster_name": NAME,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "transport_socket": inside(socket),
    }
    return framing.blob(types.CLUSTER, NAME, encode(CLUSTER, body))


def _listener() -> Blob:
    context: Body = {
        "tls_params": TLS_1_3,
        "alpn_protocols": ["http/1.1"],
        **peer.fetched_certificate(witness.SECRET),
        "validation_context_sds_secret_config": {"name": secret.ROOTS, "sds_config": ADS_WAIT},
    }
    tls: Body = {"require_client_certificate": True, "common_tls_context": context, **peer.NO_TICKETS}
    answer: Body = {"match": {"prefix": "/"}, "direct_response": {"status": 204}}
    said = header(witness.PEER_HEADER, "%DOWNSTREAM_PEER_URI_SAN%", "OVERWRITE_IF_EXISTS_OR_ADD")
    table: Body = {
        "name": NAME,
        "response_headers_to_add": [said],
        "virtual_hosts": [{"name": NAME, "domains": ["*"], "routes": [answer]}],
    }
    chain: Body = {
        "name": NAME,
        "filters": [connection_manager(NAME, {"route_config": table}, [], (), router=ROUTER, skip_xff_append=True)],
        "transport_socket": extension("envoy.transport_sockets.tls", _DOWNSTREAM, tls),
    }
    body: Body = {
        "name": NAME,
        "internal_listener": {},
        "per_connection_buffer_limit_bytes": edge.BUFFER_BYTES,
        "traffic_direction": "INBOUND",
        "filter_chains": [chain],
    }
    return framing.blob(types.LISTENER, NAME, encode(LISTENER, body))


HOST = _host()
"""The virtual host of the witness's address, in the tables of captured requests."""

BLOBS = (_cluster(), _listener())
