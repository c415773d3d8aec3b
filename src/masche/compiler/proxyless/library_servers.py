"""Encode how the library receives calls to one port of the application, in the shape of gRFC A36 and A41.

Chains of filters say which connections are taken: mutual TLS (STRICT), plaintext (DISABLE), or each by its own chain
(PERMISSIVE). In all of them stands the same: who is denied, then who is allowed, then limits of requests in a time,
then that of requests at a time, then the application. Invariant: under STRICT there is no chain that reads plaintext.
"""

from functools import lru_cache

from masche.compiler.envoy import concurrency, limits, rbac
from masche.compiler.envoy.clusters import RAW_BUFFER
from masche.compiler.envoy.inbound import chosen
from masche.compiler.envoy.managers import ROUTER
from masche.compiler.envoy.parts import address, extension, refs_of
from masche.compiler.proxyless.grpc_clusters import PROVIDER, TLS
from masche.model.blob import Blob
from masche.model.limits import Limit
from masche.model.told import SERVER_LISTENER
from masche.model.vantage import Seat, SeatPort
from masche.model.view import Decision, Inbound, InboundPort, MtlsMode, Policy, Protocol
from masche.wire import framing, types
from masche.wire.decode import servers as words
from masche.wire.messages import Body, Json, encode

LISTENER = "envoy.config.listener.v3.Listener"
MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_TLS = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC"


def listener(inbound: Inbound, seat: Seat, port: SeatPort) -> Blob:
    """Return the Listener of one port of the application."""
    mode = dict(inbound.port_mtls).get(port.app_port, inbound.mtls)
    policies = tuple(each for each in inbound.policies if each.decision is not Decision.AUDIT)
    rules = (*inbound.policies, *inbound.limits)
    origins = (*inbound.origins, *(origin for rule in rules for origin in rule.origins))
    spoken = next((each for each in inbound.ports if each.target in {port.app_port, port.name}), None)
    name = SERVER_LISTENER % port.app_port
    body: Body = {
        "name": name,
        "address": address(seat.bind, port.app_port),
        "traffic_direction": "INBOUND",
        "filter_chains": _chains(mode, _manager(policies, inbound.limits, port.app_port, spoken or _unknown(port))),
    }
    return framing.blob(types.LISTENER, name, encode(LISTENER, body), refs_of(origins))


def _unknown(port: SeatPort) -> InboundPort:
    """A port that no Service points at; the library is there for HTTP alone."""
    return InboundPort(target=port.app_port, protocol=Protocol.HTTP)


def _chains(mode: MtlsMode, manager: Body) -> list[Body]:
    tls: Body = {"name": "mtls", "filters": [manager], "transport_socket": extension(TLS, _TLS, _MUTUAL)}
    plain: Body = {"name": "plaintext", "filters": [manager], "transport_socket": RAW_BUFFER}
    return chosen(mode, tls, plain)


_MUTUAL: Body = {
    "require_client_certificate": True,
    "common_tls_context": {
        "tls_certificate_provider_instance": PROVIDER,
        "validation_context": {"ca_certificate_provider_instance": PROVIDER},
    },
}


@lru_cache(maxsize=16_384)
def _manager(policies: tuple[Policy, ...], counted: tuple[Limit, ...], port: int, spoken: InboundPort) -> Body:
    judges = [
        extension(f"masche.{name}", _RBAC, {"rules": rules})
        for name, rules in zip(
            ("deny", "allow"), rbac.rules(policies, port, is_http=spoken.protocol.is_http), strict=True
        )
        if rules
    ]
    filters: list[Json] = [*judges, *limits.alone(counted), *concurrency.filters(spoken.concurrency), ROUTER]
    table: Body = {"name": "inbound", "virtual_hosts": [_everything(policies, spoken)]}
    body: Body = {"stat_prefix": "inbound", "route_config": table, "http_filters": filters}
    return extension("envoy.filters.network.http_connection_manager", MANAGER, body)


def _everything(policies: tuple[Policy, ...], spoken: InboundPort) -> Body:
    """The one route: every request is the application's. What xDS has no field for is remarked on it."""
    allowing = [each.name for each in policies if each.decision is Decision.ALLOW]
    remarks: Body = {
        words.PROTOCOL: spoken.protocol.value,
        words.IDLE: repr(spoken.idle_timeout),
        words.STREAM_IDLE: repr(spoken.stream_idle_timeout),
        words.ALLOWING: "\n".join(allowing),
    }
    route: Body = {
        "name": "inbound",
        "match": {"prefix": "/"},
        "metadata": {"filter_metadata": {words.METADATA: remarks}},
        "non_forwarding_action": {},
    }
    return {"name": "inbound", "domains": ["*"], "routes": [route]}
