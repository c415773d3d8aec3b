"""Encode how calls to a workload are received: one listener per application port, and the clusters behind it.

Order of a request: mutual TLS (who calls), connection manager (one spelling of path and headers), RBAC that denies,
RBAC that allows, limits of requests in a time (of what is allowed), the limit of requests at a time (what is refused
does not count), router to the application. Policies
on requests come with a table of routes (``inbound/<port>``), so that a change holds from the next request on, on
connections too that are open already. Invariant: under STRICT there is no filter chain that reads plaintext, and only
the mutual-TLS chain ever says which rule refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address

from masche.compiler.envoy import concurrency, edge, limits, peer, rbac, reports
from masche.compiler.envoy.clusters import CLUSTER, RAW_BUFFER, TLS_1_3
from masche.compiler.envoy.managers import ROUTER, by_table, connection_manager, tcp_proxy
from masche.compiler.envoy.matches import IDEMPOTENT, UPGRADES
from masche.compiler.envoy.parts import (
    ADS_WAIT,
    INTERNAL_HEADERS,
    address,
    extension,
    header,
    literal,
    refs_of,
    without_headers,
)
from masche.compiler.envoy.retries import UNREACHED
from masche.compiler.envoy.seated import Seated
from masche.model.blob import Blob
from masche.model.refs import Ref
from masche.model.vantage import Seat, SeatPort
from masche.model.view import Decision, Inbound, InboundPort, MtlsMode, Policy, Protocol
from masche.wire import framing, secret, stats, types
from masche.wire.messages import Body, Json, any_of, encode

LISTENER = "envoy.config.listener.v3.Listener"
_TLS = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_MUTATION_FILTER = "envoy.filters.http.header_mutation"
_MUTATION = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"

DENIED = limits.DENIED

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


class Known(Enum):
    """How a caller is known: by the certificate that it shows, by its network namespace, or not at all."""

    BY_CERTIFICATE = "certificate"
    BY_NAMESPACE = "namespace"
    NOT_AT_ALL = "nobody"

    @property
    def peer(self) -> str:
        """The format that says who calls; nobody has no name."""
        return peer.PEER_VALUE if self is Known.BY_NAMESPACE else reports.CERTIFIED


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One application port of one seat, and how calls to it are received."""

    inbound: Inbound
    seat: Seat
    port: SeatPort
    seated: Seated
    identity: str

    @property
    def name(self) -> str:
        """Of its listener, its cluster and its table of routes."""
        return self.seated.inbound(self.port.app_port)

    @property
    def destination(self) -> str:
        """How statistics name it."""
        return f"inbound/{self.seat.workload}/{self.port.app_port}"

    @property
    def spoken(self) -> InboundPort:
        """What is spoken on it; on one that no Service points at it is bytes."""
        unknown = InboundPort(target=self.port.app_port, protocol=Protocol.TCP)
        wanted = {self.port.app_port, self.port.name}
        return next((each for each in self.inbound.ports if each.target in wanted), unknown)

    @property
    def mode(self) -> MtlsMode:
        """Whether callers must show a certificate."""
        return dict(self.inbound.port_mtls).get(self.port.app_port, self.inbound.mtls)

    @property
    def policies(self) -> tuple[Policy, ...]:
        """The policies that decide something."""
        return tuple(policy for policy in self.inbound.policies if policy.decision is not Decision.AUDIT)

    @property
    def refs(self) -> frozenset[Ref]:
        """The resources that all of this came from."""
        inbound = self.inbound
        rules = (*inbound.policies, *inbound.limits)
        return refs_of((*inbound.origins, *(origin for rule in rules for origin in rule.origins)))


def listener(served: Served) -> Blob:
    """Return the listener through which calls to one application port arrive."""
    body: dict[str, Json] = {
        "name": served.name,
        "address": address(served.seat.bind, served.port.mesh_port),
        "traffic_direction": "INBOUND",
        **edge.LISTENER,
        **_chains(served),
    }
    return framing.blob(types.LISTENER, served.name, encode(LISTENER, body), served.refs)


