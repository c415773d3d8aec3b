"""Encode what happens to a request in the explicit proxy that is not for the mesh: it goes where its name resolves to.

The filters that do this stand in the chain of every request but are asleep; the one route for strangers wakes them, so
that requests of the mesh pay nothing. Invariant: whatever a name resolves to, loopback and link-local are not reached.
"""

from masche.compiler.envoy import clusters, edge
from masche.compiler.envoy.parts import extension
from masche.model.blob import Blob
from masche.wire import framing, types
from masche.wire.messages import Body, Json, any_of, encode

NAME = "passthrough"
"""The cluster for what is not of the mesh."""

WHY_NEVER = "loopback and link-local addresses are never proxied"

_FORWARD, _NEVER_LOCAL = "masche.forward", "masche.never-local"
_RBAC = "envoy.extensions.filters.http.rbac.v3"
_DNS = "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig"
_DYNAMIC = "envoy.extensions.filters.http.dynamic_forward_proxy.v3"

_DNS_CACHE: Body = {
    "name": NAME,
    "dns_lookup_family": "V4_PREFERRED",
    "max_hosts": 1024,
    # As the application itself would resolve it, /etc/hosts included.
    "typed_dns_resolver_config": extension("envoy.network.dns_resolver.getaddrinfo", _DNS),
}

LOCAL_RANGES = (
    ("127.0.0.0", 8),
    ("0.0.0.0", 8),  # noqa: S104 - refused as a destination, not bound
    ("169.254.0.0", 16),
    ("::1", 128),
    ("::", 128),
    ("::ffff:0:0", 96),
    ("fe80::", 10),
    # Where clouds give a machine its credentials, beside 169.254.169.254.
    ("100.100.100.200", 32),
    ("168.63.129.16", 32),
    ("192.0.0.192", 32),
    ("fd00:ec2::254", 128),
    ("fd20:ce::254", 128),
)
"""What is of one host alone, or given to one host alone."""


def _reaching(prefix: str, length: int) -> Body:
    matcher = {"upstream_ip": {"address_prefix": prefix, "prefix_len": length}}
    type_name = "envoy.extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher"
    return {"matcher": extension("envoy.rbac.matchers.upstream_ip_port", type_name, matcher)}


_RULES: Body = {
    "action": "DENY",
    "policies": {
        WHY_NEVER: {"permissions": [_reaching(*each) for each in LOCAL_RANGES], "principals": [{"any": True}]}
    },
}

FILTERS: tuple[Body, ...] = (
    # Resolves the host, and says what it found to the next.
    {
        **extension(
            _FORWARD, f"{_DYNAMIC}.FilterConfig", {"dns_cache_config": _DNS_CACHE, "save_upstream_address": True}
        ),
        "disabled": True,
    },
    # A name that resolves to this host is refused as the address itself would be.
    {**extension(_NEVER_LOCAL, f"{_RBAC}.RBAC"), "disabled": True},
)
"""Filters of the explicit proxy, asleep."""

AWAKE: dict[str, Json] = {
    _FORWARD: any_of(f"{_DYNAMIC}.PerRouteConfig"),
    _NEVER_LOCAL: any_of(f"{_RBAC}.RBACPerRoute", {"rbac": {"rules": _RULES}}),
}
"""``typed_per_filter_config`` of the route that wakes them."""


def _saying(condition: Body, text: str) -> Body:
    return {"filter": condition, "body_format_override": {"text_format_source": {"inline_string": f"{text}\n"}}}


_REFUSED = extension(
    "envoy.access_loggers.extension_filters.cel",
    "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
    {"expression": "response.code_details.startsWith('rbac_')"},
)

REPLIES: list[Json] = [
    _saying({"extension_filter": _REFUSED}, f"{WHY_NEVER}, and %REQ(:AUTHORITY)% is one"),
    _saying(
        {"response_flag_filter": {"flags": ["DF"]}},
        "%REQ(:AUTHORITY)% is no service that this workload may call, and no host of that name was found",
    ),
]
"""What a caller reads, instead of Envoy's own words."""


def _cluster() -> Blob:
    forward = any_of(
        "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig", {"dns_cache_config": _DNS_CACHE}
    )
    body: Body = {
        "name": NAME,
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": 5,
        "per_connection_buffer_limit_bytes": edge.BUFFER_BYTES,
        "cluster_type": {"name": "envoy.clusters.dynamic_forward_proxy", "typed_config": forward},
    }
    return framing.blob(types.CLUSTER, NAME, encode(clusters.CLUSTER, body))


CLUSTER = _cluster()
"""Connects to whatever the filter resolved."""
