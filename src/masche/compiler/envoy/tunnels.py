"""Encode a gateway between zones: it takes CONNECT over mutual TLS and carries bytes that it cannot read.

Order of a tunnel: mutual TLS (a workload of this mesh, or no connection), connection manager (CONNECT or nothing),
table of routes (one virtual host, whose domains are all the addresses at which the mesh takes mutual TLS), and then the
address that was asked for. Invariant: an address that the table does not name is not connected to, and the one that is
connected to is the one that was looked up.
"""

from functools import lru_cache
from ipaddress import ip_address

from masche.compiler.east_west import Reach
from masche.compiler.envoy import edge, reports
from masche.compiler.envoy.clusters import CLUSTER, TLS_1_3
from masche.compiler.envoy.detours import TUNNEL_WINDOWS
from masche.compiler.envoy.inbound import LISTENER
from masche.compiler.envoy.managers import CONNECT, ROUTER, by_table, connection_manager
from masche.compiler.envoy.parts import ADS_WAIT, address, extension, without_headers
from masche.model.blob import Blob
from masche.model.vantage import Seat, SeatPort
from masche.wire import framing, secret, types
from masche.wire.messages import Body, encode

NETWORK, LOOPBACK = "tunnels", "tunnels/loopback"
"""The tables of routes: of a gateway that other machines reach, and of one that only its own machine does."""

_CARRIED = "inbound/tunnels"
"""The cluster that connects to the address which was asked for."""

_TLS = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_TABLE = "envoy.config.route.v3.RouteConfiguration"
_CONNECT_TIMEOUT = 1.5
"""Seconds; less than a caller waits, so that it hears that nobody is there."""

_CLAIMS = without_headers("x-envoy-", "x-masche-", "x-forwarded-")
"""What a caller says about itself beside its certificate is not listened to."""


def listener(trust_domain: str, seat: Seat, port: SeatPort) -> Blob:
    """Return the listener that takes tunnels. Only who is on this machine already is led to its loopback."""
    name = f"inbound/{port.app_port}"
    manager = connection_manager(
        name,
        by_table(LOOPBACK if ip_address(seat.bind).is_loopback else NETWORK),
        [],
        reports.tunnels(f"inbound/{seat.workload}/{port.app_port}"),
        router=ROUTER,
        upgrades=(CONNECT,),
        http2_protocol_options={**edge.HTTP2, **TUNNEL_WINDOWS},
        early_header_mutation_extensions=_CLAIMS,
    )
    chain: Body = {"name": "mtls", "filters": [manager], "transport_socket": _workloads_of(trust_domain)}
    body: Body = {
        "name": name,
        "address": address(seat.bind, port.mesh_port, seat.namespace_path),
        "traffic_direction": "INBOUND",
        **edge.LISTENER,
        "filter_chains": [chain],
    }
    return framing.blob(types.LISTENER, name, encode(LISTENER, body))


def _workloads_of(trust_domain: str) -> Body:
    """Mutual TLS with workloads alone: a machine or a control plane of the mesh has no business here."""
    workloads = [{"san_type": "URI", "matcher": {"prefix": f"spiffe://{trust_domain}/ns/"}}]
    context: Body = {
        "tls_params": TLS_1_3,
        # Proxies share one connection among their tunnels; the library opens one for each, over HTTP/1.1.
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [{"name": secret.CERTIFICATE, "sds_config": ADS_WAIT}],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": workloads},
            "validation_context_sds_secret_config": {"name": secret.ROOTS, "sds_config": ADS_WAIT},
        },
    }
    body: Body = {"require_client_certificate": True, "common_tls_context": context}
    return extension("envoy.transport_sockets.tls", _TLS, body)


@lru_cache(maxsize=8)
def tables(reach: Reach) -> tuple[Blob, ...]:
    """Return both tables; they follow the instances of the mesh, and a gateway asks for the one that is its own."""
    return (_table(NETWORK, reach.network), _table(LOOPBACK, tuple(sorted({*reach.network, *reach.loopback}))))


def _table(name: str, destinations: tuple[str, ...]) -> Blob:
    """With no destination there is no virtual host, so that every request is answered 404."""
    route: Body = {
        "match": {"connect_matcher": {}},
        "route": {
            "cluster": _CARRIED,
            "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
            # Those who talk through it decide how long they may be silent, up to the age that any connection may have.
            "timeout": 0,
            "idle_timeout": edge.MAX_CONNECTION_AGE,
        },
    }
    host: Body = {"name": name, "domains": list(destinations), "routes": [route]}
    body: Body = {"name": name, "virtual_hosts": [host] if destinations else []}
    return framing.blob(types.ROUTES, name, encode(_TABLE, body))


def _cluster() -> Blob:
    body: Body = {
        "name": _CARRIED,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": _CONNECT_TIMEOUT,
        "per_connection_buffer_limit_bytes": edge.BUFFER_BYTES,
        "original_dst_lb_config": {"use_http_header": True, "http_header_name": ":authority"},
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 30, "keepalive_interval": 5}
        },
        "circuit_breakers": {"thresholds": [{"max_connections": 20_000, "max_pending_requests": 2_000}]},
    }
    return framing.blob(types.CLUSTER, _CARRIED, encode(CLUSTER, body))


CARRIED = _cluster()
"""Connects to the address that the table of routes let pass."""
