"""What happened, in order: a bounded log in memory for ``masche events`` and the live stream.

Each event has a sequence number that rises by one, so that a reader who comes back knows what it missed. Numbers begin
anew with each control plane: a reader who says a number that was not given yet comes from the one before, and has seen
nothing of this one.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Literal

from masche.model.frozen import frozen

Severity = Literal["info", "warning", "error"]


@frozen
class Event:
    """One thing that happened. ``kind`` is a kebab-case word, ``message`` a sentence for people, ``about`` a Ref or the
    name of what it is about, ``at`` Unix seconds."""

    sequence: int
    at: float
    kind: str
    severity: Severity
    about: str
    message: str


class Events:
    """The last ``limit`` events. ``wall`` gives Unix seconds. ``heard`` is called with each new event, for the log."""

    def __init__(
        self,
        *,
        wall: Callable[[], float],
        limit: int = 10_000,
        heard: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        self._wall = wall
        self._heard = heard
        self._events = deque[Event](maxlen=limit)
        self._news = asyncio.Event()
        self.latest = 0

    def __len__(self) -> int:
        return len(self._events)

    @property
    def oldest(self) -> int:
        """The sequence of the first event still kept; ``latest + 1`` when there is none."""
        return self._events[0].sequence if self._events else self.latest + 1

    def add(self, *, kind: str, message: str, about: str = "", severity: Severity = "info") -> Event:
        """Write down what happened, now, and wake whoever waits."""
        self.latest += 1
        event = Event(sequence=self.latest, at=self._wall(), kind=kind, severity=severity, about=about, message=message)
        self._events.append(event)
        self._heard(event)
        self._news.set()
        self._news = asyncio.Event()
        return event

    def after(self, sequence: int, *, limit: int = 1000) -> tuple[Event, ...]:
        """The first ``limit`` events above ``sequence``, oldest first; ``oldest`` tells whether some are lost."""
        sequence = self._read_up_to(sequence)
        start = max(0, sequence + 1 - self.oldest)
        return tuple(self._events[at] for at in range(start, min(start + limit, len(self._events))))

    async def wait(self, *, after: int, timeout: float) -> bool:  # noqa: ASYNC109 - an answer, not an error, at the end of it
        """Return once there is an event above ``after``, True, or after ``timeout`` seconds, False."""
        if self.latest <= self._read_up_to(after):
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._news.wait()
        return self.latest > self._read_up_to(after)

    async def follow(self, *, after: int) -> AsyncIterator[Event]:
        """Yield every event above ``after`` that is still kept, and every new one, for ever."""
        while True:
            news = self._news
            for event in self.after(after):
                yield event
                after = event.sequence
            if self.latest <= self._read_up_to(after):
                await news.wait()

    def _read_up_to(self, sequence: int) -> int:
        """What a reader has seen of this log who says that it has seen ``sequence``."""
        return sequence if sequence <= self.latest else 0
