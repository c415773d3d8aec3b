"""Time limits of attempts on one event loop, with one timer for all of them.

``asyncio.timeout`` gives each block a timer of its own, which costs more than all else that the loop does for a call,
and nearly every limit ends long before it is due. So here a limit is a member of a set, and one timer waits for the
first of those that there were when it was set; when it comes, it looks at all that are there now, which are no more
than the calls under way. Invariant, as of ``asyncio.timeout``: a task is cancelled by its limit once at the most, and a
cancellation from elsewhere is never taken for the limit's.
"""

import asyncio
from math import inf
from types import TracebackType
from typing import Protocol


class OutOfTimeError(Exception):
    """What was limited has had all the time that it was given."""


class Limited(Protocol):
    """What has an end: monotonic seconds of the loop."""

    at: float
    has_passed: bool

    def cut(self) -> None:
        """It has passed: end what it is about, and note that it ``has_passed``."""
        ...


class Limit:
    """What one task may take for one thing. To be left in the task that it is of; it begins before it is entered."""

    __slots__ = ("_active", "_before", "_task", "at", "has_passed")

    def __init__(self, active: set[Limited], task: "asyncio.Task[object]", at: float) -> None:
        self._active, self._task, self.at = active, task, at
        self._before = task.cancelling()
        self.has_passed = False
        active.add(self)

    def __repr__(self) -> str:
        return f"<Limit {'over' if self not in self._active else 'passed' if self.has_passed else 'to come'}>"

    def cut(self) -> None:
        """It has passed: cancel what it is about."""
        self.has_passed = True
        self._task.cancel()

    def __enter__(self) -> None:
        """It has begun."""

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        """End it. Raises OutOfTimeError when it has passed, and the cancellation that arrives is nobody else's."""
        self._active.discard(self)
        if self.has_passed and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise OutOfTimeError from None


class TimeLimits:
    """The limits of the calls of one client on one loop."""

    __slots__ = ("_timer", "_wakes_at", "active", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.active: set[Limited] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = inf

    def __repr__(self) -> str:
        return f"<TimeLimits {len(self.active)} active>"

    def within(self, seconds: float) -> Limit:
        """Cancel the current task in so many seconds (infinite: never), unless the block that this begins has ended."""
        loop = self.loop
        task = asyncio.current_task(loop)
        assert task is not None, "limits are for tasks"
        at = loop.time() + seconds
        if at < self._wakes_at:
            self._wait_until(at)
        return Limit(self.active, task, at)

    def add(self, limited: Limited) -> None:
        """Let something end when its time comes, unless it is taken out of ``active`` before."""
        if limited.at < self._wakes_at:
            self._wait_until(limited.at)
        self.active.add(limited)

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._wakes_at = None, inf

    def _pass(self) -> None:
        """The timer has come: cut what is due, and wait for the first that is still to come."""
        now, first = self.loop.time(), inf
        for each in tuple(self.active):
            if each.has_passed:
                continue
            if each.at <= now:
                each.cut()
            elif each.at < first:
                first = each.at
        self._timer, self._wakes_at = None, inf
        if first < inf:
            self._wait_until(first)

    def _wait_until(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._wakes_at = at
        self._timer = self.loop.call_at(at, self._pass)
