"""What becomes of a request at the door, before any route or policy is asked: one spelling of it, or a refusal.

The same for every request that reaches a server of the mesh; what is done is what Envoy's connection manager does with
the settings of our proxies (observed on 1.40), so that a policy looks at the same request in every placement.
Invariant: what only proxies may say (``x-envoy-*``, ``x-masche-*``, who the caller is) is never believed of a caller.
"""

import re

from masche.traffic.normalise import normalise
from masche.traffic.request import Headers, Request
from masche.traffic.verdict import Verdict

MAX_HEADERS = 100
"""Headers of one request, the authority among them."""

MAX_HEADER_BYTES = 60 * 1024
"""Bytes of all names and values together."""

_METHODS = """
ACL BIND CHECKOUT CONNECT COPY DELETE GET HEAD LINK LOCK MERGE MKACTIVITY MKCALENDAR MKCOL MOVE M-SEARCH NOTIFY OPTIONS
PATCH POST PROPFIND PROPPATCH PURGE PUT REBIND REPORT SEARCH SOURCE SUBSCRIBE TRACE UNBIND UNLINK UNLOCK UNSUBSCRIBE
"""
METHODS = frozenset(_METHODS.split())
"""The methods that are known, written as they are here; every other is refused."""

_JOINED = """
accept accept-encoding access-control-request-headers access-control-request-method
access-control-request-private-network authentication authorization cache-control content-encoding content-type expect
grpc-accept-encoding grpc-timeout if-match if-modified-since if-none-match if-range if-unmodified-since origin pragma
referer user-agent via x-client-trace-id x-forwarded-for x-forwarded-host x-forwarded-port x-request-id
"""
JOINED = frozenset(_JOINED.split())
"""Headers whose repeated values are one value, joined by commas, wherever they are looked at and to whom they are sent.

RFC 9110, 5.3: "A recipient MAY combine multiple field lines [...] by appending each subsequent field line value to the
initial field line value in order, separated by a comma". All others are looked at value by value.
"""

_OF_THE_HOP = frozenset(("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"))
_OF_PROXIES = ("x-envoy-", "x-masche-")
_OF_THIS_HOP_ALONE = frozenset(("x-forwarded-client-cert", "x-forwarded-proto"))
_NEVER_NOMINATED = frozenset(("host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"))
_MAX_NOMINATED = 10
_NAME = re.compile(r"[a-z0-9!#$%&'*+\-.^`|~]+")
_REFERER = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://[A-Za-z0-9._\-\[\]:]+([/?][\x21\x22\x24-\x7e]*)?"
    r"|[A-Za-z0-9\-._~!$&'()*+,;=@%?]*(/[A-Za-z0-9\-._~!$&'()*+,;=:@%/?]*)?"
)
"""A URL without fragment and user, or a path: what is sent on as the page from which a request came."""
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_AUTHORITY = re.compile(r"[A-Za-z0-9!$&'()*+,;=\-._~%@:\[\]]*")


def received(request: Request) -> Request | Verdict:
    """Return the request as routes and policies see it, or the Verdict that refuses it (status 400, 404 or 431).

    ``x-forwarded-proto`` is what ``request.scheme`` says. Whoever serves adds what it knows better: the caller's
    address and identity, an id.
    """
    why = _fault(request)
    if why:
        return _refused(why, 400)
    if _is_too_much(request.headers):
        return _refused("its headers are too many, or too long", 431)
    if request.target == "*" and request.method == "OPTIONS":
        return _refused("nothing here answers for a server as a whole", 404)
    target = normalise(request.target)
    if isinstance(target, Verdict):
        return target
    return Request(
        method=request.method,
        target=target,
        authority=without_final_dot(request.authority),
        scheme=request.scheme,
        headers=(*joined(_kept(request.headers)), ("x-forwarded-proto", request.scheme)),
        connection=request.connection,
    )


def joined(headers: Headers) -> Headers:
    """Return the headers with each of JOINED once, where it first was, and all others as they were."""
    if len({name for name, _ in headers}) == len(headers):
        return headers
    together: dict[str, list[str]] = {}
    for name, value in headers:
        if name in JOINED:
            together.setdefault(name, []).append(value)
    return tuple((name, _as_one(together.get(name, [value]))) for name, value in _firsts(headers))


def _as_one(values: list[str]) -> str:
    """Join values; one that is empty adds nothing."""
    return ",".join(value for value in values if value)


def _firsts(headers: Headers) -> Headers:
    seen: set[str] = set()
    kept: list[tuple[str, str]] = []
    for name, value in headers:
        if name not in JOINED or name not in seen:
            kept.append((name, value))
            seen.add(name)
    return tuple(kept)


def _refused(why: str, status: int) -> Verdict:
    return Verdict.refuse("", f"the request was refused before any rule was asked: {why}", status=status)


def _fault(request: Request) -> str:
    """Name what no server may guess about; empty when there is nothing."""
    if request.method not in METHODS:
        return "its method is unknown"
    if not _AUTHORITY.fullmatch(request.authority):
        return "its authority is none"
    for name, value in request.headers:
        if not _NAME.fullmatch(name):
            return "the name of a header holds an underscore, which servers read differently, or is none"
        if _UNPRINTABLE.search(value):
            return "the value of a header holds a control character"
    nominated = _nominated(request.headers)
    if nominated & _NEVER_NOMINATED or len(nominated) > _MAX_NOMINATED:
        return "its Connection header names what it must not, or too much"
    return ""


def _is_too_much(headers: Headers) -> bool:
    return len(headers) + 1 > MAX_HEADERS or sum(len(name) + len(value) for name, value in headers) > MAX_HEADER_BYTES


def _kept(headers: Headers) -> Headers:
    """Leave out what is between the caller and us alone, and what only a proxy may say.

    RFC 9110, 7.6.1: "Intermediaries MUST parse a received Connection header field before a message is forwarded and,
    for each connection-option in this field, remove any header or trailer field(s) from the message with the same
    name". Of TE only "trailers" means something to whom it is sent on; a request for another protocol keeps both words.
    """
    options = _nominated(headers)
    gone = (_OF_THE_HOP | _OF_THIS_HOP_ALONE | options) - (_UPGRADING if "upgrade" in options else frozenset[str]())
    kept = tuple(pair for pair in headers if pair[0] not in gone and _is_kept(*pair))
    encodings = [value for name, value in headers if name == "te"]
    return (*kept, *_trailers(",".join(encodings))) if encodings else kept


def _is_kept(name: str, value: str) -> bool:
    return not name.startswith(_OF_PROXIES) and (name != "referer" or _REFERER.fullmatch(value) is not None)


def _trailers(encodings: str) -> Headers:
    words = [word.partition(";")[0].strip().lower() for word in encodings.split(",")]
    return (("te", "trailers"),) if "trailers" in words else () if encodings else (("te", ""),)


_UPGRADING = frozenset(("connection", "upgrade"))


def _nominated(headers: Headers) -> frozenset[str]:
    options = (option.strip().lower() for name, value in headers if name == "connection" for option in value.split(","))
    return frozenset(option for option in options if option)


def without_final_dot(authority: str) -> str:
    """Return an authority as it is looked for: ``orders.`` is ``orders``, and ``orders.:80`` is ``orders:80``."""
    host, colon, port = authority.rpartition(":")
    if colon and port.isdecimal():
        return host.removesuffix(".") + colon + port
    return authority.removesuffix(".")
