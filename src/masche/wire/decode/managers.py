"""Decode what all HTTP connection managers share: which filters stand in the chain, and that none is unknown.

Invariant: a filter that is not known makes its Listener refused, unless it is marked as optional (gRFC A39) or does
nothing to requests; so what a route tells an unknown filter never matters.
"""

from collections.abc import Iterator
from typing import Any

from masche.wire.decode.reading import only, type_of
from masche.wire.framing import WireError

MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC"
FAULT = "envoy.extensions.filters.http.fault.v3.HTTPFault"
LIMIT = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
CONCURRENCY = "envoy.extensions.filters.http.adaptive_concurrency.v3.AdaptiveConcurrency"

_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
_CORS = "envoy.extensions.filters.http.cors.v3.Cors"
_NOTHING_TO_DO = frozenset(
    {
        _CORS,
        "envoy.extensions.filters.http.on_demand.v3.OnDemand",
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    }
)
"""What acts on a route that asks for it only, or only counts."""

_READ = frozenset({"rds", "route_config", "http_filters", "common_http_protocol_options", "stream_idle_timeout"})
_SILENT = frozenset(
    {
        "codec_type", "stat_prefix", "http_protocol_options", "http2_protocol_options", "server_name", "tracing",
        "server_header_transformation", "max_request_headers_kb", "request_headers_timeout", "drain_timeout",
        "delayed_close_timeout", "access_log", "access_log_options", "use_remote_address",
        "skip_xff_append", "generate_request_id", "preserve_external_request_id", "always_set_request_id_in_response",
        "upgrade_configs", "normalize_path", "merge_slashes", "path_with_escaped_slashes_action",
        "strip_trailing_host_dot", "add_user_agent",
        "forward_client_cert_details", "set_current_client_cert_details", "internal_address_config", "via",
        "represent_ipv4_remote_address_as_ipv4_mapped_ipv6", "stream_error_on_invalid_http_message",
        "http3_protocol_options", "request_timeout", "scheme_header_transformation", "proxy_100_continue",
        "add_proxy_protocol_connection_state",
        "local_reply_config", "request_id_extension", "http1_safe_max_connection_duration",
        "append_x_forwarded_port", "typed_header_validation_config",
    }
)  # fmt: skip
"""What a proxy between two connections needs. Who is no proxy has one spelling of a path, and limits, of its own.

What would change which address a caller has, or which authority is looked for, is not among these.
"""


def check(manager: Any, where: str) -> None:
    """Refuse a manager with a field that is not known."""
    only(manager, where, _READ | _SILENT)


def filters(manager: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield (type, Any) of each filter that may refuse or change a request, in order; the router ends them."""
    seen: set[str] = set()
    for each in manager.http_filters:
        place = f"{where}: the HTTP filter {each.name!r}"
        if each.name in seen:
            raise WireError(f"{place} stands twice in the chain")
        seen.add(each.name)
        kind = type_of(each.typed_config)
        if kind == _ROUTER:
            return
        if kind in {RBAC, FAULT, LIMIT, CONCURRENCY} and not each.disabled:
            yield kind, each.typed_config
        elif kind not in _NOTHING_TO_DO and not each.is_optional and not each.disabled:
            raise WireError(f"{place} is not carried out here")
    raise WireError(f"{where}: the last of its filters is not the router")
