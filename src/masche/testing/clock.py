"""A clock that stands still until a test moves it; whoever waits on it wakes exactly then.

``clock`` itself is a ``Now``: call it for monotonic seconds.
"""

import asyncio
import heapq
from datetime import UTC, datetime, timedelta
from itertools import count

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """Monotonic seconds that begin at ``now`` and never move by themselves."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self._began = now
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []

    def __call__(self) -> float:
        """The present, in seconds."""
        return self.now

    def __repr__(self) -> str:
        return f"<Clock {self.now:g} s, {len(self._sleepers)} asleep>"

    def wall(self) -> datetime:
        """The time of day that goes with ``now``: the first of January 2026 when the clock began."""
        return START + timedelta(seconds=self.now - self._began)

    def advance(self, seconds: float) -> float:
        """Move on by ``seconds`` (not below 0), wake who has slept long enough, and return the new present."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self.now += seconds
        while self._sleepers and self._sleepers[0][0] <= self.now:
            heapq.heappop(self._sleepers)[2].set()
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was advanced by ``seconds``."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        awake = asyncio.Event()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), awake))
        await awake.wait()