def clusters(served: Served) -> tuple[Blob, ...]:
    """Return the clusters of one application port: one, and for HTTP a second that speaks HTTP/2 to it, for gRPC."""
    name = served.name
    match served.spoken.protocol:
        case Protocol.TCP:
            return (_cluster(name, served, None),)
        case Protocol.HTTP2 | Protocol.GRPC:
            return (_cluster(name, served, _HTTP_2),)
        case Protocol.HTTP:
            return (_cluster(name, served, _HTTP_1), _cluster(f"{name}/h2", served, _HTTP_2))


_HTTP_1: Body = {
    "common_http_protocol_options": {"idle_timeout": _KEEPALIVE_TIMEOUT, "max_headers_count": 200},
    "explicit_http_config": {"http_protocol_options": {}},
}
_HTTP_2: Body = {
    "common_http_protocol_options": {"idle_timeout": edge.IDLE_TIMEOUT, "max_headers_count": 200},
    "explicit_http_config": {"http2_protocol_options": {"allow_connect": True, "max_concurrent_streams": 100}},
}


def _chains(served: Served) -> Body:
    """The filter chains of a mesh port."""
    match served.mode:
        case MtlsMode.PERMISSIVE:
            # A plaintext caller that waits for the server to speak first is let through when the inspector gives up.
            more: Body = {"listener_filters": [TLS_INSPECTOR], "continue_on_listener_filters_timeout": True}
            return {**more, "filter_chains": chains(served)}
        case _:
            return {"filter_chains": chains(served)}


def chains(served: Served) -> list[Body]:
    """Return the filter chains for callers from elsewhere; to tell them apart, PERMISSIVE needs the TLS inspector."""
    tls = {**_chain("mtls", served, Known.BY_CERTIFICATE), "transport_socket": _tls_socket(served)}
    plain = {**_chain("plaintext", served, Known.NOT_AT_ALL), "transport_socket": RAW_BUFFER}
    return chosen(served.mode, tls, plain)


def chosen(mode: MtlsMode, tls: Body, plain: Body) -> list[Body]:
    """Return those of two filter chains that a port has in a mode."""
    match mode:
        case MtlsMode.STRICT:
            return [tls]
        case MtlsMode.DISABLE:
            return [plain]
        case MtlsMode.PERMISSIVE:
            return [
                {**tls, "filter_chain_match": {"transport_protocol": "tls"}},
                {**plain, "filter_chain_match": {"transport_protocol": "raw_buffer"}},
            ]


def _chain(name: str, served: Served, known: Known) -> Body:
    return {"name": name, "filters": filters(served, known)}


def _tls_socket(served: Served) -> Body:
    """Mutual TLS, in which a caller without a certificate from a trusted root never finishes the handshake."""
    context: Body = {
        "tls_params": TLS_1_3,
        "alpn_protocols": ["h2", "http/1.1"] if served.spoken.protocol.is_http else [],
        **peer.served_certificate(served.seated),
        "validation_context_sds_secret_config": {"name": secret.ROOTS, "sds_config": ADS_WAIT},
    }
    tickets: Body = peer.NO_TICKETS if served.seated.is_shared else {}
    body: Body = {"require_client_certificate": True, "common_tls_context": context, **tickets}
    return {"name": "envoy.transport_sockets.tls", "typed_config": any_of(_TLS, body)}


