"""Decode a Cluster into a Destination: where its instances come from, who may answer, how they are used.

Invariant: an instance is called in plaintext only where the control plane says so for the whole cluster, or for those
whose metadata say ``mtls: plaintext`` in a cluster that knows the word (``has_plaintext``).
"""

from typing import Any

from masche.model.refs import ForeignRef
from masche.model.told import Destination, Discovery
from masche.model.view import Cluster, Endpoints
from masche.wire.decode import endpoints, tls
from masche.wire.decode.reading import message_of, named, only, type_of, unpacked
from masche.wire.decode.traffic import used
from masche.wire.framing import WireError

CLUSTER = "envoy.config.cluster.v3.Cluster"
_AGGREGATE = "envoy.extensions.clusters.aggregate.v3.ClusterConfig"
_FORWARD_PROXY = "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig"

_READ = {
    "name", "type", "cluster_type", "eds_cluster_config", "connect_timeout", "lb_policy", "load_assignment",
    "circuit_breakers", "typed_extension_protocol_options", "http2_protocol_options", "outlier_detection",
    "transport_socket", "transport_socket_matches", "load_balancing_policy", "round_robin_lb_config",
    "least_request_lb_config", "upstream_connection_options",
}  # fmt: skip
_SILENT = {
    "alt_stat_name", "metadata", "per_connection_buffer_limit_bytes", "common_lb_config", "ring_hash_lb_config",
    "maglev_lb_config", "dns_lookup_family", "dns_refresh_rate", "dns_failure_refresh_rate", "respect_dns_ttl",
    "dns_jitter", "use_tcp_for_dns", "ignore_health_on_host_removal", "lrs_server", "track_cluster_stats",
    "close_connections_on_host_health_failure", "cleanup_interval", "health_checks", "preconnect_policy",
    "wait_for_warm_on_init", "connection_pool_per_downstream_connection", "http_protocol_options",
    "common_http_protocol_options", "lrs_report_endpoint_metrics",
}  # fmt: skip
"""What changes neither who answers nor which requests are sent: buffers, statistics, tuning, probes of a proxy."""

_FIELDS = frozenset(_READ | _SILENT)


def destination(name: str, data: bytes) -> Destination:
    """Decode one Cluster.

    Raises:
        WireError: something in it cannot be carried out.
    """
    message = message_of(CLUSTER, data)
    where = named(message, name, "Cluster")
    only(message, where, _FIELDS)
    how, identities = used(message, where), tls.identities(message.transport_socket, f"{where}.transport_socket")
    cluster = Cluster(
        service=ForeignRef.named(where),
        protocol=how.protocol,
        identities=identities or (),
        traffic=how.traffic,
        has_plaintext=_has_plaintext(message, where),
        has_library=how.has_library,
    )
    return Destination(
        name=where,
        cluster=cluster,
        is_tls=identities is not None,
        east_west=how.east_west,
        **_found(message, where),
    )


def _has_plaintext(message: Any, where: str) -> bool:
    """Of sockets that are chosen by an instance's metadata only the one for plaintext is known."""
    for each in message.transport_socket_matches:
        wanted = {name: value.string_value for name, value in each.match.fields.items()}
        is_plain = type_of(each.transport_socket.typed_config) == tls.RAW_BUFFER
        if wanted != {endpoints.MTLS_KEY: endpoints.PLAINTEXT} or not is_plain:
            raise WireError(f"{where}.transport_socket_matches: {each.name!r} is not carried out here")
    return len(message.transport_socket_matches) > 0


def _found(message: Any, where: str) -> dict[str, Any]:
    """Return where its instances come from."""
    if message.WhichOneof("cluster_discovery_type") == "cluster_type":
        return _custom(message.cluster_type, where)
    match message.type:
        case 3:
            return {"discovery": Discovery.EDS, "assignment": _assignment(message.eds_cluster_config, where)}
        case 0:
            return {"discovery": Discovery.STATIC, "endpoints": _static(message, where)}
        case 2:
            return {"discovery": Discovery.LOGICAL_DNS, **_host(message, where)}
        case 4:
            return {"discovery": Discovery.PASSTHROUGH}
        case _:
            raise WireError(f"{where}: clusters of this type are not carried out here")


def _custom(message: Any, where: str) -> dict[str, Any]:
    match type_of(message.typed_config):
        case name if name == _AGGREGATE:
            members = tuple(unpacked(message.typed_config, _AGGREGATE).clusters)
            if not members:
                raise WireError(f"{where} is made of no clusters")
            return {"discovery": Discovery.AGGREGATE, "members": members}
        case name if name == _FORWARD_PROXY:
            return {"discovery": Discovery.PASSTHROUGH}
        case _:
            raise WireError(f"{where}: clusters of the type {message.name!r} are not carried out here")


def _assignment(message: Any, where: str) -> str:
    """Return the name by which the endpoints are asked for, over the stream on which the cluster came."""
    only(message, f"{where}.eds_cluster_config", {"eds_config", "service_name"})
    source = message.eds_config.WhichOneof("config_source_specifier")
    if source not in {"ads", "self"}:
        raise WireError(f"{where}: endpoints are asked for over the one stream there is, not by {source or 'nothing'}")
    return message.service_name or where


def _static(message: Any, where: str) -> Endpoints:
    return endpoints.of_message(message.load_assignment, ForeignRef.named(where), f"{where}.load_assignment")


def _host(message: Any, where: str) -> dict[str, Any]:
    """gRFC A37: "exactly one locality" with "exactly one endpoint", whose address is a name."""
    found = [each for place in message.load_assignment.endpoints for each in place.lb_endpoints]
    if len(found) != 1 or not found[0].endpoint.address.HasField("socket_address"):
        raise WireError(f"{where}: a cluster that is resolved has one host")
    address = found[0].endpoint.address.socket_address
    if not address.address or not 0 < address.port_value < 65536:
        raise WireError(f"{where}: a host needs a name and a port")
    return {"host": address.address, "port": address.port_value}
