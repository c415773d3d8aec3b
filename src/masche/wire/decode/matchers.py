"""Decode how text is compared: StringMatcher, RegexMatcher, HeaderMatcher, QueryParameterMatcher.

Invariant: a regular expression that cannot be carried out exactly as RE2 would is refused here.
"""

from typing import Any, NamedTuple

from masche.model.expressions import ExpressionError, check
from masche.model.view import ValueKind, ValueMatch
from masche.wire.decode.reading import only
from masche.wire.framing import WireError

_STRING = frozenset({"exact", "prefix", "suffix", "contains", "safe_regex", "ignore_case"})
_HEADER = frozenset(
    {
        "name", "string_match", "exact_match", "safe_regex_match", "range_match", "present_match", "prefix_match",
        "suffix_match", "contains_match", "invert_match", "treat_missing_header_as_empty",
    }
)  # fmt: skip


class Text(NamedTuple):
    """How a text is compared, before it is known of what."""

    kind: ValueKind
    value: str
    ignores_case: bool = False


_KINDS = {
    "exact": ValueKind.EXACT,
    "prefix": ValueKind.PREFIX,
    "suffix": ValueKind.SUFFIX,
    "contains": ValueKind.CONTAINS,
}


def expression(message: Any, where: str, substitution: str = "") -> str:
    """Return the expression of a RegexMatcher; the choice of an engine in it says nothing."""
    only(message, where, {"regex", "google_re2"})
    if not message.regex:
        raise WireError(f"{where}: an expression is empty")
    try:
        check(message.regex, substitution)
    except ExpressionError as error:
        raise WireError(f"{where}: {error}") from error
    return message.regex


def string(message: Any, where: str) -> Text:
    """Return what a StringMatcher compares with."""
    only(message, where, _STRING)
    kind = message.WhichOneof("match_pattern")
    if kind == "safe_regex":
        if message.ignore_case:
            raise WireError(f"{where}: ignore_case has no effect on an expression")
        return Text(ValueKind.REGEX, expression(message.safe_regex, where))
    if kind not in _KINDS:
        raise WireError(f"{where} compares with nothing")
    value = getattr(message, kind)
    if not value and kind != "exact":
        raise WireError(f"{where}.{kind} is empty")
    return Text(_KINDS[kind], value, message.ignore_case)


def header(message: Any, where: str) -> ValueMatch:
    """Return what a HeaderMatcher wants; without any word on the value the header must be there."""
    only(message, where, _HEADER)
    if not message.name:
        raise WireError(f"{where} names no header")
    kind = message.WhichOneof("header_match_specifier")
    text = Text(ValueKind.PRESENT, "") if kind is None else _header_value(message, kind, f"{where}.{kind}")
    is_absent = kind == "present_match" and not message.present_match
    return ValueMatch(
        name=message.name.lower(),
        kind=text.kind,
        value=text.value,
        ignores_case=text.ignores_case,
        is_inverted=message.invert_match != is_absent,
        is_missing_empty=message.treat_missing_header_as_empty,
    )


def _header_value(message: Any, kind: str, where: str) -> Text:
    value = getattr(message, kind)
    match kind:
        case "string_match":
            return string(value, where)
        case "safe_regex_match":
            return Text(ValueKind.REGEX, expression(value, where))
        case "range_match":
            return Text(ValueKind.RANGE, f"{value.start}:{value.end}")
        case "present_match":
            return Text(ValueKind.PRESENT, "")
        case _:
            name = kind.removesuffix("_match")
            if name not in _KINDS or not value:
                raise WireError(f"{where} is not carried out here")
            return Text(_KINDS[name], value)


def parameter(message: Any, where: str) -> ValueMatch:
    """Return what a QueryParameterMatcher wants."""
    only(message, where, {"name", "string_match", "present_match"})
    if not message.name:
        raise WireError(f"{where} names no parameter")
    if message.WhichOneof("query_parameter_match_specifier") == "string_match":
        text = string(message.string_match, f"{where}.string_match")
        return ValueMatch(name=message.name, kind=text.kind, value=text.value, ignores_case=text.ignores_case)
    if message.WhichOneof("query_parameter_match_specifier") and not message.present_match:
        raise WireError(f"{where}: that a parameter is missing is not carried out here")
    return ValueMatch(name=message.name, kind=ValueKind.PRESENT, value="")
