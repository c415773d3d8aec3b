"""The span of a call where the application makes spans, by OpenTelemetry's API, and the trace in which it goes on.

The API is looked for among what is imported already: an API that nobody has imported has no tracer behind it, and
importing it here would hold up an event loop for nothing. Without it a call goes on in the trace of the request that
led to it, or begins one. Invariant: a call has one span, which ends with it.
"""

import sys
from collections.abc import MutableMapping
from typing import Any, Protocol, cast

from masche.library.core import trace
from masche.traffic.chance import Chance
from masche.traffic.request import Headers, Request

REQUEST_ID = "x-request-id"


class Span(Protocol):
    """What is used of an OpenTelemetry span."""

    def is_recording(self) -> bool:
        """Will anybody see it?"""
        ...

    def set_attribute(self, key: str, value: str | int) -> None:
        """Say something of it."""
        ...

    def end(self) -> None:
        """End it."""
        ...


class _Api(Protocol):
    """``opentelemetry.trace``, as far as it is used."""

    SpanKind: Any

    def get_tracer(self, name: str) -> Any:
        """Return a tracer."""
        ...

    def set_span_in_context(self, span: Span) -> Any:
        """Return a context in which the span is the current one."""
        ...


def onward(*, rng: Chance, sampling: float) -> Headers:
    """Return the headers by which a call goes on in the trace of the request that led to it, or in a new trace, of
    which the part ``sampling`` (0 to 1) is marked as recorded; the id of the request is the last of them.
    """
    current = trace.current()
    if current is not None:
        made = () if current.request_id else ((REQUEST_ID, request_id(f"{rng.getrandbits(128):032x}")),)
        return current.headers + made
    bits = rng.getrandbits(320).to_bytes(40).hex()
    trace_id, span_id = bits[:32], bits[32:48]
    parent = f"00-{trace_id}-{span_id}-01" if rng.random() < sampling else f"00-{trace_id}-{span_id}-00"
    return (("traceparent", parent), (REQUEST_ID, request_id(bits[48:])))


def request_id(bits: str) -> str:
    """Return a new request id of 32 random hexadecimal digits: a UUID of version 4 (RFC 9562), as Envoy makes them."""
    return f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-{_VARIANTS[bits[16]]}{bits[17:20]}-{bits[20:]}"


_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def begun(request: Request, headers: Headers) -> tuple[Span | None, Headers]:
    """Begin the span of a call, and let its headers say so; no span when the application makes none."""
    api = cast("_Api | None", sys.modules.get("opentelemetry.trace"))
    if api is None:
        return None, headers
    span: Span = api.get_tracer("masche.library").start_span(request.method, kind=api.SpanKind.CLIENT)
    if not span.is_recording():
        span.end()
        return None, headers
    span.set_attribute("http.request.method", request.method)
    span.set_attribute("server.address", request.authority)
    span.set_attribute("url.path", request.path)
    return span, _within(api, span, headers)


def end(span: Span, *, status: int, flag: str) -> None:
    """End the span of a call with what came of it."""
    if status:
        span.set_attribute("http.response.status_code", status)
    if flag:
        span.set_attribute("masche.flag", flag)
    span.end()


def _within(api: _Api, span: Span, headers: Headers) -> Headers:
    """The headers with what the application's propagators write of its span."""
    propagate: Any = sys.modules.get("opentelemetry.propagate")
    if propagate is None:
        return headers
    carrier: MutableMapping[str, str] = {}
    propagate.inject(carrier, context=api.set_span_in_context(span))
    said = tuple((name.lower(), value) for name, value in carrier.items())
    gone = {name for name, _ in said}
    return (*(each for each in headers if each[0] not in gone), *said)
