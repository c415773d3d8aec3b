"""Encode one condition of a policy: as a principal (who calls) or as a permission (what is called).

Invariant: text that people wrote is compared as text; where Envoy offers regular expressions only, it is escaped.
"""

import re
from collections.abc import Callable
from typing import assert_never

from masche.compiler.envoy import peer
from masche.compiler.envoy.parts import escaped, regex
from masche.model.view import Attribute, Condition, Pattern, PatternKind
from masche.wire.messages import Body

_SPIFFE = "spiffe://"
_SEGMENT = "[^/]+"
_OPERATORS = {"{*}": _SEGMENT, "{**}": ".*"}

Encode = Callable[[Pattern], Body]
"""How one pattern is compared."""


def principal(condition: Condition) -> Body:
    """Return a Principal for a condition on the caller, who is known by a certificate."""
    return combined(condition, _principal(condition), _PRINCIPALS)


def principal_or_neighbour(condition: Condition) -> Body:
    """Return the same where a caller may also be known by its network namespace: one that calls through its proxy."""
    by_certificate, by_namespace = _principal(condition), _neighbour(condition)

    def encode(pattern: Pattern) -> Body:
        return {"or_ids": {"ids": [by_certificate(pattern), by_namespace(pattern)]}}

    return combined(condition, encode, _PRINCIPALS)


_PRINCIPALS = ("or_ids", "and_ids", "ids", "not_id")


def _principal(condition: Condition) -> Encode:
    match condition.attribute:
        case Attribute.PRINCIPAL | Attribute.NAMESPACE | Attribute.SERVICE_ACCOUNT:
            return lambda pattern: _authenticated(_spiffe_id(condition.attribute, pattern))
        case Attribute.SOURCE_IP:
            return _address("direct_remote_ip")
        case Attribute.REMOTE_IP:
            return _address("remote_ip")
        case _:
            raise ValueError(f"{condition.attribute} is not about the caller")


def _neighbour(condition: Condition) -> Encode:
    """Compare with what was written down when the connection was captured."""
    match condition.attribute:
        case Attribute.SOURCE_IP | Attribute.REMOTE_IP:
            return lambda pattern: _written(peer.ADDRESS, {"address_match": {"ranges": [_range(pattern)]}})
        case _:
            return lambda pattern: _written(peer.PEER, {"string_match": _spiffe_id(condition.attribute, pattern)})


def _written(key: str, matcher: Body) -> Body:
    return {"filter_state": {"key": key, **matcher}}


def permission(condition: Condition) -> Body:
    """Return a Permission for a condition on what is called."""
    match condition.attribute:
        case Attribute.METHOD:
            encode: Encode = _header(":method")
        case Attribute.HOST:
            encode = _host
        case Attribute.PATH:
            encode = _path
        case Attribute.HEADER:
            encode = _header(condition.name)
        case Attribute.DESTINATION_IP:
            encode = _address("destination_ip")
        case Attribute.SNI:
            encode = _server_name
        case _:
            raise ValueError(f"{condition.attribute} is not about what is called")
    return combined(condition, encode, ("or_rules", "and_rules", "rules", "not_rule"))


def combined(condition: Condition, encode: Encode, names: tuple[str, str, str, str]) -> Body:
    """Return a matcher for one of the values and none of the others; ``names`` are Envoy's for OR, AND, their members
    and NOT."""
    any_of_them, all_of_them, members, negation = names
    parts: list[Body] = []
    if condition.values:
        parts.append({any_of_them: {members: [encode(value) for value in condition.values]}})
    if condition.not_values:
        unwanted = {any_of_them: {members: [encode(value) for value in condition.not_values]}}
        parts.append({negation: unwanted})
    return {all_of_them: {members: parts}} if parts else {"any": True}


