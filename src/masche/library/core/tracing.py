"""The span of a call where the application makes spans, by OpenTelemetry's API, and the trace in which it goes on.

The API is looked for among what is imported already: an API that nobody has imported has no tracer behind it, and
importing it here would hold up an event loop for nothing. Without it a call goes on in the trace of the request that
led to it, or begins one. Invariant: a call has one span, which ends with it.
"""

import re
import sys
from collections.abc import MutableMapping
from typing import Any, Protocol, cast

from masche.library.core import trace
from masche.traffic.chance import Chance
from masche.traffic.request import Headers, Request

REQUEST_ID = "x-request-id"

API = "opentelemetry.trace"
"""The module without which nobody makes spans."""


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


class Traces:
    """The traces that calls go on in, of which the part ``sampling`` (0 to 1) is marked as recorded.

    New ones are made some at a time, since one by one they cost four times as much: what makes them would have to be
    brought back into the processor's caches for every call. May be asked from any thread.
    """

    __slots__ = ("_ahead", "_rng", "_sampling")

    def __init__(self, rng: Chance, sampling: float) -> None:
        self._rng, self._sampling = rng, sampling
        self._ahead: list[Headers] = []

    def __repr__(self) -> str:
        return f"<Traces {self._sampling:.0%} recorded, {len(self._ahead)} made ahead>"

    def onward(self) -> Headers:
        """Return the headers by which a call goes on in the trace of the request that led to it, or in a new trace;
        the id of the request is the last of them.
        """
        current = trace.current()
        if current is not None:
            made = () if current.request_id else ((REQUEST_ID, request_id(f"{self._rng.getrandbits(128):032x}")),)
            return current.headers + made
        try:
            return self._ahead.pop()
        except IndexError:
            self._ahead.extend(self._begun())
            return self._ahead.pop()

    def _begun(self) -> list[Headers]:
        rng, sampling = self._rng, self._sampling
        digits = rng.getrandbits(320 * _AHEAD).to_bytes(40 * _AHEAD).hex()
        return [
            (
                ("traceparent", f"00-{trace_id}-{span_id}-{'01' if rng.random() < sampling else '00'}"),
                (REQUEST_ID, f"{a}-{b}-4{c}-{_VARIANTS[variant]}{d}-{e}"),
            )
            for trace_id, span_id, a, b, c, variant, d, e in _IDS.findall(digits)
        ]


_IDS = re.compile("(.{32})(.{16})" + "(.{8})(.{4}).(.{3})(.)(.{3})(.{12})")
"""A trace's id and a span's, and a request's, of which one digit says the version of UUIDs, and one the variant."""


_AHEAD = 32
"""So many are made at a time."""


def request_id(bits: str) -> str:
    """Return a new request id of 32 random hexadecimal digits: a UUID of version 4 (RFC 9562), as Envoy makes them."""
    return f"{bits[:8]}-{bits[8:12]}-4{bits[13:16]}-{_VARIANTS[bits[16]]}{bits[17:20]}-{bits[20:]}"


_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def begun(request: Request, headers: Headers) -> tuple[Span | None, Headers]:
    """Begin the span of a call, and let its headers say so; no span when the application makes none. To be asked where
    ``API`` is imported.
    """
    api: _Api = cast("_Api", sys.modules[API])
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
