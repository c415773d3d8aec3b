"""Encode how a gRPC server without a proxy receives calls: mutual TLS, then who may call, then the application.

gRFC A36: a server asks for a Listener by the address on which it listens, and it must be told that same address; which
one that is the application decides, so there is one for each that it may have chosen. Invariant: under STRICT and
under PERMISSIVE nobody gets in without a certificate of the mesh, for gRPC cannot tell plaintext from TLS at its door.
"""

from collections.abc import Iterator
from dataclasses import replace

from masche.compiler.envoy import conditions, rbac
from masche.compiler.envoy.parts import address, extension, refs_of, regex
from masche.compiler.envoy.parts import escaped as literally
from masche.compiler.proxyless.grpc_clusters import PROVIDER, TLS
from masche.compiler.proxyless.grpc_routes import HCM, LISTENER, ROUTER
from masche.model.blob import Blob
from masche.model.vantage import Seat, SeatPort
from masche.model.view import (
    Attribute,
    Condition,
    Decision,
    Inbound,
    MtlsMode,
    Pattern,
    PatternKind,
    Policy,
    Rule,
)
from masche.traffic.patterns import ONE, REST
from masche.wire import framing, types
from masche.wire.messages import Body, Json, encode

NAME = "grpc/server?xds.resource.listening_address={}"
"""How a bootstrap of ours asks for a server's Listener; gRPC puts the address in place of its ``%s``."""

_TLS = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
_RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC"
_ANYWHERE = ("0.0.0.0", "127.0.0.1", "::", "::1")  # noqa: S104 - what an application may have chosen, not we
_UNSEEN = ("grpc-", ":scheme")
"""Beginnings of headers that gRPC keeps to itself: a rule on one of them makes it refuse a whole Listener (A41)."""

_BINARY = "-bin"
"""The end of names whose values gRPC decodes before a rule sees them, so that what was written never matches."""


def listeners(inbound: Inbound, seat: Seat) -> Iterator[Blob]:
    """Yield the Listeners of every port of the application, one for each address that it may listen on."""
    refs = refs_of((*inbound.origins, *(origin for policy in inbound.policies for origin in policy.origins)))
    for port in seat.ports:
        received = _received(inbound, port)
        for host in dict.fromkeys((seat.bind, *_ANYWHERE)):
            name = NAME.format(f"[{host}]:{port.app_port}" if ":" in host else f"{host}:{port.app_port}")
            body: Body = {"name": name, "address": address(host, port.app_port), **received}
            yield framing.blob(types.LISTENER, name, encode(LISTENER, body), refs)


def _received(inbound: Inbound, port: SeatPort) -> Body:
    mode = dict(inbound.port_mtls).get(port.app_port, inbound.mtls)
    chain: dict[str, Json] = {"name": "inbound", "filters": [_manager(inbound, port)]}
    if mode is not MtlsMode.DISABLE:
        chain["transport_socket"] = extension(TLS, _TLS, _MUTUAL)
    return {"filter_chains": [chain]}


_MUTUAL: Body = {
    "require_client_certificate": True,
    "common_tls_context": {
        "tls_certificate_provider_instance": PROVIDER,
        "validation_context": {"ca_certificate_provider_instance": PROVIDER},
    },
}


def _manager(inbound: Inbound, port: SeatPort) -> Body:
    """Whoever denies stands before whoever allows, and both before the application."""
    everything: Body = {"name": "inbound", "match": {"prefix": "/"}, "non_forwarding_action": {}}
    table: Body = {"name": "inbound", "virtual_hosts": [{"name": "inbound", "domains": ["*"], "routes": [everything]}]}
    judges = [extension(f"masche.{name}", _RBAC, {"rules": rules}) for name, rules in _judges(inbound, port) if rules]
    manager: Body = {"stat_prefix": "inbound", "route_config": table, "http_filters": [*judges, ROUTER]}
    return extension("envoy.filters.network.http_connection_manager", HCM, manager)


def _judges(inbound: Inbound, port: SeatPort) -> Iterator[tuple[str, Body | None]]:
    policies = tuple(visible(each) for each in inbound.policies)
    deny, allow = rbac.rules(policies, port.app_port, is_http=True, encode=_permission)
    yield from (("deny", deny), ("allow", allow))


def visible(policy: Policy) -> Policy:
    """Leave out what gRPC shows to no policy: an ALLOW rule that asks for it never matches, a DENY forgets it."""
    is_deny = policy.decision is Decision.DENY
    rules = (_visible(each, is_deny=is_deny) for each in policy.rules)
    return replace(policy, rules=tuple(each for each in rules if each is not None))


def _visible(rule: Rule, *, is_deny: bool) -> Rule | None:
    seen = tuple(each for each in rule.when if not is_unseen(each))
    if len(seen) == len(rule.when):
        return rule
    return replace(rule, when=seen) if is_deny else None


def is_unseen(condition: Condition) -> bool:
    """Say whether gRPC keeps this header to itself, or shows it in another form."""
    name = condition.name
    return condition.attribute is Attribute.HEADER and (name.startswith(_UNSEEN) or name.endswith(_BINARY))


def _permission(condition: Condition) -> Body:
    """As for a proxy, but that templates of paths are regular expressions."""
    if condition.attribute is not Attribute.PATH:
        return conditions.permission(condition)
    return conditions.combined(condition, _path, ("or_rules", "and_rules", "rules", "not_rule"))


def _path(pattern: Pattern) -> Body:
    if pattern.kind is not PatternKind.TEMPLATE:
        return {"url_path": {"path": conditions.string(pattern)}}
    return {"url_path": {"path": {"safe_regex": regex(template(pattern.value))}}}


def template(text: str) -> str:
    """Return Istio's template of paths as a regular expression: ``{*}`` a segment, ``{**}`` whatever comes."""
    head, rest, tail = text.partition(REST)
    stem = "/".join("[^/]+" if part == ONE else literally(part) for part in head.split("/"))
    return stem + (".*" + literally(tail) if rest else "")
