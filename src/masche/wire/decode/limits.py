"""Decode a local rate limit into a Limit: its bucket, which requests it counts, and what tells its buckets apart.

Only limits in the form in which our own control plane says them are understood: of several actions that may make a
descriptor, each wants what the ones before it want not to hold. Invariant: the Limit counts exactly the requests that
Envoy would count; what is said in another form is refused.
"""

from collections.abc import Sequence
from typing import Any

from masche.model.frozen import frozen
from masche.model.limits import MOST_KEYS, Limit, LimitKey
from masche.model.matching import RequestMatch, ValueMatch
from masche.wire.decode.headers import change
from masche.wire.decode.matchers import header
from masche.wire.decode.reading import fraction, only, seconds, unpacked, value_or
from masche.wire.framing import WireError
from masche.wire.limits import DENIED, KEY, key_of

EXPRESSION = "envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor"

_FIELDS = frozenset(
    {
        "stat_prefix", "token_bucket", "filter_enabled", "filter_enforced", "response_headers_to_add", "descriptors",
        "always_consume_default_token_bucket", "rate_limited_as_resource_exhausted", "rate_limits",
        "max_dynamic_descriptors", "enable_retry_after_header",
    }
)  # fmt: skip
_MATCHED = frozenset({"descriptor_key", "descriptor_value", "expect_match", "headers"})
_UNNAMED = "a local rate limit"
_UNLIMITED = 2**32 - 1


def limit(message: Any, where: str) -> Limit | None:
    """Return what a LocalRateLimit counts; None when it counts nothing."""
    only(message, where, _FIELDS)
    if not message.HasField("token_bucket"):
        return None
    if not (message.rate_limited_as_resource_exhausted and message.enable_retry_after_header):
        raise WireError(f"{where}: a refusal without retry-after, or as UNAVAILABLE, is not carried out here")
    for name in ("filter_enabled", "filter_enforced"):
        if not message.HasField(name) or fraction(getattr(message, name).default_value, where) != (100, 100):
            raise WireError(f"{where}.{name} is not carried out here")
    matches, key = _counted(message, where)
    bucket = message.descriptors[0].token_bucket if message.descriptors else message.token_bucket
    return Limit(
        name=_rule(message, where),
        requests=value_or(bucket, "tokens_per_fill", 1),
        per=seconds(bucket.fill_interval, where),
        burst=bucket.max_tokens,
        matches=matches,
        key=key,
    )


def _rule(message: Any, where: str) -> str:
    said = change(message.response_headers_to_add, (), f"{where}.response_headers_to_add")
    for name, value in said.add:
        if name != DENIED:
            raise WireError(f"{where}: the header {name!r} on a refusal is not carried out here")
        return value
    return _UNNAMED


@frozen(kw_only=False)
class _Way:
    """One way in which a request gets the descriptor: what it must hold or not, the entries made then, and the key."""

    held: tuple[tuple[bool, tuple[ValueMatch, ...]], ...]
    entries: tuple[tuple[str, str], ...]
    key: LimitKey | None

    @property
    def wanted(self) -> tuple[ValueMatch, ...]:
        return self.held[-1][1] if self.held else ()


def _counted(message: Any, where: str) -> tuple[tuple[RequestMatch, ...], LimitKey | None]:
    """Which requests make the descriptor, and so take a token of its bucket; without one every request does."""
    if not message.descriptors and not message.rate_limits:
        return (), None
    if len(message.descriptors) != 1 or value_or(message, "always_consume_default_token_bucket", default=True):
        raise WireError(f"{where}: several descriptors, or a token for each request, are not carried out here")
    ways = [_way(each, f"{where}.rate_limits[{index}]") for index, each in enumerate(message.rate_limits)]
    entries = tuple((each.key, each.value) for each in message.descriptors[0].entries)
    if not ways or any((each.entries, each.key) != (entries, ways[0].key) for each in ways):
        raise WireError(f"{where}: the ways to a descriptor do not all lead to its entries")
    if ways[0].key and value_or(message, "max_dynamic_descriptors", 20) != MOST_KEYS:
        raise WireError(f"{where}: another number of keys than {MOST_KEYS} is not carried out here")
    if any("" in {name, value} and name != KEY for name, value in entries):
        raise WireError(f"{where}: an entry with any value is not carried out here")
    return _matches(ways, message.token_bucket, where), ways[0].key


def _matches(ways: Sequence[_Way], rest: Any, where: str) -> tuple[RequestMatch, ...]:
    """What the ways want, of which none may be taken by a request that another takes; ``rest`` is for all others."""
    if len(ways) == 1 and not ways[0].held:
        return ()
    wanted = [each.wanted for each in ways]
    excluding = [(*((False, one) for one in wanted[:index]), (True, wanted[index])) for index in range(len(ways))]
    if [each.held for each in ways] != excluding:
        raise WireError(f"{where}: of several matches that hold not the first alone counts")
    if rest.max_tokens != _UNLIMITED or value_or(rest, "tokens_per_fill", 1) != _UNLIMITED:
        raise WireError(f"{where}: a limit for requests that do not match is not carried out here")
    return tuple(RequestMatch(headers=each) for each in wanted)


def _way(message: Any, where: str) -> _Way:
    only(message, where, {"actions"})
    held: list[tuple[bool, tuple[ValueMatch, ...]]] = []
    entries: list[tuple[str, str]] = []
    key: LimitKey | None = None
    for action in message.actions:
        match action.WhichOneof("action_specifier"):
            case "header_value_match":
                matched = action.header_value_match
                held.append(_matched(matched, where))
                entries.append((matched.descriptor_key or "header_match", matched.descriptor_value))
            case "generic_key":
                entries.append(
                    (action.generic_key.descriptor_key or "generic_key", action.generic_key.descriptor_value)
                )
            case "extension" if key is None:
                key = _key(action.extension, where)
                entries.append((KEY, ""))
            case other:
                raise WireError(f"{where}: {other or 'nothing'} is not counted by here")
    return _Way(tuple(held), tuple(entries), key)


def _matched(message: Any, where: str) -> tuple[bool, tuple[ValueMatch, ...]]:
    only(message, where, _MATCHED)
    some = tuple(header(each, where) for each in message.headers)
    return value_or(message, "expect_match", default=True), some


def _key(message: Any, where: str) -> LimitKey:
    told = unpacked(message.typed_config, EXPRESSION)
    only(told, where, {"descriptor_key", "text"})
    found = key_of(told.text)
    if found is None or told.descriptor_key != KEY:
        raise WireError(f"{where}: the expression {told.text!r} is not carried out here")
    return found
