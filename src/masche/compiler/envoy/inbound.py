"""Encode how calls to a workload are received: one listener per application port, and the clusters behind it.

Order of a request: mutual TLS (who calls), connection manager (one spelling of path and headers), RBAC that denies,
RBAC that allows, the limit of requests at a time (what is refused does not count), router to the application. Policies
on requests come with a table of routes (``inbound/<port>``), so that a change holds from the next request on, on
connections too that are open already. Invariant: under STRICT there is no filter chain that reads plaintext, and only
the mutual-TLS chain ever says which rule refused.
"""

from collections.abc import Iterable

from masche.compiler.envoy import concurrency, edge, rbac, reports
from masche.compiler.envoy.clusters import CLUSTER, RAW_BUFFER, TLS_1_3
from masche.compiler.envoy.managers import ROUTER, by_table, connection_manager, tcp_proxy
from masche.compiler.envoy.matches import IDEMPOTENT, UPGRADES
from masche.compiler.envoy.parts import ADS_WAIT, INTERNAL_HEADERS, address, extension, refs_of, without_headers
from masche.compiler.envoy.retries import UNREACHED
from masche.model.blob import Blob
from masche.model.refs import Origin
from masche.model.vantage import Seat, SeatPort
from masche.model.view import Decision, Inbound, InboundPort, MtlsMode, Policy, Protocol
from masche.wire import framing, secret, stats, types
from masche.wire.messages import Body, Json, any_of, encode

LISTENER = "envoy.config.listener.v3.Listener"
_TLS = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

DENIED = "x-masche-denied"
"""The response header that tells an authenticated caller which rule refused it."""

_VOICES = without_headers("x-envoy-", "x-masche-")
"""Only proxies speak in these headers, and never to an application: what a caller claims in them is dropped."""

_METADATA, _IMPLICIT = "masche", "implicit_denial"
"""Where a route says what an implicit denial is to be explained with."""

_TABLE = "envoy.config.route.v3.RouteConfiguration"
_MAX_CONSIDERED = 20
"""How many policies an implicit denial names."""

TLS_INSPECTOR = extension(
    "envoy.filters.listener.tls_inspector",
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
)

_KEEPALIVE_TIMEOUT = 1.0
"""Idle HTTP/1 connections to the application are dropped before common servers drop them (Node and uvicorn: 5 s)."""


def listener(inbound: Inbound, seat: Seat, port: SeatPort) -> Blob:
    """Return the listener through which calls to one application port arrive."""
    name = f"inbound/{port.app_port}"
    policies = _enforced(inbound)
    mode = dict(inbound.port_mtls).get(port.app_port, inbound.mtls)
    spoken = _spoken(inbound.ports, port)
    tls = _chain("mtls", _filters(seat, port, spoken, policies, is_mtls=True), _tls_socket(spoken.protocol))
    plain = _chain("plaintext", _filters(seat, port, spoken, policies, is_mtls=False), RAW_BUFFER)
    body: dict[str, Json] = {
        "name": name,
        "address": address(seat.bind, port.mesh_port, seat.namespace_path),
        "traffic_direction": "INBOUND",
        **edge.LISTENER,
        **_chains(mode, tls, plain),
    }
    return framing.blob(types.LISTENER, name, encode(LISTENER, body), refs_of(_origins(inbound)))


def clusters(inbound: Inbound, seat: Seat, port: SeatPort) -> tuple[Blob, ...]:
    """Return the clusters of one application port: one, and for HTTP a second that speaks HTTP/2 to it, for gRPC."""
    name = f"inbound/{port.app_port}"
    match _protocol(inbound.ports, port):
        case Protocol.TCP:
            return (_cluster(name, seat, port, None),)
        case Protocol.HTTP2 | Protocol.GRPC:
            return (_cluster(name, seat, port, _HTTP_2),)
        case Protocol.HTTP:
            return (_cluster(name, seat, port, _HTTP_1), _cluster(f"{name}/h2", seat, port, _HTTP_2))


_HTTP_1: Body = {
    "common_http_protocol_options": {"idle_timeout": _KEEPALIVE_TIMEOUT, "max_headers_count": 200},
    "explicit_http_config": {"http_protocol_options": {}},
}
_HTTP_2: Body = {
    "common_http_protocol_options": {"idle_timeout": edge.IDLE_TIMEOUT, "max_headers_count": 200},
    "explicit_http_config": {"http2_protocol_options": {"allow_connect": True, "max_concurrent_streams": 100}},
}


def _protocol(ports: Iterable[InboundPort], port: SeatPort) -> Protocol:
    """What is spoken on a port; one that no Service points at is bytes."""
    return _spoken(ports, port).protocol


