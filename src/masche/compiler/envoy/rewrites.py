"""Encode how a route changes a path: for a request that is forwarded, and for a redirect.

Gateway API, ReplacePrefixMatch: the prefix is replaced by whole segments; a trailing slash of either prefix is ignored,
and a path never becomes empty. Invariant: the query stays as it was.
"""

from masche.compiler.envoy.parts import escaped, regex
from masche.model.view import PathKind, PathRewrite, RequestMatch, RewriteKind
from masche.wire.messages import Body


def path_rewrite(rewrite: PathRewrite | None, match: RequestMatch) -> Body:
    """Return the fields of a RouteAction that change the path of a request matched by ``match``."""
    if rewrite is None:
        return {}
    return _full(rewrite) if rewrite.kind is RewriteKind.FULL else _prefix(rewrite, match)


def path_redirect(rewrite: PathRewrite | None, match: RequestMatch) -> Body:
    """Return the fields of a RedirectAction that change the path."""
    if rewrite is None:
        return {}
    if rewrite.kind is RewriteKind.FULL:
        return {"path_redirect": rewrite.value}
    return _prefix(rewrite, match)


def _full(rewrite: PathRewrite) -> Body:
    return _regex_rewrite("^.*$", rewrite.value)


def _prefix(rewrite: PathRewrite, match: RequestMatch) -> Body:
    """Replace a prefix; a route that matched otherwise has no prefix, and its path stays."""
    if match.path_kind is not PathKind.PREFIX:
        return {}
    old, new = match.path.rstrip("/"), rewrite.value.rstrip("/")
    if old and new:
        return {"prefix_rewrite": new}
    if old:
        return _regex_rewrite(f"^{escaped(old)}/*", "/")
    return _regex_rewrite("^/", f"{new}/")


def _regex_rewrite(pattern: str, value: str) -> Body:
    """Return a rewrite whose replacement is ``value`` literally: RE2 gives a meaning to backslashes only."""
    replacement = value.replace("\\", "\\\\")
    return {"regex_rewrite": {"pattern": regex(pattern), "substitution": replacement}}
