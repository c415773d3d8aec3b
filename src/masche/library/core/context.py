"""Until when the work that is being done here is of use: the deadline of a request that came in holds for what it leads
to, too.

Held in a context variable, so it follows tasks and is taken along by ``asyncio.to_thread``. It holds until the request
is answered: what goes on after that (a mail to be sent, a cache to be filled) nobody waits for. Invariant: within a
block the deadline can only become earlier, and outside of it no task that was begun there is bound any more.
"""

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf

from masche.traffic.deadline import NO_DEADLINE, Deadline


class Bound:
    """What binds the work for one request. It is shared by all tasks of that work, so that it can be taken off them."""

    __slots__ = ("_deadline", "_outer", "is_spent")

    def __init__(self, deadline: Deadline, outer: "Bound | None") -> None:
        self._deadline, self._outer = deadline, outer
        self.is_spent = False

    def __repr__(self) -> str:
        return f"<Bound {self.deadline!r}>"

    @property
    def deadline(self) -> Deadline:
        """The earliest that holds still."""
        return self._deadline if self._outer is None else min(self._deadline, self._outer.deadline)

    def spend(self) -> None:
        """What was called for it is not to be repeated any more, so neither is the request itself."""
        self.is_spent = True
        if self._outer is not None:
            self._outer.spend()

    def lift(self) -> None:
        """The request is answered: its deadline binds nobody any more."""
        self._deadline = NO_DEADLINE


_current: ContextVar[Bound | None] = ContextVar("masche_deadline", default=None)


def current() -> Deadline:
    """Return until when the work that is done here is of use; ``NO_DEADLINE`` outside of requests."""
    bound = _current.get()
    return NO_DEADLINE if bound is None else bound.deadline


def ends_at(timeout: float, now: float) -> float:
    """When a call that begins ``now`` has to end: after ``timeout`` seconds (0: never), or when nobody waits for it."""
    bound = _current.get()
    at = inf if bound is None else bound.deadline.at
    return now + timeout if timeout > 0 and now + timeout < at else at


def spend() -> None:
    """Say, on behalf of the request for which a call was made, that repeats of the call are of no avail."""
    if (bound := _current.get()) is not None:
        bound.spend()


def is_spent() -> bool:
    """Has a call that was made for this request ended because nothing may be repeated any more?"""
    return (bound := _current.get()) is not None and bound.is_spent


@contextmanager
def until(deadline: Deadline) -> Generator[Bound]:
    """Let calls within the block end by then, or until what is given is lifted."""
    bound = Bound(deadline, _current.get())
    token = _current.set(bound)
    try:
        yield bound
    finally:
        _current.reset(token)
        bound.lift()
