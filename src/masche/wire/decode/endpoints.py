"""Decode a ClusterLoadAssignment into Endpoints: zones, instances, weights, health.

An instance that a gateway between zones carries us to is an address inside Envoy; its metadata say where it really is
and which gateway that is (``EndpointView.via``). Invariant: an instance without an address that can be connected to is
refused, and so are priorities with gaps (gRFC A27).
"""

from collections.abc import Mapping
from typing import Any

from masche.model.refs import ForeignRef, PortRef
from masche.model.view import Endpoints, EndpointView, Health, Locality
from masche.wire.decode.reading import message_of, named, only, value_or
from masche.wire.framing import WireError

ASSIGNMENT = "envoy.config.endpoint.v3.ClusterLoadAssignment"

MTLS_METADATA, MTLS_KEY, PLAINTEXT = "envoy.transport_socket_match", "mtls", "plaintext"
"""An endpoint whose metadata say ``mtls: plaintext`` has no proxy."""

_TUNNEL, _DETOUR = ("masche.tunnel", "destination"), ("masche.detour", "via")
_HEALTH = {0: Health.HEALTHY, 1: Health.HEALTHY, 3: Health.DRAINING}
"""``HealthStatus``: unknown and healthy take traffic (gRFC A27), draining keeps it; all others are unhealthy."""

_LOCALITY = frozenset({"locality", "lb_endpoints", "load_balancing_weight", "priority", "proximity", "metadata"})
_ENDPOINT = frozenset({"endpoint", "health_status", "metadata", "load_balancing_weight"})
_NONE: Mapping[tuple[str, str], str] = {}
_MOST = 100_000
"""How many instances one assignment may have."""


def endpoints(name: str, data: bytes) -> Endpoints:
    """Decode one ClusterLoadAssignment.

    Raises:
        WireError: something in it cannot be carried out.
    """
    message = message_of(ASSIGNMENT, data)
    own = named(message, name, "ClusterLoadAssignment")
    return of_message(message, ForeignRef.named(own), own)


def of_message(message: Any, service: PortRef, where: str) -> Endpoints:
    """Return the Endpoints that an assignment describes, which may be part of a Cluster."""
    only(message, where, {"cluster_name", "endpoints", "policy"})
    _check_policy(message.policy, where)
    if sum(len(each.lb_endpoints) for each in message.endpoints) > _MOST:
        raise WireError(f"{where} has more than {_MOST} instances")
    localities = tuple(_locality(each, f"{where}[{index}]") for index, each in enumerate(message.endpoints))
    priorities = {each.priority for each in localities}
    if priorities and max(priorities) != len(priorities) - 1:
        raise WireError(f"{where}: the priorities have a gap")
    return Endpoints(service=service, localities=localities)


def _check_policy(message: Any, where: str) -> None:
    """gRFC A28, A32: a share of all requests that is to be dropped is a limit, and must not be forgotten."""
    only(message, f"{where}.policy", {"overprovisioning_factor", "endpoint_stale_after", "weighted_priority_health"})


def _locality(message: Any, where: str) -> Locality:
    only(message, where, _LOCALITY)
    found = tuple(_endpoint(each, where) for each in message.lb_endpoints)
    return Locality(
        zone=message.locality.zone,
        priority=message.priority,
        endpoints=found,
        via=message.locality.sub_zone if any(each.via for each in found) else "",
        weight=value_or(message, "load_balancing_weight", 0),
    )


def _endpoint(message: Any, where: str) -> EndpointView:
    only(message, where, _ENDPOINT)
    only(message.endpoint, f"{where}.endpoint", {"address", "hostname", "health_check_config", "additional_addresses"})
    metadata = _metadata(message) if message.HasField("metadata") else _NONE
    via = metadata.get(_DETOUR, "")
    host, port = _carried(metadata, where) if via else _direct(message.endpoint.address, where)
    return EndpointView(
        address=host,
        port=port,
        workload="",
        health=_HEALTH.get(message.health_status, Health.UNHEALTHY),
        weight=value_or(message, "load_balancing_weight", 1),
        is_mtls=metadata.get((MTLS_METADATA, MTLS_KEY)) != PLAINTEXT,
        via=via,
    )


def _metadata(message: Any) -> Mapping[tuple[str, str], str]:
    return {
        (name, key): value.string_value
        for name, struct in message.metadata.filter_metadata.items()
        for key, value in struct.fields.items()
    }


def _direct(address: Any, where: str) -> tuple[str, int]:
    if address.WhichOneof("address") != "socket_address":
        raise WireError(f"{where}: an instance has an address and a port")
    socket = address.socket_address
    only(socket, where, {"address", "port_value", "protocol"})
    if socket.protocol or not socket.address or not 0 < socket.port_value < 65536:
        raise WireError(f"{where}: {socket.address!r}:{socket.port_value} is nothing to connect to")
    return socket.address, socket.port_value


def _carried(metadata: Mapping[tuple[str, str], str], where: str) -> tuple[str, int]:
    host, _, port = metadata.get(_TUNNEL, "").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise WireError(f"{where}: a detour that does not say where to")
    return host.removeprefix("[").removesuffix("]"), int(port)
