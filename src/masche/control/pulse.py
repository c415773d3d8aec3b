"""Waiting for something to become true in a loop that says when it might have: no polling, no lost wake-up."""

import asyncio
from collections.abc import Callable


class Pulse:
    """``beat`` after every change; ``until`` returns as soon as its predicate holds at a beat."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}

    def beat(self) -> None:
        """Something changed: wake those for whom it was enough."""
        for future, happened in list(self._waiting.items()):
            if not future.done() and happened():
                future.set_result(None)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait until ``happened()``, which is asked now and at every beat."""
        if happened():
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting[future] = happened
        try:
            await future
        finally:
            del self._waiting[future]

    def __repr__(self) -> str:
        return f"<Pulse {len(self._waiting)} waiting>"
