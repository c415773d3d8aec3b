"""Encode limits of requests in a time as Envoy's local rate limit filters, one for each limit.

A filter of its own for each says by its answer which limit refused. The filters count nothing until a table of routes
brings buckets, and all listeners with that table share them, so that an instance's calls are counted together whichever
way they came. A request is counted through a descriptor: an entry for each match, and one for the key. Invariant: of
several matches that take one request only the first makes its descriptor, so that no request takes two tokens.
"""

from collections.abc import Iterator
from functools import lru_cache

from masche.compiler.envoy import peer, reports
from masche.compiler.envoy.matches import header
from masche.compiler.envoy.parts import escaped, extension, literal
from masche.model.limits import MOST_KEYS, KeyKind, Limit, LimitKey
from masche.model.matching import PathKind, RequestMatch, ValueKind, ValueMatch
from masche.wire.limits import DENIED, KEY, expression
from masche.wire.messages import Body, Json, any_of

_LIMIT = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
_TO_METADATA = "envoy.extensions.filters.http.header_to_metadata.v3.Config"
_EXPRESSION = "envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor"

_STAT = "masche"
_SPACE, _RULE = "masche.limits", "rule"

_AT_ONCE = 4
"""Filters are put into a chain by so many, for a chain that changes costs connections and a table does not."""

_ALL: Body = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
_MOST = 2**32 - 1
_UNLIMITED: Body = {"max_tokens": _MOST, "tokens_per_fill": _MOST, "fill_interval": 1}
"""For requests that a limit does not count; a filter cannot do without."""

_HOLDS = "1"


def filters(limits: tuple[Limit, ...], *, is_told: bool) -> tuple[Body, ...]:
    """Return the HTTP filters in which limits are counted; ``is_told``: callers learn which of them refused."""
    if not limits:
        return ()
    places = -(-len(limits) // _AT_ONCE) * _AT_ONCE
    return (_named(is_told=is_told), *(_place(index) for index in range(places)))


def by_table(limits: tuple[Limit, ...], *, is_shared: bool = False) -> dict[str, Json]:
    """Return ``typed_per_filter_config`` of the table of routes; ``is_shared``: callers may be of the same proxy."""
    return {_name(index): any_of(_LIMIT, limit(each, is_shared=is_shared)) for index, each in enumerate(limits)}


def logs(limits: tuple[Limit, ...], destination: str, source: str, workload: str) -> tuple[Body, ...]:
    """Return the access log that counts what limits refused."""
    rule = f"%DYNAMIC_METADATA({_SPACE}:{_RULE})%"
    return (reports.limited(destination, rule, source, workload),) if limits else ()


def alone(limits: tuple[Limit, ...]) -> tuple[Body, ...]:
    """Return the filters where there is no table of routes that could be changed for itself."""
    return tuple(extension(_name(index), _LIMIT, limit(each)) for index, each in enumerate(limits))


def _name(index: int) -> str:
    return f"masche.limit.{index}"


@lru_cache(maxsize=64)
def _place(index: int) -> Body:
    return {**extension(_name(index), _LIMIT, {"stat_prefix": _STAT}), "disabled": True}


def _named(*, is_told: bool) -> Body:
    """Before the others, and so after them on an answer: keep which limit refused, and take it away from strangers."""
    kept: Body = {"metadata_namespace": _SPACE, "key": _RULE}
    rule: Body = {"header": DENIED, "on_header_present": kept, "remove": not is_told}
    return extension("masche.limited", _TO_METADATA, {"response_rules": [rule]})


@lru_cache(maxsize=4_096)
def limit(source: Limit, *, is_shared: bool = False) -> Body:
    """Return a LocalRateLimit."""
    bucket: Body = {"max_tokens": source.burst, "tokens_per_fill": source.requests, "fill_interval": source.per}
    body: dict[str, Json] = {
        "stat_prefix": _STAT,
        "token_bucket": _UNLIMITED if source.matches else bucket,
        "filter_enabled": _ALL,
        "filter_enforced": _ALL,
        "response_headers_to_add": [{"header": {"key": DENIED, "value": literal(source.name)}}],
        "always_consume_default_token_bucket": False,
        # gRPC: RESOURCE_EXHAUSTED, which unlike UNAVAILABLE nobody takes for an instance that is not there.
        "rate_limited_as_resource_exhausted": True,
        "enable_retry_after_header": True,
    }
    if source.matches or source.key:
        entries: list[Json] = [{"key": str(number), "value": _HOLDS} for number in range(len(source.matches))]
        entries += [{"key": KEY}] if source.key else []
        body["descriptors"] = [{"entries": entries, "token_bucket": bucket}]
        body["rate_limits"] = [{"actions": each} for each in _ways(source, is_shared=is_shared)]
    if source.key:
        body["max_dynamic_descriptors"] = MOST_KEYS
    return body


def _ways(source: Limit, *, is_shared: bool) -> Iterator[list[Json]]:
    """Yield, for each match, what makes the descriptor when it is the first that holds."""
    last = [_key(source.key, is_shared=is_shared)] if source.key else []
    if not source.matches:
        yield last
    for first in range(len(source.matches)):
        before: list[Json] = [_held(number, each, wanted=False) for number, each in enumerate(source.matches[:first])]
        after: list[Json] = [
            {"generic_key": {"descriptor_key": str(number), "descriptor_value": _HOLDS}}
            for number in range(first + 1, len(source.matches))
        ]
        yield [*before, _held(first, source.matches[first], wanted=True), *after, *last]


def _held(number: int, match: RequestMatch, *, wanted: bool) -> Body:
    matched: Body = {
        "descriptor_key": str(number),
        "descriptor_value": _HOLDS,
        "expect_match": wanted,
        "headers": [header(each) for each in headers(match)],
    }
    return {"header_value_match": matched}


def headers(match: RequestMatch) -> Iterator[ValueMatch]:
    """Yield a match as one of headers alone, to which Envoy counts method and path, with its query."""
    yield ValueMatch(name=":path", kind=ValueKind.REGEX, value=_path(match))
    if match.method:
        yield ValueMatch(name=":method", kind=ValueKind.EXACT, value=match.method)
    yield from match.headers


def _path(match: RequestMatch) -> str:
    match match.path_kind:
        case PathKind.EXACT:
            return rf"{escaped(match.path)}(\?.*)?"
        case PathKind.PREFIX:
            return rf"{escaped(match.path.rstrip('/'))}([/?].*)?"
        case _:
            raise ValueError(f"{match.path_kind} is not among what people write")


def _key(key: LimitKey, *, is_shared: bool) -> Json:
    text = expression(key)
    if is_shared and key.kind is KeyKind.CLIENT:
        text = f"'{peer.PEER}' in filter_state ? filter_state['{peer.PEER}'] : {text}"
    made = {"descriptor_key": KEY, "text": text}
    return {"extension": extension("envoy.rate_limit_descriptors.expr", _EXPRESSION, made)}
