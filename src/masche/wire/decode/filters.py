"""Decode what filters are told on a route: trouble made on purpose (gRFC A33), and the rules of CORS.

What a route tells other filters has no meaning here, because a Listener with a filter that is not known is refused, and
a filter that is in no chain does nothing. Invariant: no filter that refuses requests is among those that are skipped.
"""

from collections.abc import Iterable
from typing import Any

from masche.model.view import Cors, Fault
from masche.wire.decode.matchers import expression, header
from masche.wire.decode.reading import fraction, message_of, only, seconds, type_of, value_or
from masche.wire.framing import WireError

FAULT = "envoy.extensions.filters.http.fault.v3.HTTPFault"
CORS = "envoy.extensions.filters.http.cors.v3.CorsPolicy"
_WRAPPED = "envoy.config.route.v3.FilterConfig"


def told(owners: Iterable[Any], type_name: str, where: str) -> Any:
    """Return what the most specific of ``owners`` (it comes first) tells the filter of this type; None for nothing."""
    for owner in owners:
        for name, packed in owner.typed_per_filter_config.items():
            found = _told(packed, type_name, f"{where}.typed_per_filter_config[{name}]")
            if found is not None:
                return found
    return None


def _told(packed: Any, type_name: str, where: str) -> Any:
    if type_of(packed) == _WRAPPED:
        wrapped = message_of(_WRAPPED, packed.value)
        if type_of(wrapped.config) != type_name:
            return None
        if wrapped.disabled:
            raise WireError(f"{where}: to switch a filter off is not carried out here")
        packed = wrapped.config
    return message_of(type_name, packed.value) if type_of(packed) == type_name else None


_FAULT = frozenset(
    {
        "delay", "abort", "headers", "max_active_faults", "delay_percent_runtime", "abort_percent_runtime",
        "delay_duration_runtime", "abort_http_status_runtime", "max_active_faults_runtime",
        "abort_grpc_status_runtime", "disable_downstream_cluster_stats", "filter_metadata",
    }
)  # fmt: skip


def fault(message: Any, where: str) -> Fault | None:
    """Return what an HTTPFault does; None when it does nothing."""
    only(message, where, _FAULT)
    delay, delay_percent = _delay(message, where)
    status, grpc_status, abort_percent = _abort(message, where)
    if not delay_percent and not abort_percent:
        return None
    return Fault(
        delay=delay,
        delay_percent=delay_percent,
        status=status,
        grpc_status=grpc_status,
        abort_percent=abort_percent,
        max_active=value_or(message, "max_active_faults", 0),
        headers=tuple(header(each, f"{where}.headers") for each in message.headers),
    )


def _percent(message: Any, where: str) -> float:
    numerator, denominator = fraction(message.percentage, where)
    return min(100.0, 100.0 * numerator / denominator)


def _delay(message: Any, where: str) -> tuple[float, float]:
    if not message.HasField("delay"):
        return 0.0, 0.0
    only(message.delay, f"{where}.delay", {"fixed_delay", "percentage"})
    if not message.delay.HasField("fixed_delay"):
        raise WireError(f"{where}.delay says no length of time")
    return seconds(message.delay.fixed_delay, f"{where}.delay"), _percent(message.delay, f"{where}.delay")


def _abort(message: Any, where: str) -> tuple[int, int, float]:
    if not message.HasField("abort"):
        return 0, -1, 0.0
    abort, place = message.abort, f"{where}.abort"
    only(abort, place, {"http_status", "grpc_status", "percentage"})
    match abort.WhichOneof("error_type"):
        case "http_status" if 200 <= abort.http_status < 600:
            return abort.http_status, -1, _percent(abort, place)
        case "grpc_status" if 0 < abort.grpc_status <= 16:
            return 0, abort.grpc_status, _percent(abort, place)
        case _:
            raise WireError(f"{place} says no status that could be answered")


_CORS = frozenset(
    {
        "allow_origin_string_match", "allow_methods", "allow_headers", "expose_headers", "max_age",
        "allow_credentials", "forward_not_matching_preflights", "filter_enabled",
    }
)  # fmt: skip


def cors(message: Any, where: str) -> Cors:
    """Return what a CorsPolicy says; origins that are not compared whole, but for ``*`` in them, are refused."""
    only(message, where, _CORS)
    if value_or(message, "forward_not_matching_preflights", default=True):
        raise WireError(f"{where}: preflight requests that do not match are never sent on from here")
    if message.HasField("filter_enabled") and fraction(message.filter_enabled.default_value, where) != (100, 100):
        raise WireError(f"{where}.filter_enabled is not carried out here")
    return Cors(
        allow_origins=tuple(_origin(each, where) for each in message.allow_origin_string_match),
        allow_methods=_listed(message.allow_methods),
        allow_headers=_listed(message.allow_headers),
        expose_headers=_listed(message.expose_headers),
        allow_credentials=value_or(message, "allow_credentials", default=False),
        max_age_seconds=_age(message.max_age, where),
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part for each in text.split(",") if (part := each.strip()))


def _age(text: str, where: str) -> int:
    if not text:
        return 0
    if not text.isdecimal() or len(text) > 10:
        raise WireError(f"{where}.max_age: {text!r} is no number of seconds")
    return int(text)


def _origin(message: Any, where: str) -> str:
    """A literal, or an expression that is literals with ``.*`` between them."""
    match message.WhichOneof("match_pattern"):
        case "exact" if not message.ignore_case:
            return message.exact
        case "safe_regex":
            parts = expression(message.safe_regex, where).split(".*")
            return "*".join(_unescaped(part, where) for part in parts)
        case other:
            raise WireError(f"{where}.allow_origin_string_match: {other or 'nothing'} is not carried out here")


_SPECIAL = frozenset(".^$*+?{}[]|()")


def _unescaped(text: str, where: str) -> str:
    out: list[str] = []
    signs = iter(text)
    for sign in signs:
        if sign in _SPECIAL:
            raise WireError(f"{where}.allow_origin_string_match: {text!r} is more than text with * in it")
        out.append(next(signs, "") if sign == "\\" else sign)
    return "".join(out)
