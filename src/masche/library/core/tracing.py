"""The span of a call where the application makes spans, by OpenTelemetry's API, and the trace in which it goes on.

The API is looked for among what is imported already: an API that nobody has imported has no tracer behind it, and
importing it here would hold up an event loop for nothing. Without it a call goes on in the trace of the request that
led to it, or begins one. Invariant: a call has one span, which ends with it.
"""

import sys
from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any, Protocol, cast

from masche.library.core import trace
from masche.library.core.trace import Trace
from masche.traffic.chance import Chance
from masche.traffic.request import Request

_SAMPLED = "01"


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


def onward(*, rng: Chance, sampling: float) -> Trace:
    """Return the trace in which a call goes on: that of the request that led to it, or a new one, of which the part
    ``sampling`` (0 to 1) is marked as recorded.
    """
    current = trace.current()
    if current is not None:
        return current
    made = trace.begun(rng)
    return Trace(f"{made.parent[:-2]}{_SAMPLED}") if rng.random() < sampling else made


def begun(request: Request) -> tuple[Span | None, Request]:
    """Begin the span of a call, and let the call go on in it; no span when the application makes none."""
    api = cast("_Api | None", sys.modules.get("opentelemetry.trace"))
    if api is None:
        return None, request
    span: Span = api.get_tracer("masche.library").start_span(request.method, kind=api.SpanKind.CLIENT)
    if not span.is_recording():
        span.end()
        return None, request
    span.set_attribute("http.request.method", request.method)
    span.set_attribute("server.address", request.authority)
    span.set_attribute("url.path", request.path)
    return span, _within(api, span, request)


def end(span: Span, *, status: int, flag: str) -> None:
    """End the span of a call with what came of it."""
    if status:
        span.set_attribute("http.response.status_code", status)
    if flag:
        span.set_attribute("masche.flag", flag)
    span.end()


def _within(api: _Api, span: Span, request: Request) -> Request:
    """The request with what the application's propagators write of its span."""
    propagate: Any = sys.modules.get("opentelemetry.propagate")
    if propagate is None:
        return request
    carrier: MutableMapping[str, str] = {}
    propagate.inject(carrier, context=api.set_span_in_context(span))
    said = tuple((name.lower(), value) for name, value in carrier.items())
    gone = {name for name, _ in said}
    return replace(request, headers=(*(each for each in request.headers if each[0] not in gone), *said))
