"""When the agent gives memory back, its own and its Envoys': once nobody comes or goes any more, and now and then.

What comes in bursts is needed again in the next burst, so nothing is given back in the middle of one. Invariant: an
Envoy that carried something lately keeps all it has.
"""

import asyncio
from typing import Final

from masche.agent import memory
from masche.agent.report import Reporter
from masche.agent.server import Server

SETTLED_SECONDS: Final = 2.0
"""Nobody came or went for so long; what that leads to goes on for a while, so it is done again after some times as
long."""

AGAIN: Final = 4.0
SELDOM_SECONDS: Final = 300.0

QUIET_READINGS: Final = 3
"""An Envoy that carried nothing the last times it was read, once a second, is idle."""


class Pace:
    """When it is time, by who sits here. Pure."""

    def __init__(self, *, now: float) -> None:
        self.is_settled = False
        self._seats = (0, 0)
        self._pause, self._due = SETTLED_SECONDS, now + SETTLED_SECONDS

    def __repr__(self) -> str:
        return f"<Pace at {self._seats}, due at {self._due:.1f}>"

    def is_due(self, seats: tuple[int, int], *, now: float) -> bool:
        """Whether to give memory back now; ``seats`` is how many there are, and how many of them still start."""
        if seats != self._seats:
            self.is_settled, self._seats = False, seats
            self._pause, self._due = SETTLED_SECONDS, now + SETTLED_SECONDS
        if now < self._due:
            return False
        self.is_settled = True
        self._pause = min(self._pause * AGAIN, SELDOM_SECONDS)
        self._due = now + self._pause
        return True


class Tidying:
    """Looks once a second whether it is time."""

    def __init__(self, server: Server, reporter: Reporter) -> None:
        self._server = server
        self._reporter = reporter
        self._tidied: set[int] = set()

    def __repr__(self) -> str:
        return f"<Tidying, {len(self._tidied)} Envoys done>"

    async def run(self) -> None:
        """Tidy for ever."""
        now = asyncio.get_running_loop().time
        pace = Pace(now=now())
        while True:
            if pace.is_due(self._seats(), now=now()):
                memory.give_back()
            if pace.is_settled:
                await self._tidy_envoys()
            else:
                self._tidied.clear()
            await asyncio.sleep(1.0)

    def _seats(self) -> tuple[int, int]:
        """How many there are, and of how many the command has not answered yet."""
        phases = [each.phase for each in self._server.seated.values()]
        return len(phases), phases.count("STARTING")

    async def _tidy_envoys(self) -> None:
        """Each once, as soon as it is idle."""
        for proxy in self._server.proxies():
            pid = proxy.supervisor.pid
            if pid and pid not in self._tidied and self._reporter.quiet(proxy.proxy) >= QUIET_READINGS:
                self._tidied.add(pid)
                await asyncio.to_thread(memory.page_out, pid)
