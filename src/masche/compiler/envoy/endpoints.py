"""Encode the instances of one port of a Service, as the callers of one zone see them.

This is the hot path: it runs alone whenever an endpoint changes, for up to 50,000 of them, so an instance's bytes are
written by hand and remembered. Invariant: the bytes are those that the general encoder would give.
"""

from functools import lru_cache

from masche.compiler.east_west import authority
from masche.compiler.envoy import carried, neighbours
from masche.compiler.envoy.clusters import MTLS_KEY, MTLS_METADATA, PLAINTEXT
from masche.model.blob import Blob
from masche.model.refs import Kind, Ref
from masche.model.view import Endpoints, EndpointView, Health, Locality
from masche.wire import framing, types
from masche.wire.framing import field, text, varint
from masche.wire.messages import encode

_HEALTH = {Health.HEALTHY: 1, Health.UNHEALTHY: 2, Health.DRAINING: 3}
"""``envoy.config.core.v3.HealthStatus``."""

_METADATA = encode("envoy.config.core.v3.Metadata", {"filter_metadata": {MTLS_METADATA: {MTLS_KEY: PLAINTEXT}}})


NOBODY: frozenset[str] = frozenset()


def blob(source: Endpoints, *, local: frozenset[str] = NOBODY) -> Blob:
    """Return the ClusterLoadAssignment of one (Service, port).

    ``local`` names the workloads (``<namespace>/<name>``) that the very proxy serves for which this is: it calls them
    inside of itself, unless a detour was chosen, or they take no mutual TLS.
    """
    name = source.service.path
    ranks = {priority: rank for rank, priority in enumerate(sorted({each.priority for each in source.localities}))}
    localities = (field(2, _locality(each, ranks[each.priority], local)) for each in source.localities)
    body = text(1, name) + b"".join(localities)
    return framing.blob(types.ENDPOINTS, name, body, frozenset({Ref(Kind.SERVICE, *source.service.owner)}))


def _locality(locality: Locality, rank: int, local: frozenset[str]) -> bytes:
    """``LocalityLbEndpoints``: locality = 1 (zone = 2, sub_zone = 3), lb_endpoints = 2, load_balancing_weight = 3 and
    priority = 5, which Envoy wants without gaps. A zone and a detour to it must not bear one name, hence the sub-zone.

    There is a locality even without a zone: Envoy reads a weight only beside one, and a hash finds nothing without.
    """
    place = text(2, locality.zone) + text(3, locality.via)
    encoded = (_endpoint(each, is_local=each.workload in local) for each in locality.endpoints)
    endpoints = b"".join(encoded if local else map(_endpoint, locality.endpoints))
    weight = locality.weight or max(1, len(locality.endpoints))
    return field(1, place) + endpoints + field(3, _number(1, weight)) + _number(5, rank)


@lru_cache(maxsize=131_072)
def _endpoint(endpoint: EndpointView, *, is_local: bool = False) -> bytes:
    """``LbEndpoint``: endpoint = 1, health_status = 2, metadata = 3, load_balancing_weight = 4; in its field 2."""
    address, metadata = _reached(endpoint, is_local=is_local)
    parts = field(1, field(1, address)) + _number(2, _HEALTH[endpoint.health])
    if metadata:
        parts += field(3, metadata)
    return field(2, parts + field(4, _number(1, max(1, endpoint.weight))))


def _reached(endpoint: EndpointView, *, is_local: bool) -> tuple[bytes, bytes]:
    if endpoint.via:
        return carried.endpoint(authority(endpoint.address, endpoint.port), endpoint.via)
    if is_local and endpoint.is_mtls:
        return neighbours.endpoint(endpoint.workload, endpoint.address, endpoint.port)
    return _direct(endpoint)


def _direct(endpoint: EndpointView) -> tuple[bytes, bytes]:
    """``Address.socket_address`` = 1, and the metadata of who is called in plaintext."""
    socket = text(2, endpoint.address) + _number(3, endpoint.port)
    return field(1, socket), b"" if endpoint.is_mtls else _METADATA


def _number(number: int, value: int) -> bytes:
    """One integer; nothing for 0, as proto3 wants it."""
    return varint(number << 3) + varint(value) if value else b""
