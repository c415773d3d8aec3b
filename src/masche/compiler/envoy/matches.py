"""Encode what a route matches.

Invariant: paths are compared after normalisation, without their query, and a prefix ends at a segment.
"""

from enum import Enum

from masche.compiler.envoy.parts import regex
from masche.model.view import PathKind, RequestMatch, ValueKind, ValueMatch
from masche.wire.messages import Body, Json

IDEMPOTENT = ("DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE")
"""RFC 9110, 9.2.2: "PUT, DELETE, and safe request methods are idempotent"."""

AUTHORITY = ":authority"


UPGRADES: Json = {"name": "upgrade", "present_match": True}
"""A header by which a request asks for another protocol, WebSocket say, on whatever version of HTTP it came."""


class Taken(Enum):
    """Which of the requests that a Route matches one of Envoy's routes takes."""

    ALL = "all"
    IDEMPOTENT = "idempotent"
    GRPC = "grpc"
    UPGRADES = "upgrades"

    @property
    def is_stream(self) -> bool:
        """Whether bytes may flow for as long as both sides like."""
        return self in {Taken.GRPC, Taken.UPGRADES}


def route_match(match: RequestMatch, taken: Taken = Taken.ALL) -> dict[str, Json]:
    """Return a RouteMatch, narrowed to the requests that are ``taken``."""
    headers: list[Json] = [header(value) for value in match.headers]
    if match.method:
        headers.append(header(ValueMatch(name=":method", kind=ValueKind.EXACT, value=match.method)))
    body: dict[str, Json] = dict(_path(match))
    match taken:
        case Taken.IDEMPOTENT:
            headers.append({"name": ":method", "string_match": {"safe_regex": regex("|".join(IDEMPOTENT))}})
        case Taken.UPGRADES:
            headers.append(UPGRADES)
        case Taken.GRPC:
            body["grpc"] = {}
        case Taken.ALL:
            pass
    if headers:
        body["headers"] = headers
    if match.query:
        body["query_parameters"] = [{"name": each.name, "string_match": _string(each)} for each in match.query]
    return body


def _path(match: RequestMatch) -> Body:
    match match.path_kind:
        case PathKind.EXACT:
            return {"path": match.path}
        case PathKind.REGEX:
            return {"safe_regex": regex(match.path)}
        case PathKind.PREFIX:
            prefix = match.path.rstrip("/")
            return {"path_separated_prefix": prefix} if prefix else {"prefix": "/"}
        case PathKind.STARTS:
            return {"prefix": match.path}
        case PathKind.CONNECT:
            return {"connect_matcher": {}}


def header(value: ValueMatch) -> Body:
    """ "Header names are case-insensitive" (Gateway API), and ``host`` is the authority whatever the version."""
    name = value.name.lower()
    return {"name": AUTHORITY if name == "host" else name, "string_match": _string(value)}


def _string(value: ValueMatch) -> Body:
    match value.kind:
        case ValueKind.EXACT:
            return {"exact": value.value}
        case ValueKind.REGEX:
            return {"safe_regex": regex(value.value)}
        case _:
            raise ValueError(f"{value.kind} is not among what people write")
