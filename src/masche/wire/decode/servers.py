"""Decode a server's Listener (gRFC A36): mutual TLS or not, and who may call (gRFC A41).

One chain of filters for mutual TLS is STRICT, one for plaintext DISABLE, and one for each PERMISSIVE. Invariant: both
chains judge alike, and every request is the application's; whoever wants it otherwise is refused.
"""

from typing import Any

from masche.model.calling import UNLIMITED, AdaptiveConcurrency
from masche.model.limits import Limit
from masche.model.told import ToldServer
from masche.model.view import Decision, Inbound, InboundPort, MtlsMode, Policy, Protocol
from masche.wire.decode import limits, managers, rbac, tls
from masche.wire.decode.reading import only, seconds, seconds_or, unpacked, value_or
from masche.wire.framing import WireError

METADATA, ALLOWING, PROTOCOL, IDLE, STREAM_IDLE = "masche", "allowing", "protocol", "idle", "stream_idle"
"""What our own control plane remarks on the route of a server."""

_CHAIN = frozenset({"name", "filters", "filter_chain_match", "transport_socket", "transport_socket_connect_timeout"})
_LISTENER = frozenset(
    {
        "name", "address", "filter_chains", "default_filter_chain", "listener_filters", "traffic_direction",
        "per_connection_buffer_limit_bytes", "listener_filters_timeout", "continue_on_listener_filters_timeout",
        "metadata", "stat_prefix", "enable_reuse_port", "access_log", "bind_to_port", "tcp_keepalive",
        "max_connections_to_accept_per_socket_event",
    }
)  # fmt: skip
_INSPECTOR = "envoy.filters.listener.tls_inspector"
_RBAC = managers.RBAC
_ROUTE = frozenset({"name", "match", "non_forwarding_action", "decorator", "metadata"})
_TABLE = frozenset({"name", "virtual_hosts", "validate_clusters"})


def server(message: Any, name: str) -> ToldServer:
    """Return how calls to one port are received."""
    only(message, name, _LISTENER)
    for each in message.listener_filters:
        if each.name != _INSPECTOR:
            raise WireError(f"{name}: the listener filter {each.name!r} is not carried out here")
    chains = list(message.filter_chains)
    if message.HasField("default_filter_chain"):
        chains.append(message.default_filter_chain)
    by_mode = [_chain(each, f"{name}/{each.name or index}") for index, each in enumerate(chains)]
    port = message.address.socket_address.port_value
    if not by_mode or any(received != by_mode[0][1] for _, received in by_mode):
        raise WireError(f"{name}: chains that receive calls differently are not carried out here")
    spoken, policies, counted = by_mode[0][1]
    inbound = Inbound(
        mtls=_mode([kind for kind, _ in by_mode], name), ports=(_at(spoken, port),), policies=policies, limits=counted
    )
    return ToldServer(name=name, inbound=inbound, port=port)


_Received = tuple[InboundPort, tuple[Policy, ...], tuple[Limit, ...]]


def _at(spoken: InboundPort, port: int) -> InboundPort:
    return InboundPort(
        target=port,
        protocol=spoken.protocol,
        idle_timeout=spoken.idle_timeout,
        stream_idle_timeout=spoken.stream_idle_timeout,
        concurrency=spoken.concurrency,
    )


def _mode(kinds: list[tuple[bool, str]], where: str) -> MtlsMode:
    """Say what the chains come to: (is it mutual TLS, which transport is it for)."""
    match sorted(kinds):
        case [(True, "" | "tls")]:
            return MtlsMode.STRICT
        case [(False, "" | "raw_buffer")]:
            return MtlsMode.DISABLE
        case [(False, "" | "raw_buffer"), (True, "" | "tls")] if {"raw_buffer", "tls"} & {kind for _, kind in kinds}:
            return MtlsMode.PERMISSIVE
        case _:
            raise WireError(f"{where}: which of the chains takes a connection is not decided here")


def _chain(message: Any, where: str) -> tuple[tuple[bool, str], _Received]:
    only(message, where, _CHAIN)
    only(message.filter_chain_match, f"{where}.filter_chain_match", {"transport_protocol"})
    transport = message.filter_chain_match.transport_protocol
    if len(message.filters) != 1:
        raise WireError(f"{where}: a chain has one network filter, which reads requests")
    manager = unpacked(message.filters[0].typed_config, managers.MANAGER)
    managers.check(manager, where)
    is_mutual = tls.is_mutual(message.transport_socket, f"{where}.transport_socket")
    return (is_mutual, transport), _received(manager, where)


