"""Hands every Change to every watcher, in order and once, from a short memory and beyond it from the log.

A watcher is a revision and nothing else: one that is slow costs no memory and falls back on the log. Lives on one event
loop.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from itertools import islice

from masche.model.ports import Change, CompactedError

Older = Callable[[int], Awaitable[Sequence[Change]]]
"""Reads the first Changes after a revision from the log; raises CompactedError when the log no longer has them."""

PAGE = 256


class Feed:
    """The recent Changes of a store whose last published revision is ``revision``."""

    def __init__(self, *, revision: int, recent: int = 1024) -> None:
        self.revision = revision
        self._recent: deque[Change] = deque(maxlen=recent)
        self._news = asyncio.Event()
        self._closed = False

    def publish(self, changes: Iterable[Change]) -> None:
        """Make durable changes visible to every watcher."""
        for change in changes:
            self._recent.append(change)
            self.revision = change.revision
        self._wake()

    def close(self) -> None:
        """End every watch after what was published."""
        self._closed = True
        self._wake()

    async def watch(self, *, after: int, older: Older) -> AsyncIterator[Change]:
        """Yield every Change above ``after``, for ever. Raises CompactedError where Source.watch says so."""
        if after > self.revision:
            why = f"revision {after} is ahead of this store, which is at {self.revision}; read a snapshot"
            raise CompactedError(why)
        while True:
            news = self._news
            if after < self.revision:
                for change in await self._page(after, older):
                    yield change
                    after = change.revision
            elif self._closed:
                return
            else:
                await news.wait()

    async def _page(self, after: int, older: Older) -> Sequence[Change]:
        if self._recent and after >= self._recent[0].revision - 1:
            start = after + 1 - self._recent[0].revision
            return tuple(islice(self._recent, start, start + PAGE))
        return await older(after)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
