"""How the holder of a seat leaves: out of traffic first, its proxy last.

Invariant: a lost agent holds nobody up. It cannot say any more that callers have heard, and who is leaving does not ask
for the seat again.
"""

import asyncio
from contextlib import suppress

DRAIN_SECONDS = 20.0
"""The longest wait for callers to have heard that the workload leaves; the agent's own bound is shorter."""

RELEASE_SECONDS = 15.0
"""The longest wait for the proxy to end."""


class Leaving:
    """How far it has come."""

    def __init__(self) -> None:
        self.has_begun = False
        self._drained = asyncio.Event()
        self._released = asyncio.Event()

    def __repr__(self) -> str:
        steps = {"begun": self.has_begun, "drained": self._drained.is_set(), "released": self._released.is_set()}
        return f"<Leaving: {', '.join(step for step, is_done in steps.items() if is_done) or 'not yet'}>"

    def begin(self) -> None:
        """From now on the seat is not asked for again."""
        self.has_begun = True

    def drained(self) -> None:
        """No caller sends anything more, or nobody waits for that any longer."""
        self._drained.set()

    def released(self) -> None:
        """The proxy has ended."""
        self._released.set()

    def lost(self) -> bool:
        """The agent is gone; return whether its seat is wanted from the next one."""
        self._drained.set()
        if self.has_begun:
            self._released.set()
        return not self.has_begun

    async def until_drained(self) -> None:
        """Wait for that, in bounds."""
        await _within(DRAIN_SECONDS, self._drained)

    async def until_released(self) -> None:
        """Wait for that, in bounds."""
        await _within(RELEASE_SECONDS, self._released)


async def _within(seconds: float, event: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
