"""The Gateway API's HTTPCORSFilter, as Envoy's CORS filter carries it out: preflights are answered here.

Pure. Invariant: an origin is compared whole; ``*`` in a wanted one stands for any characters, nothing else is special.
"""

import re
from functools import lru_cache

from masche.library.core.exchange import Answer
from masche.library.core.outcomes import value
from masche.model.view import Cors
from masche.traffic.request import Headers, Request


def preflight(cors: Cors, request: Request) -> Answer | None:
    """Return the answer to a preflight request; None when the request is none, and goes on.

    One from an origin that is not allowed is answered, too, but not told that it is, so that the browser refuses it.
    Where everything is allowed, what was asked for is.
    """
    origin, method = value(request.headers, "origin"), value(request.headers, "access-control-request-method")
    if not origin or request.method != "OPTIONS" or not method:
        return None
    names = value(request.headers, "access-control-request-headers") or ""
    offers = (
        ("access-control-allow-credentials", "true" if cors.allow_credentials else ""),
        ("access-control-allow-methods", _offered(cors.allow_methods, method)),
        ("access-control-allow-headers", _offered(cors.allow_headers, names)),
        ("access-control-max-age", str(cors.max_age_seconds)),
    )
    found = {**dict(each for each in offers if each[1]), **dict(told(cors, request))}
    return Answer(200, (*found.items(), ("content-length", "0")))


def _offered(allowed: tuple[str, ...], asked: str) -> str:
    return asked if allowed == ("*",) else ", ".join(allowed)


def told(cors: Cors, request: Request) -> Headers:
    """Return what is added to the answer of a cross-origin request."""
    origin = value(request.headers, "origin")
    if not origin or not is_allowed(cors, origin):
        return ()
    offers = (
        ("access-control-allow-origin", origin),
        ("access-control-allow-credentials", "true" if cors.allow_credentials else ""),
        ("access-control-expose-headers", ", ".join(cors.expose_headers)),
    )
    return tuple(each for each in offers if each[1])


def is_allowed(cors: Cors, origin: str) -> bool:
    """May pages of this origin call?"""
    return any(_origin(wanted).fullmatch(origin) for wanted in cors.allow_origins)


@lru_cache(maxsize=1024)
def _origin(wanted: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in wanted.split("*")))
