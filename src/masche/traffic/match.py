"""Which route of a table a request takes: the first one whose match holds in all its parts.

The table is already sorted by precedence, so this is the same walk that Envoy makes over the same table, with the same
comparisons; none matching is None (which becomes a 404).
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import assert_never

from masche.model.view import PathKind, RequestMatch, Route, ValueKind, ValueMatch
from masche.traffic.request import Request


def match(routes: Sequence[Route], request: Request) -> Route | None:
    """Return the first route that matches, or None."""
    return next((route for route in routes if holds(route.match, request)), None)


def holds(wanted: RequestMatch, request: Request) -> bool:
    """Say whether path, method, every header and every query parameter are as wanted; cheap parts first."""
    return (
        wanted.method in {"", request.method}
        and _path_holds(wanted, request.path)
        and all(_header_holds(header, request) for header in wanted.headers)
        and (not wanted.query or _query_holds(wanted.query, request.query))
    )


def is_prefix(prefix: str, path: str) -> bool:
    """Compare whole segments: "a prefix of /abc matches /abc, /abc/ and /abc/def but not /abcd" (Gateway API).

    A trailing slash of the prefix is ignored, as the Gateway API demands.
    """
    stem = prefix.rstrip("/")
    return path.startswith(stem) and path[len(stem) : len(stem) + 1] in {"", "/"}


def _path_holds(wanted: RequestMatch, path: str) -> bool:
    match wanted.path_kind:
        case PathKind.EXACT:
            return path == wanted.path
        case PathKind.PREFIX:
            return is_prefix(wanted.path, path)
        case PathKind.REGEX:
            return full_match(wanted.path, path)
        case _:
            assert_never(wanted.path_kind)


def _header_holds(wanted: ValueMatch, request: Request) -> bool:
    """Each value of a header that comes several times is compared alone, and one is enough, as Envoy does."""
    return any(_value_holds(wanted, value) for value in request.values(wanted.name))


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


def _value_holds(wanted: ValueMatch, value: str) -> bool:
    match wanted.kind:
        case ValueKind.EXACT:
            return value == wanted.value
        case ValueKind.REGEX:
            return full_match(wanted.value, value)
        case _:
            assert_never(wanted.kind)


def full_match(pattern: str, text: str) -> bool:
    """Say whether the whole text matches; an expression that cannot be compiled matches nothing."""
    compiled = _compiled(pattern)
    return compiled is not None and compiled.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern, re.ASCII)
    except re.error:
        return None