def filters(served: Served, known: Known) -> list[Body]:
    """Return the network filters that receive calls of those who are known so."""
    name, spoken = served.name, served.spoken
    said = (known.peer, served.seated.tag)
    if not spoken.protocol.is_http:
        logs = reports.inbound_tcp(served.destination, rbac.NETWORK_FILTER, *said)
        judges = rbac.network_filters(served.policies, served.port.app_port, is_shared=served.seated.is_shared)
        return [
            *judges,
            tcp_proxy(name, ((name, 1),), logs, edge.MAX_CONNECTION_AGE, **(_AFTER_DATA if judges else {})),
        ]
    logs = (
        *reports.inbound_http(served.destination, rbac.HTTP_FILTER, *said),
        *limits.logs(served.inbound.limits, served.destination, *said),
    )
    counted = limits.filters(served.inbound.limits, is_told=known is not Known.NOT_AT_ALL)
    manager = connection_manager(
        name,
        by_table(name),
        (*_introduction(served, known), *rbac.HTTP_FILTERS, *counted, *concurrency.filters(spoken.concurrency)),
        logs,
        router=ROUTER,
        early_header_mutation_extensions=_VOICES,
        # The caller's verified identity replaces whatever a header claims; a plaintext caller has none.
        forward_client_cert_details="SANITIZE_SET" if known is Known.BY_CERTIFICATE else "SANITIZE",
        set_current_client_cert_details={"uri": True} if known is Known.BY_CERTIFICATE else None,
        local_reply_config={"mappers": _replies(spoken, known)},
    )
    return [manager]


def _introduction(served: Served, known: Known) -> tuple[Body, ...]:
    """First of the chain, so that it is the last to touch an answer: a caller that showed a certificate learns what the
    application took. One of the same proxy need not be told, for all that it waits for is the application."""
    match known:
        case Known.BY_CERTIFICATE:
            return (_SERVICE_TIME,)
        case Known.BY_NAMESPACE:
            return (_introducing(served.identity),)
        case Known.NOT_AT_ALL:
            return ()


@lru_cache(maxsize=4_096)
def _introducing(identity: str) -> Body:
    """Say of a caller of the same proxy what mutual TLS would have said of it, to the application at ``identity``."""
    said = {
        "x-forwarded-client-cert": f"By={literal(identity)};URI={peer.PEER_VALUE}",
        "x-forwarded-proto": "https",
    }
    changes: list[Json] = [
        {"append": header(name, value, "OVERWRITE_IF_EXISTS_OR_ADD")} for name, value in said.items()
    ]
    changes.append({"append": header("x-forwarded-for", peer.SOURCE_VALUE, "APPEND_IF_EXISTS_OR_ADD")})
    return extension(_MUTATION_FILTER, _MUTATION, {"mutations": {"request_mutations": changes}})


_SERVICE_TIME = extension(_MUTATION_FILTER, _MUTATION, {"mutations": {"response_mutations": [reports.SERVICE_TIME]}})
_AFTER_DATA: dict[str, Json] = {"upstream_connect_mode": "ON_DOWNSTREAM_DATA", "max_early_data_bytes": 16 * 1024}
"""Envoy judges a connection at its first byte, so until then the application, which may speak first, is not asked.

A server that speaks first is therefore not served on a port that policies guard: silence, and not its greeting.
"""


def tables(served: Served) -> tuple[Blob, ...]:
    """Return the table of routes of one application port, with the policies that hold there; none for TCP.

    Everything goes to the application; on an HTTP port gRPC is told by its content type, for it needs HTTP/2.
    """
    name, spoken, policies = served.name, served.spoken, served.policies
    if not spoken.protocol.is_http:
        return ()
    idle, stream_idle = spoken.idle_timeout, spoken.stream_idle_timeout
    idempotent: Body = {"name": ":method", "string_match": {"safe_regex": {"regex": "|".join(IDEMPOTENT)}}}
    grpc = f"{name}/h2" if spoken.protocol is Protocol.HTTP else name
    routes = [
        _route(grpc, {"prefix": "/", "grpc": {}}, (), stream_idle),
        _route(name, {"prefix": "/", "headers": [UPGRADES]}, (), stream_idle),
        _route(name, {"prefix": "/", "headers": [idempotent]}, ("reset",), idle),
        _route(name, {"prefix": "/"}, (), idle),
    ]
    said: Body = {"filter_metadata": {_METADATA: {_IMPLICIT: _implicit_denial(served.seat, policies)}}}
    body: Body = {
        "name": name,
        "virtual_hosts": [
            {"name": name, "domains": ["*"], "routes": [{**route, "metadata": said} for route in routes]}
        ],
        "typed_per_filter_config": {
            **rbac.http_rules(policies, served.port.app_port, is_shared=served.seated.is_shared),
            **limits.by_table(served.inbound.limits, is_shared=served.seated.is_shared),
        },
        "request_headers_to_remove": INTERNAL_HEADERS,
        # An application cannot claim that it was not reached, nor name a rule, nor say what it took.
        "response_headers_to_remove": [UNREACHED, DENIED, stats.SERVICE_HEADER],
    }
    return (framing.blob(types.ROUTES, name, encode(_TABLE, body), served.refs),)


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


