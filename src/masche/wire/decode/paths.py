"""Decode which requests a route matches, and what becomes of their paths.

Invariant: what Envoy compares and replaces character by character is compared and replaced so here.
"""

from typing import Any

from masche.model.view import PathKind, PathRewrite, RequestMatch, RewriteKind
from masche.wire.decode.matchers import expression, header, parameter
from masche.wire.decode.reading import only, runtime_fraction, value_or
from masche.wire.framing import WireError

_MATCH = frozenset(
    {
        "prefix", "path", "safe_regex", "connect_matcher", "path_separated_prefix", "case_sensitive",
        "runtime_fraction", "headers", "query_parameters", "grpc",
    }
)  # fmt: skip


def route_match(message: Any, where: str) -> RequestMatch:
    """Return what a RouteMatch wants."""
    only(message, where, _MATCH)
    kind, path = _path(message, where)
    headers = (header(each, f"{where}.headers[{index}]") for index, each in enumerate(message.headers))
    query = (
        parameter(each, f"{where}.query_parameters[{index}]") for index, each in enumerate(message.query_parameters)
    )
    return RequestMatch(
        path_kind=kind,
        path=path,
        headers=tuple(headers),
        query=tuple(query),
        path_ignores_case=not value_or(message, "case_sensitive", default=True),
        is_grpc=message.HasField("grpc"),
        share=_share(message, where),
    )


def _path(message: Any, where: str) -> tuple[PathKind, str]:
    match message.WhichOneof("path_specifier"):
        case "prefix":
            return PathKind.STARTS, message.prefix
        case "path":
            return PathKind.EXACT, message.path
        case "path_separated_prefix":
            return PathKind.PREFIX, message.path_separated_prefix
        case "safe_regex":
            return PathKind.REGEX, expression(message.safe_regex, f"{where}.safe_regex")
        case "connect_matcher":
            only(message.connect_matcher, f"{where}.connect_matcher", frozenset())
            return PathKind.CONNECT, ""
        case other:
            raise WireError(f"{where}: {other or 'a match without a path'} is not carried out here")


def _share(message: Any, where: str) -> tuple[int, int] | None:
    if not message.HasField("runtime_fraction"):
        return None
    return runtime_fraction(message.runtime_fraction, f"{where}.runtime_fraction")


def path_rewrite(message: Any, where: str) -> PathRewrite | None:
    """Return what a RouteAction or a RedirectAction makes of what was matched of the path."""
    if message.prefix_rewrite:
        return PathRewrite(kind=RewriteKind.MATCHED, value=message.prefix_rewrite)
    if message.HasField("regex_rewrite"):
        return regex_rewrite(message.regex_rewrite, f"{where}.regex_rewrite")
    return None


def regex_rewrite(message: Any, where: str) -> PathRewrite:
    """Return what a RegexMatchAndSubstitute does."""
    only(message, where, {"pattern", "substitution"})
    pattern = expression(message.pattern, f"{where}.pattern", message.substitution)
    return PathRewrite(kind=RewriteKind.REGEX, pattern=pattern, value=message.substitution)
