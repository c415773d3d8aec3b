"""What of a request is compared, and how: the matches of routes, and of limits.

Invariant: all parts of a match must hold, and nothing in it is left to look up.
"""

from enum import StrEnum

from masche.model.frozen import frozen


class PathKind(StrEnum):
    """How a path is compared. PREFIX compares whole segments: ``/a`` matches ``/a`` and ``/a/b``, not ``/ab``.

    STARTS compares characters, and CONNECT takes the requests of that method, which have no path; xDS alone has them.
    """

    EXACT = "Exact"
    PREFIX = "PathPrefix"
    REGEX = "RegularExpression"
    STARTS = "StartsWith"
    CONNECT = "Connect"


class ValueKind(StrEnum):
    """How the value of a header or a query parameter is compared; all but the first two are words of xDS alone.

    RANGE wants an integer of a range written ``<first>:<end>``, without its end. PRESENT looks at no value.
    """

    EXACT = "Exact"
    REGEX = "RegularExpression"
    PREFIX = "Prefix"
    SUFFIX = "Suffix"
    CONTAINS = "Contains"
    RANGE = "Range"
    PRESENT = "Present"


@frozen
class ValueMatch:
    """One header (``name`` in lower case) or query parameter and the value wanted.

    ``is_inverted``: it must be there, and no value of it may be so. ``is_missing_empty``: one that is missing counts as
    there, with an empty value.
    """

    name: str
    kind: ValueKind
    value: str
    ignores_case: bool = False
    is_inverted: bool = False
    is_missing_empty: bool = False


@frozen
class RequestMatch:
    """All parts must hold; ``method`` "" is any.

    ``is_grpc`` takes gRPC alone. ``share`` (numerator, denominator) takes so many of the requests: one number is drawn
    for each request, and every share of a table is compared with it, so shares of one match are cumulative.
    """

    path_kind: PathKind = PathKind.PREFIX
    path: str = "/"
    method: str = ""
    headers: tuple[ValueMatch, ...] = ()
    query: tuple[ValueMatch, ...] = ()
    path_ignores_case: bool = False
    is_grpc: bool = False
    share: tuple[int, int] | None = None