def _replies(spoken: InboundPort, known: Known) -> list[Body]:
    """What is added to answers that are the proxy's own."""
    refused = (_REFUSED_REPLY,) if spoken.concurrency.enabled else ()
    return [*(() if known is Known.NOT_AT_ALL else _DENIALS), _UNREACHED_REPLY, *refused]


_REFUSED_REPLY = _reply(concurrency.REFUSED, UNREACHED, "1")
"""There are as many requests as the instance can carry: nothing was sent, either."""

_UNREACHED_REPLY = _reply({"response_flag_filter": {"flags": ["UF", "UO"]}}, UNREACHED, "1")
"""The application refused the connection, or had too many: nothing was sent, so a caller may ask another instance."""


def _cluster(name: str, served: Served, options: Body | None) -> Blob:
    seat = served.seat
    endpoint = {"endpoint": {"address": address(seat.app_address, served.port.app_port)}}
    body: dict[str, Json] = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": 1,
        "per_connection_buffer_limit_bytes": edge.BUFFER_BYTES,
        "circuit_breakers": {"thresholds": [_UNLIMITED]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if seat.namespace_path:
        anywhere = str(_ANY[ip_address(seat.app_address).version])
        source = {"address": anywhere, "port_value": 0, "network_namespace_filepath": seat.namespace_path}
        body["upstream_bind_config"] = {"source_address": source}
    if options is not None:
        body |= _watched(served.spoken.consecutive_errors)
        body["typed_extension_protocol_options"] = {_HTTP_OPTIONS: any_of(_HTTP_OPTIONS, options)}
    return framing.blob(types.CLUSTER, name, encode(CLUSTER, body))


def _watched(errors: int) -> Body:
    """Have Envoy say in its event log when the application failed so many requests in a row, whoever called; of what a
    gateway answers, which hardly depends on what was asked, ``_UNAVAILABLE`` are enough. Nobody is cut off by that:
    who else would answer? The agent asks the application, and tells its callers.
    """
    if not errors:
        return {}
    said: Body = {
        "consecutive_5xx": errors,
        "enforcing_consecutive_5xx": 0,
        "consecutive_gateway_failure": min(errors, _UNAVAILABLE),
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_success_rate": 0,
        # Or not even a thought would be said of the only one that there is.
        "max_ejection_percent": 100,
        "interval": _LOOKED_AFTER,
    }
    return {"outlier_detection": said}


_UNAVAILABLE = 3
_LOOKED_AFTER = 60
"""Seconds between looks for what is not used here: rare, so that an idle Envoy sleeps."""

_ANY: Mapping[int, str] = {4: "0.0.0.0", 6: "::"}  # noqa: S104 - whichever source the namespace gives, bound to nothing
"""What a connection into another network namespace is bound to: the namespace alone matters."""

_UNLIMITED: Body = {
    "max_connections": 1_000_000,
    "max_pending_requests": 1_000_000,
    "max_requests": 1_000_000,
    "max_retries": 100,
}
"""Callers limit themselves; between a proxy and its own application nothing is refused that they let pass."""
