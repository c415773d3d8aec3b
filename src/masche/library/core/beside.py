"""What runs beside the calls of a client on an event loop, and nobody waits for: copies, mirrored requests, losers.

Invariant: it is bounded (what is too much is left out), and ends with the client: each task is awaited by ``close``.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Beside:
    """The tasks of one client that no call waits for."""

    __slots__ = ("_most", "_tasks")

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<Beside {len(self._tasks)} of {self._most}>"

    @property
    def has_room(self) -> bool:
        """May one more be started?"""
        return len(self._tasks) < self._most

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that handles its own errors."""
        self.keep(asyncio.get_running_loop().create_task(work))

    def keep(self, task: "asyncio.Task[Any]") -> None:
        """See to the end of a task that exists."""
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Cancel all, and wait until they have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it is looked at here, for nobody else will: its attempt was settled long ago
