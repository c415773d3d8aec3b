"""Decode when a request is repeated, and what a consistent hash is made of.

Envoy looks at no method: who writes a table has chosen the route by it, or wants every method repeated. Of gRPC's codes
those of gRFC A44 are known. Invariant: a condition that is not known is refused, for it may be what keeps a request
from being made twice.
"""

from typing import Any

from masche.model.view import Hashed, HashKind, Retry
from masche.wire.decode.matchers import header
from masche.wire.decode.paths import regex_rewrite
from masche.wire.decode.reading import only, seconds, seconds_or, type_of, value_or
from masche.wire.framing import WireError

NEVER = Retry(attempts=0, any_method=True)
"""A route without a policy repeats nothing."""

_POLICY = frozenset(
    {
        "retry_on", "num_retries", "per_try_timeout", "retry_host_predicate", "host_selection_retry_max_attempts",
        "retriable_status_codes", "retry_back_off", "retriable_headers", "rate_limited_retry_back_off",
    }
)  # fmt: skip
_UNREACHED = frozenset({"connect-failure", "refused-stream", "reset-before-request", "5xx", "gateway-error"})
_CODES = {"5xx": range(500, 600), "gateway-error": (502, 503, 504), "retriable-4xx": (409,)}
_GRPC = {"cancelled": 1, "deadline-exceeded": 4, "resource-exhausted": 8, "internal": 13, "unavailable": 14}
_OTHERS = frozenset({"reset", "retriable-status-codes", "retriable-headers", "http3-post-connect-failure"})
_KNOWN = _UNREACHED | _CODES.keys() | _GRPC.keys() | _OTHERS

_PREVIOUS_HOSTS = "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
_UNREACHED_HEADER = "x-masche-unreached"
_BACKOFF = 0.025
"""Envoy's, where a policy says nothing."""


def retry(message: Any, where: str) -> tuple[Retry, float]:
    """Return what a RetryPolicy says, and how long one try may take, in seconds, 0 for any time."""
    only(message, where, _POLICY)
    _check_instances(message, where)
    words = frozenset(word.strip() for word in message.retry_on.split(",") if word.strip())
    if unknown := words - _KNOWN:
        raise WireError(f"{where}.retry_on: {min(unknown)} is not carried out here")
    per_try = seconds_or(message, "per_try_timeout", 0.0, where)
    if not words:
        return NEVER, per_try
    base, longest = _backoff(message, where)
    made = Retry(
        attempts=value_or(message, "num_retries", 1),
        codes=_codes(message, words),
        backoff=base,
        max_backoff=longest,
        any_method=True,
        unreached=bool(words & _UNREACHED) or _is_told_unreached(message, words, where),
        unanswered=bool(words & {"reset", "5xx", "gateway-error"}),
        grpc_codes=tuple(sorted(_GRPC[word] for word in words & _GRPC.keys())),
    )
    return made, per_try


def _codes(message: Any, words: frozenset[str]) -> tuple[int, ...]:
    listed = message.retriable_status_codes if "retriable-status-codes" in words else ()
    said = (code for word in words & _CODES.keys() for code in _CODES[word])
    return tuple(dict.fromkeys((*listed, *sorted(said))))


def _is_told_unreached(message: Any, words: frozenset[str], where: str) -> bool:
    """Of headers that ask for a repeat only our own proxies' word is known: nobody was reached."""
    if "retriable-headers" not in words:
        return False
    for each in message.retriable_headers:
        if header(each, f"{where}.retriable_headers").name != _UNREACHED_HEADER:
            raise WireError(f"{where}.retriable_headers: {each.name} is not carried out here")
    return bool(message.retriable_headers)


def _check_instances(message: Any, where: str) -> None:
    """A repeat goes to another instance where there is one; no other wish is known."""
    for each in message.retry_host_predicate:
        if type_of(each.typed_config) != _PREVIOUS_HOSTS:
            raise WireError(f"{where}.retry_host_predicate: {each.name} is not carried out here")


def _backoff(message: Any, where: str) -> tuple[float, float]:
    """Envoy: "The maximum interval defaults to 10 times the base interval", and a base is at least a millisecond."""
    if not message.HasField("retry_back_off"):
        return _BACKOFF, 10 * _BACKOFF
    wait, place = message.retry_back_off, f"{where}.retry_back_off"
    only(wait, place, {"base_interval", "max_interval"})
    base = max(seconds(wait.base_interval, place), 0.001)
    longest = seconds_or(wait, "max_interval", 10 * base, place)
    if longest < base:
        raise WireError(f"{place}: the longest wait is shorter than the first one")
    return base, longest


_HASH = frozenset({"header", "cookie", "connection_properties", "query_parameter", "filter_state", "terminal"})
_CHANNEL, _OURS = "io.grpc.channel_id", "masche.caller"


def hashed(message: Any, where: str) -> Hashed:
    """Return what a HashPolicy adds to the hash. gRFC A42: a channel's id is "the same for all requests of it"."""
    only(message, where, _HASH)
    is_last = message.terminal
    match message.WhichOneof("policy_specifier"):
        case "header":
            return _hashed_header(message.header, where, is_last=is_last)
        case "cookie":
            return _hashed_cookie(message.cookie, where, is_last=is_last)
        case "query_parameter":
            return Hashed(kind=HashKind.QUERY, name=message.query_parameter.name, is_last=is_last)
        case "connection_properties" if message.connection_properties.source_ip:
            return Hashed(kind=HashKind.CALLER, is_last=is_last)
        case "filter_state" if message.filter_state.key in {_CHANNEL, _OURS}:
            return Hashed(kind=HashKind.CALLER, is_last=is_last)
        case other:
            raise WireError(f"{where}: {other or 'a hash of nothing'} is not carried out here")


def _hashed_header(message: Any, where: str, *, is_last: bool) -> Hashed:
    only(message, f"{where}.header", {"header_name", "regex_rewrite"})
    rewrite = None
    if message.HasField("regex_rewrite"):
        rewrite = regex_rewrite(message.regex_rewrite, f"{where}.header.regex_rewrite")
    return Hashed(kind=HashKind.HEADER, name=message.header_name.lower(), is_last=is_last, rewrite=rewrite)


def _hashed_cookie(message: Any, where: str, *, is_last: bool) -> Hashed:
    only(message, f"{where}.cookie", {"name", "ttl", "path"})
    lifetime = seconds(message.ttl, f"{where}.cookie.ttl") if message.HasField("ttl") else None
    return Hashed(kind=HashKind.COOKIE, name=message.name, is_last=is_last, lifetime=lifetime, path=message.path)