def _spoken(ports: Iterable[InboundPort], port: SeatPort) -> InboundPort:
    unknown = InboundPort(target=port.app_port, protocol=Protocol.TCP)
    return next((each for each in ports if each.target in {port.app_port, port.name}), unknown)


def _origins(inbound: Inbound) -> tuple[Origin, ...]:
    return (*inbound.origins, *(origin for policy in inbound.policies for origin in policy.origins))


def _chains(mode: MtlsMode, tls: Body, plain: Body) -> Body:
    match mode:
        case MtlsMode.STRICT:
            return {"filter_chains": [tls]}
        case MtlsMode.DISABLE:
            return {"filter_chains": [plain]}
        case MtlsMode.PERMISSIVE:
            chains = [
                {**tls, "filter_chain_match": {"transport_protocol": "tls"}},
                {**plain, "filter_chain_match": {"transport_protocol": "raw_buffer"}},
            ]
            # A plaintext caller that waits for the server to speak first is let through when the inspector gives up.
            more: Body = {"listener_filters": [TLS_INSPECTOR], "continue_on_listener_filters_timeout": True}
            return {**more, "filter_chains": chains}


def _chain(name: str, filters: list[Body], socket: Body) -> Body:
    return {"name": name, "filters": filters, "transport_socket": socket}


def _tls_socket(protocol: Protocol) -> Body:
    """Mutual TLS, in which a caller without a certificate from a trusted root never finishes the handshake."""
    context: Body = {
        "tls_params": TLS_1_3,
        "alpn_protocols": ["h2", "http/1.1"] if protocol.is_http else [],
        "tls_certificate_sds_secret_configs": [{"name": secret.CERTIFICATE, "sds_config": ADS_WAIT}],
        "validation_context_sds_secret_config": {"name": secret.ROOTS, "sds_config": ADS_WAIT},
    }
    body: Body = {"require_client_certificate": True, "common_tls_context": context}
    return {"name": "envoy.transport_sockets.tls", "typed_config": any_of(_TLS, body)}


def _filters(
    seat: Seat, port: SeatPort, spoken: InboundPort, policies: tuple[Policy, ...], *, is_mtls: bool
) -> list[Body]:
    name = f"inbound/{port.app_port}"
    destination = f"inbound/{seat.workload}/{port.app_port}"
    if not spoken.protocol.is_http:
        logs = reports.inbound_tcp(destination, rbac.NETWORK_FILTER)
        judges = rbac.network_filters(policies, port.app_port)
        return [
            *judges,
            tcp_proxy(name, ((name, 1),), logs, edge.MAX_CONNECTION_AGE, **(_AFTER_DATA if judges else {})),
        ]
    logs = reports.inbound_http(destination, rbac.HTTP_FILTER)
    manager = connection_manager(
        name,
        by_table(name),
        (*((_SERVICE_TIME,) if is_mtls else ()), *rbac.HTTP_FILTERS, *concurrency.filters(spoken.concurrency)),
        logs,
        router=ROUTER,
        early_header_mutation_extensions=_VOICES,
        # The caller's verified identity replaces whatever a header claims; a plaintext caller has none.
        forward_client_cert_details="SANITIZE_SET" if is_mtls else "SANITIZE",
        set_current_client_cert_details={"uri": True} if is_mtls else None,
        local_reply_config={"mappers": _replies(spoken, is_mtls=is_mtls)},
    )
    return [manager]


_SERVICE_TIME = reports.service_time()
"""First of the chain, so that it is the last to touch an answer; only a caller that proved who it is learns it."""

_AFTER_DATA: dict[str, Json] = {"upstream_connect_mode": "ON_DOWNSTREAM_DATA", "max_early_data_bytes": 16 * 1024}
"""Envoy judges a connection at its first byte, so until then the application, which may speak first, is not asked.

A server that speaks first is therefore not served on a port that policies guard: silence, and not its greeting.
"""


