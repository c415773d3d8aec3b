"""Answers that the mesh itself gives: the statuses and words of an Envoy in the same place, for people to read.

Invariant: each says why it was given, in its body and in one header, so that nobody looks for it in an application; a
gRPC caller gets it as a status, as Envoy says it to gRPC ("trailers only").
"""

from urllib.parse import quote

from masche.library.core.exchange import Answer
from masche.traffic.request import Headers, Request

WHY = "x-masche-answer"
"""The header of an answer that no application gave: Envoy's response flag and the reason."""

NO_INSTANCE = "no healthy upstream"
OVERFLOW = "upstream connect error or disconnect/reset before headers. reset reason: overflow"
TIMED_OUT = "upstream request timeout"

_GRPC = {400: "13", 401: "16", 403: "7", 404: "12", 429: "14", 502: "14", 503: "14", 504: "14"}
"""Envoy's ``Grpc::Utility::httpToGrpcStatus``; what is not in here is UNKNOWN, 2."""


def is_grpc(headers: Headers) -> bool:
    """Is this a gRPC call? By its content type, as Envoy tells it."""
    for name, value in headers:
        if name == "content-type":
            return value == "application/grpc" or value.startswith(("application/grpc+", "application/grpc;"))
    return False


def answer(status: int, why: str, *, flag: str, request: Request, headers: Headers = ()) -> Answer:
    """Return an answer to this request. ``why`` is one line; it is told twice, for logs of clients show headers."""
    told = (*headers, (WHY, f"{flag} {why}".strip()))
    if is_grpc(request.headers):
        grpc = (("content-type", "application/grpc"), ("grpc-status", _GRPC.get(status, "2")))
        return Answer(
            200, (*grpc, ("grpc-message", quote(why, safe=" '()*,-./:;=?@[]_{}"[1:] + " ")), *told), b"", flag
        )
    body = f"{why}\n".encode()
    plain = (("content-type", "text/plain"), ("content-length", str(len(body))), *told)
    return Answer(status, plain, b"" if request.method == "HEAD" else body, flag)
