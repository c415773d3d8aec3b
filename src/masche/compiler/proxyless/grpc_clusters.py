"""Encode a Cluster for a gRPC client without a proxy: who may answer, who is chosen, how many calls at once.

Decided from the Cluster of a View alone. gRPC refuses every cluster of a response when one asks for a way of balancing
that it does not have, so each is offered as a list of which it takes the first that it knows. Invariant: a peer that
shows none of the cluster's identities is refused inside the handshake.
"""

from functools import lru_cache

from masche.compiler.envoy.parts import ADS, extension, refs_of
from masche.model.blob import Blob
from masche.model.calling import Algorithm, OutlierEjection, Traffic
from masche.model.view import Cluster
from masche.wire import framing, types
from masche.wire.messages import Body, encode

CLUSTER = "envoy.config.cluster.v3.Cluster"

TLS = "envoy.transport_sockets.tls"

PROVIDER: Body = {"instance_name": "default"}
"""What a bootstrap calls the files in which the certificate, its key and the roots are (gRFC A29)."""

_TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_POLICIES = "envoy.extensions.load_balancing_policies"

_ENOUGH_REQUESTS = 10
"""So many requests of an instance in one interval say something about its share of errors."""

_LONGEST_EJECTION = 10
"""As with a proxy: an instance that is cut off again and again stays away up to so many times as long."""

_RING_SIZES: Body = {"minimum_ring_size": 1024, "maximum_ring_size": 4096}
"""gRPC caps a ring at 4096 (gRFC A42)."""


@lru_cache(maxsize=65_536)
def cluster(source: Cluster) -> Blob:
    """Return the encoded cluster; its endpoints come by EDS under the same name."""
    name, traffic = source.service.path, source.traffic
    body: Body = {
        **_of_endpoints(name),
        "load_balancing_policy": {"policies": [_balancing(traffic)]},
        "circuit_breakers": {"thresholds": [{"max_requests": traffic.breaker.max_requests}]},
        **_outlier(traffic.outlier),
        "transport_socket": extension(TLS, _TLS, {"common_tls_context": _tls(source)}),
    }
    origins = (*source.origins, *(origin for _, origin in traffic.origins))
    return framing.blob(types.CLUSTER, name, encode(CLUSTER, body), refs_of(origins), eds_name=name)


@lru_cache(maxsize=1)
def nowhere(name: str) -> tuple[Blob, Blob]:
    """Return a cluster without an instance: gRPC waits for one that is not there, and fails at once where nobody is."""
    body: Body = {**_of_endpoints(name), "lb_policy": "ROUND_ROBIN"}
    nobody = encode("envoy.config.endpoint.v3.ClusterLoadAssignment", {"cluster_name": name})
    return (
        framing.blob(types.CLUSTER, name, encode(CLUSTER, body), eds_name=name),
        framing.blob(types.ENDPOINTS, name, nobody),
    )


def _of_endpoints(name: str) -> Body:
    return {"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": ADS}}


def _balancing(traffic: Traffic) -> Body:
    """By hash over all instances, or by the weights of zones and then within the zone."""
    if traffic.algorithm.is_hash:
        return _policy("ring_hash", "RingHash", {**_RING_SIZES, "hash_function": "XX_HASH"})
    inner = [_policy("round_robin", "RoundRobin")]
    if traffic.algorithm is Algorithm.LEAST_REQUEST:
        # grpc-java and grpc-go have it; grpcio passes it over.
        inner.insert(0, _policy("least_request", "LeastRequest", {"choice_count": 2}))
    return _policy("wrr_locality", "WrrLocality", {"endpoint_picking_policy": {"policies": inner}})


def _policy(module: str, message: str, body: Body | None = None) -> Body:
    of_type = f"{_POLICIES}.{module}.v3.{message}"
    return {"typed_extension_config": extension(f"envoy.load_balancing_policies.{module}", of_type, body)}


def _outlier(outlier: OutlierEjection) -> Body:
    """gRFC A50 knows shares of failures and no failures in a row, and calls every status but OK a failure: only who
    wrote a share wants it."""
    if not outlier.error_percent:
        return {}
    return {
        "outlier_detection": {
            "interval": outlier.interval,
            "base_ejection_time": outlier.base_ejection,
            "max_ejection_time": outlier.base_ejection * _LONGEST_EJECTION,
            "max_ejection_percent": outlier.max_ejected_percent,
            "enforcing_success_rate": 0,
            "failure_percentage_threshold": outlier.error_percent,
            "enforcing_failure_percentage": 100,
            "failure_percentage_minimum_hosts": 1,
            "failure_percentage_request_volume": _ENOUGH_REQUESTS,
        }
    }


def _tls(source: Cluster) -> Body:
    """gRPC reads the list of SANs that Envoy calls deprecated, and not the typed one in its place."""
    names = [{"exact": identity} for identity in source.identities]
    return {
        "tls_certificate_provider_instance": PROVIDER,
        "validation_context": {
            "ca_certificate_provider_instance": PROVIDER,
            "match_subject_alt_names": names,
        },
    }