def tables(inbound: Inbound, seat: Seat, port: SeatPort) -> tuple[Blob, ...]:
    """Return the table of routes of one application port, with the policies that hold there; none for TCP.

    Everything goes to the application; on an HTTP port gRPC is told by its content type, for it needs HTTP/2.
    """
    name, protocol = f"inbound/{port.app_port}", _protocol(inbound.ports, port)
    if not protocol.is_http:
        return ()
    spoken = _spoken(inbound.ports, port)
    idle, stream_idle = spoken.idle_timeout, spoken.stream_idle_timeout
    idempotent: Body = {"name": ":method", "string_match": {"safe_regex": {"regex": "|".join(IDEMPOTENT)}}}
    routes = [
        _route(f"{name}/h2" if protocol is Protocol.HTTP else name, {"prefix": "/", "grpc": {}}, (), stream_idle),
        _route(name, {"prefix": "/", "headers": [UPGRADES]}, (), stream_idle),
        _route(name, {"prefix": "/", "headers": [idempotent]}, ("reset",), idle),
        _route(name, {"prefix": "/"}, (), idle),
    ]
    policies = _enforced(inbound)
    said: Body = {"filter_metadata": {_METADATA: {_IMPLICIT: _implicit_denial(seat, policies)}}}
    body: Body = {
        "name": name,
        "virtual_hosts": [
            {"name": name, "domains": ["*"], "routes": [{**route, "metadata": said} for route in routes]}
        ],
        "typed_per_filter_config": rbac.http_rules(policies, port.app_port),
        "request_headers_to_remove": INTERNAL_HEADERS,
        # An application cannot claim that it was not reached, nor name a rule, nor say what it took.
        "response_headers_to_remove": [UNREACHED, DENIED, stats.SERVICE_HEADER],
    }
    return (framing.blob(types.ROUTES, name, encode(_TABLE, body), refs_of(_origins(inbound))),)


def _enforced(inbound: Inbound) -> tuple[Policy, ...]:
    return tuple(policy for policy in inbound.policies if policy.decision is not Decision.AUDIT)


def _route(cluster: str, match: Body, conditions: tuple[str, ...], idle_timeout: float) -> Body:
    """Callers decide how long to wait. What the application never saw is sent again once; so is a call without effect
    whose connection the application closed while it was idle, which it could not know of."""
    retry: Body = {
        "retry_on": ",".join(("connect-failure", "refused-stream", "reset-before-request", *conditions)),
        "num_retries": 1,
        "retry_back_off": {"base_interval": 0.005, "max_interval": 0.05},
    }
    action: Body = {"cluster": cluster, "timeout": 0, "idle_timeout": idle_timeout, "retry_policy": retry}
    return {"match": match, "route": action}


def _implicit_denial(seat: Seat, policies: tuple[Policy, ...]) -> str:
    allowing = [policy.name for policy in policies if policy.decision is Decision.ALLOW]
    names = ", ".join(allowing[:_MAX_CONSIDERED]) + (", ..." if len(allowing) > _MAX_CONSIDERED else "")
    return f"no ALLOW policy of {seat.workload} matches; considered: {names}"


def _reply(condition: Body, header: str, value: str) -> Body:
    option = {"header": {"key": header, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    return {"filter": condition, "headers_to_add": [option]}


_DENIALS = (
    _reply(reports.refused_by_rule(rbac.HTTP_FILTER), DENIED, reports.rule_of(rbac.HTTP_FILTER)),
    _reply(reports.refused_by_none(rbac.HTTP_FILTER), DENIED, f"%METADATA(ROUTE:{_METADATA}:{_IMPLICIT})%"),
)
"""Say which rule refused: the DENY rule that matched, or that no ALLOW policy did, and which there were."""


def _replies(spoken: InboundPort, *, is_mtls: bool) -> list[Body]:
    """What is added to answers that are the proxy's own."""
    refused = (_REFUSED_REPLY,) if spoken.concurrency.enabled else ()
    return [*(_DENIALS if is_mtls else ()), _UNREACHED_REPLY, *refused]


_REFUSED_REPLY = _reply(concurrency.REFUSED, UNREACHED, "1")
"""There are as many requests as the instance can carry: nothing was sent, either."""

_UNREACHED_REPLY = _reply({"response_flag_filter": {"flags": ["UF", "UO"]}}, UNREACHED, "1")
"""The application refused the connection, or had too many: nothing was sent, so a caller may ask another instance."""


def _cluster(name: str, seat: Seat, port: SeatPort, options: Body | None) -> Blob:
    endpoint = {"endpoint": {"address": address(seat.app_address, port.app_port)}}
    body: dict[str, Json] = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": 1,
        "per_connection_buffer_limit_bytes": edge.BUFFER_BYTES,
        "circuit_breakers": {"thresholds": [_UNLIMITED]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if seat.namespace_path:
        source = {"address": "127.0.0.1", "port_value": 0, "network_namespace_filepath": seat.namespace_path}
        body["upstream_bind_config"] = {"source_address": source}
    if options is not None:
        body["typed_extension_protocol_options"] = {_HTTP_OPTIONS: any_of(_HTTP_OPTIONS, options)}
    return framing.blob(types.CLUSTER, name, encode(CLUSTER, body))


_UNLIMITED: Body = {
    "max_connections": 1_000_000,
    "max_pending_requests": 1_000_000,
    "max_requests": 1_000_000,
    "max_retries": 100,
}
"""Callers limit themselves; between a proxy and its own application nothing is refused that they let pass."""
