"""What runs beside the calls of a client on an event loop, and nobody waits for: copies, mirrored requests, losers.

Invariant: what works here is bounded (what is too much is left out), and all of it ends with the client: each task is
awaited by ``close``.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Beside:
    """The tasks of one client that no call waits for."""

    __slots__ = ("_closing", "_most", "_tasks")

    def __init__(self, most: int) -> None:
        self._most = most
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<Beside {len(self._tasks)} of {self._most}>"

    @property
    def has_room(self) -> bool:
        """May one more be started?"""
        return len(self._tasks) < self._most

    def start(self, work: Coroutine[Any, Any, None], finally_: Callable[[], None] | None = None) -> None:
        """Run something that handles its own errors. ``finally_`` is called at its end, even if it never began: a task
        that is cancelled early enough runs no ``finally`` of its own.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        if finally_ is not None:
            task.add_done_callback(lambda _: finally_())

    def clear(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that frees what was held: it is not cancelled, and not left out."""
        task = asyncio.get_running_loop().create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Cancel what works, and wait until all has ended."""
        for task in list(self._tasks):
            task.cancel()
        while tasks := [*self._tasks, *self._closing]:
            await asyncio.wait(tasks)
            await asyncio.sleep(0)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        self._closing.discard(task)
        if not task.cancelled():
            task.exception()  # it is looked at here, for nobody else will: its attempt was settled long ago
