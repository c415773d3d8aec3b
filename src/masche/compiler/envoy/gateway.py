"""Encode the listeners of a gateway: HTTP, and HTTPS with the certificate that the server name asks for.

Decided from the gateway listeners of a View and the ports of a Seat. Invariant: a gateway's table of routes is the same
whichever certificate was shown; the name in the request, not the one in the handshake, chooses the route. Policies are
asked first; they come with the table of routes, and to them nobody out there has an identity. Limits count what is
left, but for preflight requests of CORS, so that a browser can read that it was refused.
"""

from masche.compiler.envoy import edge, faults, limits, reports
from masche.compiler.envoy.inbound import LISTENER, TLS_INSPECTOR
from masche.compiler.envoy.managers import by_table, connection_manager
from masche.compiler.envoy.outbound import CORS
from masche.compiler.envoy.parts import ADS_WAIT, address, refs_of, without_headers
from masche.compiler.envoy.rbac import HTTP_FILTERS
from masche.compiler.faults import any_troubled
from masche.model.blob import Blob
from masche.model.limits import Limit
from masche.model.vantage import Seat
from masche.model.view import GatewayListener
from masche.wire import framing, types
from masche.wire.messages import Body, any_of, encode

_TLS = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"

_TLS_1_2: Body = {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}
"""Clients of the world outside; RFC 9325 still admits 1.2."""

_CLAIMS = without_headers("x-envoy-", "x-masche-", "x-forwarded-", "x-real-ip", "forwarded")
"""What proxies say of a caller. The gateway is the first of ours, so it believes none of it and says its own."""


def gateway_listener(
    source: GatewayListener, port: int, identity: str, seat: Seat, counted: tuple[Limit, ...] = ()
) -> Blob:
    """Return the listener of one port of a Gateway, bound to ``port``, where requests are ``counted``."""
    name = f"gateway/{source.port}"
    is_troubled = any(any_troubled(host.routes) for host in source.virtual_hosts)
    logs = reports.outbound_http(identity)
    filters = (*HTTP_FILTERS, CORS, *limits.filters(counted, is_told=False), *faults.filters(is_troubled=is_troubled))
    manager = connection_manager(name, by_table(name), filters, logs, early_header_mutation_extensions=_CLAIMS)
    body: Body = {
        "name": name,
        "address": address(seat.bind, port, seat.namespace_path),
        "traffic_direction": "INBOUND",
        **edge.LISTENER,
        **(_tls(source, manager) if source.is_tls else {"filter_chains": [{"name": "http", "filters": [manager]}]}),
    }
    origins = (*source.origins, *(origin for limit in counted for origin in limit.origins))
    return framing.blob(types.LISTENER, name, encode(LISTENER, body), refs_of(origins))


def _tls(source: GatewayListener, manager: Body) -> Body:
    """One filter chain per hostname of a certificate; several certificates of one hostname share theirs."""
    by_host: dict[str, list[str]] = {}
    for host, name in source.certificates:
        names = by_host.setdefault(host.lower() or "*", [])
        names += [name] if name not in names else []
    chains = [_chain(host, tuple(names), manager) for host, names in sorted(by_host.items())]
    return {"listener_filters": [TLS_INSPECTOR], "filter_chains": chains}


def _chain(host: str, names: tuple[str, ...], manager: Body) -> Body:
    context: Body = {
        "tls_params": _TLS_1_2,
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificate_sds_secret_configs": [{"name": name, "sds_config": ADS_WAIT} for name in names],
    }
    socket = {"name": "envoy.transport_sockets.tls", "typed_config": any_of(_TLS, {"common_tls_context": context})}
    match = {"transport_protocol": "tls", **({"server_names": [host]} if host != "*" else {})}
    return {"name": host, "filter_chain_match": match, "filters": [manager], "transport_socket": socket}
