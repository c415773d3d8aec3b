"""Real messages of Envoy, from plain dictionaries, and free ports for them."""

from google.protobuf import json_format

from masche.model.blob import Blob
from masche.wire import framing
from masche.wire.pool import message_class, pool
from masche.wire.types import CLUSTER, ENDPOINTS, PREFIX, ROUTES
from taken_ports import PROXIES

ADS = {"ads": {}, "resource_api_version": "V3"}
HCM = f"{PREFIX}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def encoded(kind: str, content: dict, *, name: str | None = None) -> Blob:
    message = message_class(kind.removeprefix(PREFIX))()
    json_format.ParseDict(content, message, descriptor_pool=pool())
    named = name or content.get("name") or content["cluster_name"]
    eds_name = named if content.get("type") == "EDS" else ""
    return framing.blob(kind, named, message.SerializeToString(deterministic=True), eds_name=eds_name)


def cluster(name: str, **more) -> Blob:
    return encoded(CLUSTER, {"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": ADS}, **more})


def address(port: int) -> dict:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def endpoints(name: str, port: int, **locality) -> Blob:
    lb = [{"endpoint": {"address": address(port)}}]
    return encoded(ENDPOINTS, {"cluster_name": name, "endpoints": [{"lb_endpoints": lb, **locality}]})


def routes(name: str, target: str, regex: str = "") -> Blob:
    match = {"safe_regex": {"regex": regex}} if regex else {"prefix": "/"}
    host = {"name": "all", "domains": ["*"], "routes": [{"match": match, "route": {"cluster": target}}]}
    return encoded(ROUTES, {"name": name, "virtual_hosts": [host]})


def free_port() -> int:
    """A port below the ephemeral range that nobody has, and no other test gets."""
    return PROXIES.free()
