"""Which route of a table a request takes: the first one whose match holds in all its parts.

The table is already sorted by precedence, so this is the same walk that Envoy makes over the same table, with the same
comparisons; none matching is None (which becomes a 404). Of chance there is one number for each request, ``drawn``: the
shares of a table and the weights of its backends are all compared with it.
"""

import re
from collections.abc import Sequence
from typing import assert_never

from masche.model.expressions import full_match
from masche.model.view import PathKind, RequestMatch, Route, ValueKind, ValueMatch
from masche.traffic.request import Request, is_grpc

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)


def match(routes: Sequence[Route], request: Request, *, drawn: int = 0) -> Route | None:
    """Return the first route that matches, or None."""
    return next((route for route in routes if holds(route.match, request, drawn=drawn)), None)


def holds(wanted: RequestMatch, request: Request, *, drawn: int = 0) -> bool:
    """Say whether path, method, every header and every query parameter are as wanted; cheap parts first."""
    return (
        wanted.method in {"", request.method}
        and (wanted.share is None or drawn % wanted.share[1] < wanted.share[0])
        and _path_holds(wanted, request)
        and (not wanted.is_grpc or is_grpc(request))
        and all(value_holds(header, request.values(header.name)) for header in wanted.headers)
        and (not wanted.query or _query_holds(wanted.query, request.query))
    )


def is_prefix(prefix: str, path: str) -> bool:
    """Compare whole segments: "a prefix of /abc matches /abc, /abc/ and /abc/def but not /abcd" (Gateway API).

    A trailing slash of the prefix is ignored, as the Gateway API demands.
    """
    stem = prefix.rstrip("/")
    return path.startswith(stem) and path[len(stem) : len(stem) + 1] in {"", "/"}


def _path_holds(wanted: RequestMatch, request: Request) -> bool:
    path, value = request.path, wanted.path
    if wanted.path_ignores_case and wanted.path_kind is not PathKind.REGEX:
        path, value = path.lower(), value.lower()
    match wanted.path_kind:
        case PathKind.EXACT:
            return path == value
        case PathKind.PREFIX:
            return is_prefix(value, path)
        case PathKind.REGEX:
            return full_match(value, path)
        case PathKind.STARTS:
            return path.startswith(value)
        case PathKind.CONNECT:
            return request.method == "CONNECT"
        case _:
            assert_never(wanted.path_kind)


def value_holds(wanted: ValueMatch, values: Sequence[str]) -> bool:
    """Judge the values of one header: each that comes is compared alone, and one is enough, as Envoy does.

    What is missing does not match, not even where the match is inverted: only that it is there can be inverted so.
    """
    if wanted.kind is ValueKind.PRESENT:
        return (bool(values) or wanted.is_missing_empty) != wanted.is_inverted
    if not values:
        return wanted.is_missing_empty and _value_holds(wanted, "") != wanted.is_inverted
    return any(_value_holds(wanted, value) for value in values) != wanted.is_inverted


def _query_holds(wanted: tuple[ValueMatch, ...], query: str) -> bool:
    """Only the first value of a repeated parameter counts, undecoded, as in Envoy; names differ by case."""
    first = first_parameters(query)
    return all(each.name in first and _value_holds(each, first[each.name]) for each in wanted)


def first_parameters(query: str) -> dict[str, str]:
    """Return each parameter's first value; a parameter without ``=`` has an empty one."""
    first: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        first.setdefault(name, value)
    return first


def _value_holds(wanted: ValueMatch, value: str) -> bool:  # noqa: PLR0911 - a line for each kind
    text = wanted.value
    if wanted.ignores_case and wanted.kind is not ValueKind.REGEX:
        value, text = value.lower(), text.lower()
    match wanted.kind:
        case ValueKind.EXACT:
            return value == text
        case ValueKind.REGEX:
            return full_match(text, value)
        case ValueKind.PREFIX:
            return value.startswith(text)
        case ValueKind.SUFFIX:
            return value.endswith(text)
        case ValueKind.CONTAINS:
            return text in value
        case ValueKind.RANGE:
            return in_range(text, value)
        case ValueKind.PRESENT:
            return True
        case _:
            assert_never(wanted.kind)


def in_range(wanted: str, value: str) -> bool:
    """Say whether ``value`` is an integer of ``<first>:<end>``, the end not included."""
    first, _, end = wanted.partition(":")
    return _INTEGER.fullmatch(value.strip()) is not None and int(first) <= int(value) < int(end)
