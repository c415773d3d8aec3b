"""Until when the work that is being done here is of use: the deadline of a request that came in holds for what it leads
to, too.

Held in a context variable, so it follows tasks and is taken along by ``asyncio.to_thread``. Invariant: within a block
the deadline can only become earlier.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from masche.traffic.deadline import NO_DEADLINE, Deadline

_current: ContextVar[Deadline] = ContextVar("masche_deadline", default=NO_DEADLINE)


def current() -> Deadline:
    """Return until when the work that is done here is of use; ``NO_DEADLINE`` outside of requests."""
    return _current.get()


@contextmanager
def until(deadline: Deadline) -> Generator[None]:
    """Let calls within the block end by then."""
    token = _current.set(min(deadline, _current.get()))
    try:
        yield
    finally:
        _current.reset(token)