def string(pattern: Pattern, *, ignore_case: bool = False) -> Body:
    """Return a StringMatcher; PRESENT wants at least one character."""
    match pattern.kind:
        case PatternKind.EXACT:
            body: Body = {"exact": pattern.value}
        case PatternKind.PREFIX:
            body = {"prefix": pattern.value}
        case PatternKind.SUFFIX:
            body = {"suffix": pattern.value}
        case PatternKind.PRESENT:
            return {"safe_regex": regex(".+")}
        case PatternKind.TEMPLATE:
            raise ValueError("a template compares paths only")
        case PatternKind.CONTAINS:
            body = {"contains": pattern.value}
        case PatternKind.REGEX | PatternKind.RANGE:
            raise ValueError(f"{pattern.kind} is not among what people write")
        case _:
            assert_never(pattern.kind)
    return {**body, "ignore_case": True} if ignore_case else body


def _spiffe_id(attribute: Attribute, pattern: Pattern) -> Body:
    """Return a StringMatcher for the SPIFFE ID of a caller."""
    match attribute:
        case Attribute.PRINCIPAL:
            return _whole(pattern)
        case Attribute.NAMESPACE:
            return {"safe_regex": regex(f"{_SPIFFE}{_SEGMENT}/ns/{_segment(pattern)}/sa/{_SEGMENT}")}
        case _:
            return _service_account(pattern)


def _whole(pattern: Pattern) -> Body:
    """Compare with the verified SAN, which has a scheme that policies leave out."""
    match pattern.kind:
        case PatternKind.EXACT | PatternKind.PREFIX:
            return string(Pattern(pattern.kind, _SPIFFE + pattern.value))
        case PatternKind.PRESENT:
            return {"prefix": _SPIFFE}
        case _:
            return string(pattern)


def _service_account(pattern: Pattern) -> Body:
    """``namespace/name``: a service account is never meant without its namespace."""
    namespace, _, name = pattern.value.rpartition("/")
    where = escaped(namespace) if namespace else _SEGMENT
    return {"safe_regex": regex(f"{_SPIFFE}{_SEGMENT}/ns/{where}/sa/{_segment(Pattern(pattern.kind, name))}")}


def _segment(pattern: Pattern) -> str:
    text = escaped(pattern.value)
    match pattern.kind:
        case PatternKind.EXACT | PatternKind.TEMPLATE:
            return text
        case PatternKind.PREFIX:
            return f"{text}[^/]*"
        case PatternKind.SUFFIX:
            return f"[^/]*{text}"
        case PatternKind.PRESENT:
            return _SEGMENT
        case _:
            raise ValueError(f"{pattern.kind} is not among what people write")


def _authenticated(matcher: Body) -> Body:
    return {"authenticated": {"principal_name": matcher}}


def _address(field: str) -> Encode:
    return lambda pattern: {field: _range(pattern)}


def _range(pattern: Pattern) -> Body:
    prefix, _, length = pattern.value.partition("/")
    whole = 128 if ":" in prefix else 32
    return {"address_prefix": prefix, "prefix_len": int(length) if length else whole}


def _header(name: str) -> Encode:
    """Compare a request header. ``host`` is the authority, whatever the version of HTTP."""

    def encode(pattern: Pattern) -> Body:
        if name == "host":
            return _host(pattern)
        if pattern.kind is PatternKind.PRESENT:
            return {"header": {"name": name, "present_match": True}}
        return {"header": {"name": name, "string_match": string(pattern)}}

    return encode


def _host(pattern: Pattern) -> Body:
    """Compare the authority without regard to case; RFC 9110, 4.2.3: the host is "case-insensitive"."""
    return {
        "header": {
            "name": ":authority",
            "string_match": string(pattern, ignore_case=pattern.kind is not PatternKind.PRESENT),
        }
    }


def _path(pattern: Pattern) -> Body:
    """Compare the normalised path without its query."""
    if pattern.kind is PatternKind.TEMPLATE:
        return {"url_path": {"path": {"safe_regex": regex(_template(pattern.value))}}}
    return {"url_path": {"path": string(pattern)}}


def _template(value: str) -> str:
    """Return an expression for ``{*}``, one whole segment, and ``{**}``, any number of characters.

    Envoy has a matcher of templates, but one with a character that it does not take (``/a b/{*}``) ends the whole
    process instead of being refused, and its segments know fewer characters than paths have.
    """
    return "".join(_OPERATORS.get(part) or escaped(part) for part in re.split(r"(\{\*\*?\})", value))


def _server_name(pattern: Pattern) -> Body:
    return {"requested_server_name": string(pattern)}
