"""Time limits of attempts on one event loop, with one timer for all of them.

``asyncio.timeout`` gives each block a timer of its own, which costs more than all else that the loop does for a call,
and nearly every limit ends long before it is due. So here a limit is an entry in a heap, and only the first of them has
a timer. Invariant, as of ``asyncio.timeout``: a task is cancelled by its limit once at the most, and a cancellation
from elsewhere is never taken for the limit's.
"""

import asyncio
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf

_SLACK = 64
"""So many entries that are over may lie in the heap, besides as many as there are limits, before it is cleared."""


class Limit:
    """What one task may take for one thing: ``end`` it in any case."""

    __slots__ = ("_before", "_of", "_task", "has_passed")

    def __init__(self, of: "TimeLimits", task: "asyncio.Task[object]") -> None:
        self._of = of
        self._task: asyncio.Task[object] | None = task
        self._before = task.cancelling()
        self.has_passed = False

    def __repr__(self) -> str:
        return f"<Limit {'over' if self._task is None else 'passed' if self.has_passed else 'to come'}>"

    @property
    def is_over(self) -> bool:
        """Has it ended?"""
        return self._task is None

    def cut(self) -> None:
        """It has passed: cancel what it is about."""
        if self._task is not None:
            self.has_passed = True
            self._task.cancel()

    def end(self) -> bool:
        """End it; True: it has passed, and a cancellation that arrives now is its own and nobody else's."""
        task, self._task = self._task, None
        self._of.active -= 1
        return self.has_passed and task is not None and task.uncancel() <= self._before


class TimeLimits:
    """The limits of the calls of one client on one loop."""

    __slots__ = ("_due", "_numbers", "_timer", "active", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.active = 0
        self._due: list[tuple[float, int, Limit]] = []
        self._numbers = count()  # of entries that are due at the same instant the first comes first
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<TimeLimits {self.active} active>"

    def begin(self, seconds: float) -> Limit:
        """Cancel the current task in so many seconds, unless that is ended before."""
        loop = self.loop
        task = asyncio.current_task(loop)
        assert task is not None, "limits are for tasks"
        limit = Limit(self, task)
        self.active += 1
        at = loop.time() + seconds
        due = self._due
        heappush(due, (at, next(self._numbers), limit))
        if self._timer is None or due[0][2] is limit:
            self._wait_until(due[0][0])
        elif len(due) > 2 * self.active + _SLACK:
            self._clear()
        return limit

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _clear(self) -> None:
        """Take out what is over. The timer may come too early then, and finds nothing to do."""
        self._due = [each for each in self._due if not each[2].is_over]
        heapify(self._due)

    def _pass(self) -> None:
        """The timer has come: cut what is due, and wait for the next one that is still to come."""
        now, due = self.loop.time(), self._due
        while due and (due[0][2].is_over or due[0][0] <= now):
            heappop(due)[2].cut()
        self._timer = None
        if due:
            self._wait_until(due[0][0])

    def _wait_until(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if at == inf else self.loop.call_at(at, self._pass)
