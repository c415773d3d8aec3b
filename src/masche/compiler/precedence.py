"""In which order the routes of one table are asked, so that "the first match decides" is what the Gateway API wants.

"Precedence must be given to the match having: "Exact" path match; "Prefix" path match with largest number of
characters; Method match; largest number of header matches; largest number of query param matches"; then "the oldest
Route based on creation timestamp; the Route appearing first in alphabetical order by {namespace}/{name}"; then the
first rule.
Where regular expressions stand is left to us: after exact paths (they are rarely meant to be hidden by a prefix) and
before prefixes, the longest first.
For a GRPCRoute "precedence must be given to the rule with the largest number of: characters in a matching service;
characters in a matching method; header matches". What names both exactly comes first, as exact paths do.
"""

from datetime import datetime

from masche.compiler.grpc_routes import characters
from masche.model.refs import Kind
from masche.model.resources.gateway_api import HTTPRoute
from masche.model.view import PathKind, RequestMatch, Route

_PATHS = {PathKind.EXACT: 0, PathKind.REGEX: 1, PathKind.PREFIX: 2}


Rank = tuple[int, int, int, bool, int, int]


def specificity(route: Route) -> Rank:
    """The part of the order that the match decides; less is asked first."""
    match = route.match
    is_grpc = any(origin.ref.kind is Kind.GRPC_ROUTE for origin in route.origins)
    return (*(_called if is_grpc else _asked)(match), not match.method, -len(match.headers), -len(match.query))


def _asked(match: RequestMatch) -> tuple[int, int, int]:
    """How much of a path is named. A prefix's trailing slash counts nothing."""
    length = len(match.path.rstrip("/")) if match.path_kind is PathKind.PREFIX else len(match.path)
    return _PATHS[match.path_kind], -length, 0


def _called(match: RequestMatch) -> tuple[int, int, int]:
    """How much of a method's name is named; a service counts as the prefix that it is, with its slash."""
    if match.path_kind is PathKind.EXACT:
        return _asked(match)
    service, name = characters(match)
    return _PATHS[PathKind.PREFIX], -(service + 1 if service else 0), -name


def age(created: datetime | None) -> tuple[bool, float]:
    """The older the less; what has no timestamp is the youngest."""
    return (created is None, created.timestamp() if created else 0.0)


def seniority(route: HTTPRoute) -> tuple[bool, float, str]:
    """The part of the order that the resource decides."""
    return (*age(route.metadata.creation_timestamp), str(route.name))
