"""Encode how copies of requests (mirrors) leave a proxy that serves several workloads: each as its caller's own.

Envoy makes a copy without the connection that the request came by, and so without what was written down of it: there
would be no certificate to show. So a copy goes through a listener inside of the proxy that writes it down again, from
headers that the copy alone has. Invariant: such a header of an application is written over, and none of them leaves.
"""

from functools import lru_cache

from masche.compiler.envoy import edge, peer
from masche.compiler.envoy.carried import inside
from masche.compiler.envoy.clusters import CLUSTER, HTTP2_UPSTREAM, RAW_BUFFER
from masche.compiler.envoy.inbound import LISTENER
from masche.compiler.envoy.managers import connection_manager
from masche.compiler.envoy.parts import any_of, extension, header
from masche.compiler.remember import by_identity
from masche.model.blob import Blob
from masche.model.view import Forward, Outbound, Route
from masche.wire import framing, types
from masche.wire.messages import Body, Json, encode

NAME = "copies"
"""The listener, and the cluster that leads to it."""

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_FILTER_STATE = "envoy.extensions.filters.http.set_filter_state.v3.Config"
_TO = "x-masche-copy-to"


@by_identity
def blobs(outbounds: tuple[Outbound, ...]) -> tuple[Blob, ...]:
    """Return the cluster and the listener where any of these ways out copies requests; else nothing."""
    is_copying = any(_is_copying(route) for each in outbounds for route in each.routes)
    return _made() if is_copying else ()


def _is_copying(route: Route) -> bool:
    action = route.action
    return isinstance(action, Forward) and bool(action.mirrors or any(each.mirrors for each in action.backends))


def through(inner: Body) -> Body:
    """Return what a route does, with its copies going through the listener."""
    action = inner.get("route")
    if not isinstance(action, dict) or not isinstance(copied := action.get("request_mirror_policies"), list):
        return inner
    policies = [_instead(each) for each in copied if isinstance(each, dict)]
    return {**inner, "route": {**action, "request_mirror_policies": policies}}


def _instead(policy: dict[str, Json]) -> Json:
    said = {_TO: str(policy["cluster"]), **{name: f"%FILTER_STATE({key}:PLAIN)%" for key, name in _HEADERS.items()}}
    mutations = [{"append": header(name, value, "OVERWRITE_IF_EXISTS_OR_ADD")} for name, value in said.items()]
    return {**policy, "cluster": NAME, "request_headers_mutations": mutations}


_HEADERS = {key: f"x-masche-copy-{key.rpartition('.')[2].replace('_', '-')}" for key in peer.INTRODUCTION}
"""By the key of what was written down of the caller, the header that carries it."""


@lru_cache(maxsize=1)
def _made() -> tuple[Blob, ...]:
    return _cluster(), _listener()


def _cluster() -> Blob:
    address: Body = {"envoy_internal_address": {"server_listener_name": NAME, "endpoint_id": NAME}}
    options: Body = {"explicit_http_config": {"http2_protocol_options": HTTP2_UPSTREAM}}
    body: Body = {
        "name": NAME,
        "type": "STATIC",
        "connect_timeout": 1,
        "per_connection_buffer_limit_bytes": edge.BUFFER_BYTES,
        "load_assignment": {
            "cluster_name": NAME,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "transport_socket": inside(RAW_BUFFER),
        "typed_extension_protocol_options": {_HTTP_OPTIONS: any_of(_HTTP_OPTIONS, options)},
    }
    return framing.blob(types.CLUSTER, NAME, encode(CLUSTER, body))


def _listener() -> Blob:
    route: Body = {"match": {"prefix": "/"}, "route": {"cluster_header": _TO, "timeout": 0}}
    table: Body = {
        "name": NAME,
        "request_headers_to_remove": [_TO, *_HEADERS.values()],
        "virtual_hosts": [{"name": NAME, "domains": ["*"], "routes": [route]}],
    }
    said = [{**each, "format_string": _read(each)} for each in peer.introduction()]
    introduced = extension("envoy.filters.http.set_filter_state", _FILTER_STATE, {"on_request_headers": said})
    manager = connection_manager(NAME, {"route_config": table}, [introduced], (), skip_xff_append=True)
    body: Body = {
        "name": NAME,
        "internal_listener": {},
        "per_connection_buffer_limit_bytes": edge.BUFFER_BYTES,
        "traffic_direction": "OUTBOUND",
        "filter_chains": [{"name": NAME, "filters": [manager]}],
    }
    return framing.blob(types.LISTENER, NAME, encode(LISTENER, body))


def _read(said: Body) -> Body:
    return {"text_format_source": {"inline_string": f"%REQ({_HEADERS[str(said['object_key'])]})%"}}
