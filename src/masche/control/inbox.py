"""What an agent said and nobody heard yet: read ahead, so that of what it says again and again only the last counts.

A node's agent says all of its workloads whenever one of them changes; when a hundred start at once that is a hundred
states, of which the last has everything. Invariant: nothing is left out but a state of a proxy that the very next
message replaces, and no more than ``AHEAD`` messages wait.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from masche.link.messages import FromAgent, ProxyState

AHEAD = 8


class Inbox:
    """Fill it in one task and read ``messages`` in another."""

    def __init__(self) -> None:
        self._waiting: deque[FromAgent] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._failure: Exception | None = None
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Inbox {len(self._waiting)} waiting{', at its end' if self._is_over else ''}>"

    async def fill(self, incoming: AsyncIterator[FromAgent]) -> None:
        """Read to the end, or to a failure, which is raised to whoever reads ``messages``."""
        try:
            async for message in incoming:
                await self._put(message)
        except Exception as error:  # noqa: BLE001 - it is another task's to handle
            self._failure = error
        finally:
            self._is_over = True
            self._news.set()

    async def _put(self, message: FromAgent) -> None:
        if self._waiting and _replaces(message, self._waiting[-1]):
            self._waiting.pop()
        while len(self._waiting) >= AHEAD:
            self._room.clear()
            await self._room.wait()
        self._waiting.append(message)
        self._news.set()

    async def messages(self) -> AsyncIterator[FromAgent]:
        """What was said, in order, to the end. Raises what reading it raised."""
        while True:
            while self._waiting:
                self._room.set()
                yield self._waiting.popleft()
            if self._is_over:
                break
            self._news.clear()
            await self._news.wait()
        if self._failure:
            raise self._failure


def _replaces(new: FromAgent, old: FromAgent) -> bool:
    return isinstance(new, ProxyState) and isinstance(old, ProxyState) and new.proxy == old.proxy
