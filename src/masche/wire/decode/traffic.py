"""Decode how the instances of a cluster are used: our own extension, or what the standard fields say of it.

Our control plane puts the whole effective TrafficPolicy into one extension, beside the standard fields. Where another
one drives us the extension is missing: what the standard fields say is taken from them, and our defaults hold for the
rest. Invariant: the extension says everything or is refused; half a policy is never mended with defaults.
"""

from dataclasses import replace
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from masche.model.calling import UNSAID, Algorithm, CircuitBreaker, OutlierEjection, RetryBudget, Traffic
from masche.model.view import Cluster, Protocol
from masche.wire.decode.reading import message_of, only, seconds_or, type_of, unpacked, value_or
from masche.wire.framing import WireError

if TYPE_CHECKING:
    from masche.wire.messages import Body  # the encoder of proxies' messages, which a decoder need not load

EXTENSION = "masche.dev/destination"
"""The key of our extension among ``Cluster.typed_extension_protocol_options``."""

TYPE_URL = "type.googleapis.com/masche.v1.Destination"
_TYPED_STRUCT = "xds.type.v3.TypedStruct"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class Used(NamedTuple):
    """How a cluster is used, what its instances speak, and who may carry us to them by a detour (SPIFFE IDs)."""

    traffic: Traffic
    protocol: Protocol
    has_library: bool = False
    east_west: tuple[str, ...] = ()


def extension(source: Cluster, east_west: tuple[str, ...] = ()) -> "Body":
    """Return the body of the extension's Any."""
    value = {
        "protocol": source.protocol.value,
        "has_library": source.has_library,
        "traffic": msgspec.to_builtins(source.traffic),
        **({"east_west": list(east_west)} if east_west else {}),
    }
    return {"@type": f"type.googleapis.com/{_TYPED_STRUCT}", "type_url": TYPE_URL, "value": value}


def used(cluster: Any, where: str) -> Used:
    """Return how a Cluster is used."""
    for name, packed in cluster.typed_extension_protocol_options.items():
        if name not in {EXTENSION, _HTTP_OPTIONS}:
            raise WireError(f"{where}.typed_extension_protocol_options[{name}] is not carried out here")
        if name == EXTENSION:
            return _extended(packed, f"{where}: the extension {EXTENSION}")
    return Used(_standard(cluster, where), _protocol(cluster, where))


def _extended(packed: Any, where: str) -> Used:
    struct = unpacked(packed, _TYPED_STRUCT)
    if struct.type_url != TYPE_URL:
        raise WireError(f"{where} is a {struct.type_url!r}")
    try:
        body = _fields(struct.value)
        traffic, protocol = body["traffic"], Protocol(body["protocol"])
        if missing := frozenset(Traffic.__dataclass_fields__) - traffic.keys():
            raise WireError(f"{where} says nothing of {min(missing)}")
        carriers = msgspec.convert(body.get("east_west", []), tuple[str, ...])
        return Used(_one(msgspec.convert(traffic, Traffic)), protocol, bool(body.get("has_library")), carriers)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise WireError(f"{where} is not understood: {error}") from error


@lru_cache(maxsize=16)
def _one(traffic: Traffic) -> Traffic:
    """The same object for callees that are used alike, as most are."""
    return traffic


def _fields(struct: Any) -> dict[str, Any]:
    return {name: _plain(each) for name, each in struct.fields.items()}


def _plain(value: Any) -> Any:
    """What a Value of a Struct holds. Its numbers are floats only; what is whole may have been an integer."""
    match value.WhichOneof("kind"):
        case "number_value":
            number: float = value.number_value
            if not isfinite(number):
                raise ValueError(f"{number} is no number of JSON")
            return int(number) if number.is_integer() else number
        case "struct_value":
            return _fields(value.struct_value)
        case "list_value":
            return [_plain(each) for each in value.list_value.values]
        case "string_value" | "bool_value" as kind:
            return getattr(value, kind)
        case _:
            return None


def _protocol(cluster: Any, where: str) -> Protocol:
    """HTTP/2 where a control plane says so, and else whatever both sides agree on."""
    if cluster.HasField("http2_protocol_options"):
        return Protocol.HTTP2
    packed = cluster.typed_extension_protocol_options.get(_HTTP_OPTIONS)
    if packed is None:
        return Protocol.HTTP
    options = unpacked(packed, _HTTP_OPTIONS)
    if options.upstream_http_protocol_options.auto_san_validation:
        raise WireError(f"{where}: who may answer must be said, and not be the name that was called")
    chosen = options.explicit_http_config.WhichOneof("protocol_config")
    return Protocol.HTTP2 if chosen == "http2_protocol_options" else Protocol.HTTP


def _standard(cluster: Any, where: str) -> Traffic:
    ping = cluster.upstream_connection_options.tcp_keepalive
    return replace(
        UNSAID,
        algorithm=_algorithm(cluster, where),
        slow_start=_slow_start(cluster, where),
        connect_timeout=seconds_or(cluster, "connect_timeout", 5.0, where),
        keepalive=float(value_or(ping, "keepalive_time", UNSAID.keepalive)),
        outlier=_outlier(cluster, where),
        **_limits(cluster.circuit_breakers, f"{where}.circuit_breakers"),
    )