def _received(manager: Any, where: str) -> _Received:
    remarks = _everything(manager, where)
    policies: list[Policy] = []
    counted: list[Limit] = []
    concurrency = UNLIMITED
    for kind, packed in managers.filters(manager, where):
        if kind == _RBAC:
            made = _judge(unpacked(packed, _RBAC), f"rbac[{len(policies)}]", where)
            policies += () if made is None else (made,)
        elif kind == managers.LIMIT:
            limit = limits.limit(unpacked(packed, kind), f"{where} limit[{len(counted)}]")
            counted += () if limit is None else (limit,)
        elif kind == managers.CONCURRENCY:
            concurrency = _concurrency(unpacked(packed, kind), where)
        else:
            raise WireError(f"{where}: {kind} is not carried out by a server here")
    spoken = InboundPort(
        target=0,
        protocol=_protocol(remarks.get(PROTOCOL, ""), where),
        idle_timeout=_number(remarks.get(IDLE, ""), seconds_or(manager, "stream_idle_timeout", 300.0, where), where),
        stream_idle_timeout=_number(remarks.get(STREAM_IDLE, ""), 0.0, where),
        concurrency=concurrency,
    )
    allowing = tuple(filter(None, remarks.get(ALLOWING, "").split("\n")))
    judging = tuple(one for each in _checked(policies, where) for one in rbac.by_name(each, allowing))
    return spoken, judging, tuple(counted)


def _checked(policies: list[Policy], where: str) -> list[Policy]:
    """A call passes that all filters let pass, but of several ALLOW policies one would be enough."""
    if sum(each.decision is Decision.ALLOW for each in policies) > 1:
        raise WireError(f"{where}: several RBAC filters that allow are not carried out here")
    return policies


def _judge(message: Any, name: str, where: str) -> Policy | None:
    only(
        message,
        where,
        {"rules", "rules_stat_prefix", "shadow_rules", "shadow_rules_stat_prefix", "track_per_rule_stats"},
    )
    return rbac.policy(message.rules, name, f"{where} {name}") if message.HasField("rules") else None


def _everything(manager: Any, where: str) -> dict[str, str]:
    """Check that every request is the application's, and return what is remarked on the way to it."""
    if manager.WhichOneof("route_specifier") != "route_config":
        raise WireError(f"{where}: a server's routes stand in its Listener")
    table = manager.route_config
    only(table, where, _TABLE)
    if len(table.virtual_hosts) != 1 or len(table.virtual_hosts[0].routes) != 1:
        raise WireError(f"{where}: a server has one route, which takes every request")
    host, route = table.virtual_hosts[0], table.virtual_hosts[0].routes[0]
    only(host, where, {"name", "domains", "routes"})
    only(route, where, _ROUTE)
    only(route.match, where, {"prefix", "case_sensitive"})
    if (
        list(host.domains) != ["*"]
        or route.match.prefix not in {"", "/"}
        or not route.HasField("non_forwarding_action")
    ):
        raise WireError(f"{where}: a server has one route, which takes every request")
    return {
        name: value.string_value
        for key, struct in route.metadata.filter_metadata.items()
        if key == METADATA
        for name, value in struct.fields.items()
    }


def _protocol(text: str, where: str) -> Protocol:
    try:
        return Protocol(text) if text else Protocol.HTTP
    except ValueError as error:
        raise WireError(f"{where}: {error}") from error


def _number(text: str, default: float, where: str) -> float:
    try:
        return float(text) if text else default
    except ValueError as error:
        raise WireError(f"{where}: {error}") from error


def _concurrency(message: Any, where: str) -> AdaptiveConcurrency:
    """The limit that an instance finds for itself; how it is found is our own affair."""
    limits, measuring = (
        message.gradient_controller_config.concurrency_limit_params,
        message.gradient_controller_config.min_rtt_calc_params,
    )
    fixed = seconds(measuring.fixed_value, where) if measuring.HasField("fixed_value") else 0.0
    most = value_or(limits, "max_concurrency_limit", 1000)
    return AdaptiveConcurrency(enabled=True, max_concurrency=most, base_latency=fixed)
