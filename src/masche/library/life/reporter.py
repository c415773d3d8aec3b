"""Tells the control plane once a second what this process saw: adds up in small steps, so that calls are never held up.

A Report that was not answered is sent again under its number before anything new is said, so nothing is counted twice
and nothing is left out.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

from masche.library.life.measures import Sums
from masche.library.life.presence import Presence
from masche.link.messages import EdgeReport, EndpointReport, MessageError, ProxyReport, Report, ReportReply
from masche.link.refusal import RefusedError

INTERVAL: Final = 1.0
BUSY: Final = 0.05
"""Seconds between two steps of adding up while there are calls."""
IDLE: Final = 0.25
"""The same while there are none."""
MOST_ENTRIES: Final = 800
"""Edges and endpoints of one Report; each may take some 1,100 bytes, two histograms of it."""

Send = Callable[[Report], Awaitable[ReportReply]]
"""Sends one Report. Raises RefusedError, ConnectionError."""


class Reporter:
    """Reports for one Presence. ``is_live`` says whether all that we should hold is in force."""

    def __init__(self, presence: Presence, send: Send, *, is_live: Callable[[], bool]) -> None:
        self._presence = presence
        self._send = send
        self._is_live = is_live
        self._last = 0.0
        self._sending = asyncio.Lock()  # who leaves reports once more, perhaps while a Report is under way

    def __repr__(self) -> str:
        return f"<Reporter {self._presence.sequence} reports, {len(self._presence.pending)} not answered>"

    async def run(self) -> None:
        """Report for ever."""
        loop = asyncio.get_running_loop()
        self._last = loop.time()
        while True:
            await asyncio.sleep(BUSY if self._collected() else IDLE)
            if loop.time() - self._last >= INTERVAL and self._presence.is_registered:
                await self.report()

    async def report(self) -> None:
        """Say what there is to say; what is not answered now is said again the next time."""
        async with self._sending:
            await self._say()

    async def _say(self) -> None:
        self._collected()
        presence = self._presence
        if not presence.pending:
            presence.pending.extend(self._made())
        with suppress(RefusedError, ConnectionError):
            while presence.pending:
                with suppress(MessageError):  # longer than can be, and the same the next time: what follows goes on
                    await self._send(presence.pending[0])
                presence.pending.pop(0)

    def _collected(self) -> bool:
        self._presence.measures.collect(self._presence.sums)
        return bool(self._presence.sums)

    def _made(self) -> Sequence[Report]:
        presence = self._presence
        workload = presence.name
        assert workload is not None
        now = asyncio.get_running_loop().time()
        interval, self._last = max(now - self._last, 0.001), now
        sums, presence.sums = presence.sums, Sums()
        edges, endpoints = sums.edges(workload), sums.endpoints(presence.measures.standings())
        return [self._report(interval, edges[a], endpoints[b]) for a, b in _parts(len(edges), len(endpoints))]

    def _report(self, interval: float, edges: tuple[EdgeReport, ...], endpoints: tuple[EndpointReport, ...]) -> Report:
        presence = self._presence
        assert presence.name is not None
        presence.sequence += 1
        proxy = ProxyReport(
            proxy=presence.proxy,
            edges=edges,
            endpoints=endpoints,
            certificates=presence.keeper.report(presence.name),
            is_live=self._is_live(),
        )
        return Report(
            machine=presence.machine,
            epoch=presence.process,
            sequence=presence.sequence,
            interval=interval,
            proxies=(proxy,),
        )


def _parts(edges: int, endpoints: int) -> list[tuple[slice, slice]]:
    """Divide so many of each so that no Report is longer than may be sent; there is always at least one part."""
    step = MOST_ENTRIES // 2
    return [(slice(at, at + step), slice(at, at + step)) for at in range(0, max(edges, endpoints, 1), step)]
