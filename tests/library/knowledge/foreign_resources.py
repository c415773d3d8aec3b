"""Resources as other control planes write them: the names that gRPC gives, and nothing of ours."""

from typing import Any

from google.protobuf import json_format

from library.knowledge.foreign_plane import ForeignPlane
from masche.wire.pool import message_class, pool
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, PREFIX, ROUTES

ADS = {"ads": {}, "resource_api_version": "V3"}
HCM = f"{PREFIX}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = f"{PREFIX}envoy.extensions.filters.http.router.v3.Router"
TLS = f"{PREFIX}envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
AGGREGATE = f"{PREFIX}envoy.extensions.clusters.aggregate.v3.ClusterConfig"


def encoded(kind: str, content: dict[str, Any]) -> bytes:
    message = message_class(kind.removeprefix(PREFIX))()
    json_format.ParseDict(content, message, descriptor_pool=pool())
    return message.SerializeToString(deterministic=True)


def listener(name: str, **routes: object) -> bytes:
    filters = [{"name": "router", "typed_config": {"@type": ROUTER}}]
    manager = {"@type": HCM, "stat_prefix": name, "http_filters": filters, **routes}
    return encoded(LISTENER, {"name": name, "api_listener": {"api_listener": manager}})


def by_name(table: str) -> dict[str, object]:
    return {"rds": {"route_config_name": table, "config_source": ADS}}


def table(name: str, domain: str, **weights: int) -> dict[str, Any]:
    clusters = [{"name": cluster, "weight": weight} for cluster, weight in weights.items()]
    action = {"weighted_clusters": {"clusters": clusters}} if len(weights) > 1 else {"cluster": next(iter(weights))}
    return {
        "name": name,
        "virtual_hosts": [{"name": "v", "domains": [domain], "routes": [{"match": {"prefix": ""}, "route": action}]}],
    }


def eds(name: str, **more: object) -> dict[str, Any]:
    return {"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": ADS}, **more}


def endpoints(name: str, *ports: int) -> bytes:
    some = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}} for port in ports
    ]
    locality = {"locality": {"zone": "a"}, "load_balancing_weight": 1, "lb_endpoints": some}
    return encoded(ENDPOINTS, {"cluster_name": name, "endpoints": [locality]})


def served() -> ForeignPlane:
    plane = ForeignPlane()
    plane.put(LISTENER, "greeter.example:50051", listener("greeter.example:50051", **by_name("greeter-routes")))
    plane.put(ROUTES, "greeter-routes", encoded(ROUTES, table("greeter-routes", "*", blue=90, green=10)))
    plane.put(CLUSTER, "blue", encoded(CLUSTER, eds("blue")))
    plane.put(CLUSTER, "green", encoded(CLUSTER, eds("green")))
    plane.put(ENDPOINTS, "blue", endpoints("blue", 1001, 1002))
    plane.put(ENDPOINTS, "green", endpoints("green", 1003))
    return plane