_ALGORITHMS = {
    0: Algorithm.ROUND_ROBIN,
    1: Algorithm.LEAST_REQUEST,
    2: Algorithm.RING_HASH,
    3: Algorithm.RANDOM,
    5: Algorithm.MAGLEV,
    6: Algorithm.ROUND_ROBIN,
}
"""``Cluster.LbPolicy``; 6 is that of a cluster whose kind decides."""

_POLICIES = "envoy.extensions.load_balancing_policies"
_TYPED = {
    f"{_POLICIES}.round_robin.v3.RoundRobin": Algorithm.ROUND_ROBIN,
    f"{_POLICIES}.least_request.v3.LeastRequest": Algorithm.LEAST_REQUEST,
    f"{_POLICIES}.ring_hash.v3.RingHash": Algorithm.RING_HASH,
    f"{_POLICIES}.random.v3.Random": Algorithm.RANDOM,
    f"{_POLICIES}.maglev.v3.Maglev": Algorithm.MAGLEV,
    # What its weights would be made of, the load that instances report, is seen here as what they answer and when.
    f"{_POLICIES}.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin": Algorithm.LEAST_REQUEST,
}
_BY_ZONE = f"{_POLICIES}.wrr_locality.v3.WrrLocality"
_DEEPEST = 16


def _algorithm(cluster: Any, where: str) -> Algorithm:
    if cluster.HasField("load_balancing_policy"):
        return _first_known(cluster.load_balancing_policy, f"{where}.load_balancing_policy", 0)
    if cluster.lb_policy not in _ALGORITHMS:
        raise WireError(f"{where}.lb_policy: {cluster.lb_policy} is not known here")
    return _ALGORITHMS[cluster.lb_policy]


def _first_known(message: Any, where: str, depth: int) -> Algorithm:
    """gRFC A52: "iterate [...] until finding a supported policy"; nested at most 16 deep."""
    if depth > _DEEPEST:
        raise WireError(f"{where}: policies are nested too deeply")
    for each in message.policies:
        packed = each.typed_extension_config.typed_config
        name = type_of(packed)
        if name in _TYPED:
            return _TYPED[name]
        if name == _BY_ZONE:
            return _first_known(message_of(_BY_ZONE, packed.value).endpoint_picking_policy, where, depth + 1)
    raise WireError(f"{where}: none of the policies is known here")


def _slow_start(cluster: Any, where: str) -> float:
    for name in ("round_robin_lb_config", "least_request_lb_config"):
        if cluster.HasField(name):
            return seconds_or(getattr(cluster, name).slow_start_config, "slow_start_window", 0.0, where)
    return 0.0


def _limits(message: Any, where: str) -> dict[str, Any]:
    """gRFC A32: "the first [threshold] with default priority"."""
    only(message, where, {"thresholds"})
    limits = next((each for each in message.thresholds if not each.priority), None)
    if limits is None:
        return {}
    usual = CircuitBreaker()
    breaker = CircuitBreaker(
        max_connections=value_or(limits, "max_connections", usual.max_connections),
        max_pending=value_or(limits, "max_pending_requests", usual.max_pending),
        max_requests=value_or(limits, "max_requests", usual.max_requests),
        max_retries=value_or(limits, "max_retries", None),
    )
    if not limits.HasField("retry_budget"):
        return {"breaker": breaker}
    percent = limits.retry_budget.budget_percent.value if limits.retry_budget.HasField("budget_percent") else 20.0
    if not 0 <= percent <= 100:
        raise WireError(f"{where}.retry_budget: {percent} is no share in percent")
    least = value_or(limits.retry_budget, "min_retry_concurrency", 3)
    return {"breaker": replace(breaker, max_retries=None), "budget": RetryBudget(percent=percent, min_concurrent=least)}


def _outlier(cluster: Any, where: str) -> OutlierEjection:
    """What is cut off by its share of successes among others is cut off by its share of errors, if that is asked for.

    Envoy's defaults hold for what such a message leaves out, and ours where there is none.
    """
    if not cluster.HasField("outlier_detection"):
        return UNSAID.outlier
    said = cluster.outlier_detection
    by_share = value_or(said, "enforcing_failure_percentage", 0)
    return OutlierEjection(
        consecutive_errors=value_or(said, "consecutive_5xx", 5)
        if value_or(said, "enforcing_consecutive_5xx", 100)
        else 0,
        error_percent=value_or(said, "failure_percentage_threshold", 85) if by_share else 0,
        interval=seconds_or(said, "interval", 10.0, f"{where}.outlier_detection"),
        base_ejection=seconds_or(said, "base_ejection_time", 30.0, f"{where}.outlier_detection"),
        max_ejected_percent=value_or(said, "max_ejection_percent", 10),
    )
