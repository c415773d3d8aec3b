"""The trace that a piece of work belongs to: what came with a request goes out with the calls that it leads to.

W3C Trace Context: "If the value of the traceparent field wasn't changed before propagation, tracestate MUST NOT be
modified either"; we change neither: spans are made by whoever makes spans. Held in a context variable, so it follows
tasks and is taken along by ``asyncio.to_thread``. Invariant: what is not exactly valid is not passed on.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from masche.model.frozen import frozen
from masche.traffic.chance import Chance
from masche.traffic.request import Headers

_VALID = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_SAMPLED_BY_NOBODY = "00"


@frozen(kw_only=False)
class Trace:
    """Where a request stands: ``parent`` is ``traceparent``, ``state`` is ``tracestate`` ("" for none)."""

    parent: str
    state: str = ""
    request_id: str = ""

    @property
    def headers(self) -> Headers:
        """The headers with which it goes on."""
        pairs = (("traceparent", self.parent), ("tracestate", self.state), ("x-request-id", self.request_id))
        return tuple(pair for pair in pairs if pair[1])


_current: ContextVar[Trace | None] = ContextVar("masche_trace", default=None)


def current() -> Trace | None:
    """Return the trace of the work that is being done here; None outside of requests."""
    return _current.get()


def begun(rng: Chance) -> Trace:
    """Begin a trace. It is not sampled: who samples decides that."""
    trace, span = (
        rng.getrandbits(128) or 1,
        rng.getrandbits(64) or 1,
    )  # "All bytes as zero is considered an invalid value"
    return Trace(f"00-{trace:032x}-{span:016x}-{_SAMPLED_BY_NOBODY}")


def of(headers: Headers) -> Trace | None:
    """Read the trace that came with a request; None when none came, or what came is not valid."""
    found = {"traceparent": "", "tracestate": "", "x-request-id": ""}
    for name, value in headers:
        if name in found:
            found[name] = f"{found[name]},{value}" if found[name] else value
    parent = found["traceparent"]
    if not _VALID.fullmatch(parent) or (parent.startswith("00") and len(parent) != 55):
        return None
    return Trace(parent, found["tracestate"], found["x-request-id"])


@contextmanager
def within(trace: Trace | None) -> Generator[None]:
    """Let ``trace`` be the one that calls go on with within the block."""
    token = _current.set(trace)
    try:
        yield
    finally:
        _current.reset(token)
