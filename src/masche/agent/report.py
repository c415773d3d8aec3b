"""Tells the control plane once a second what this machine's proxies saw.

A Report that was not answered is sent again under its number before anything new is read, so nothing is counted twice
and nothing is left out: Envoy's totals go on in the meantime.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain

from msgspec.structs import replace

from masche.agent import admin, meter
from masche.agent.program import Program
from masche.agent.round_trips import round_trips
from masche.agent.sight import Proxy, Sight, Watched, look
from masche.agent.uplink import Uplink
from masche.link.messages import MessageError, ProxyReport, Report
from masche.link.service import RefusedError

INTERVAL = 1.0

MOST_ENTRIES = 800
"""Edges and endpoints of one Report; each may take some 1,100 bytes, two histograms of it."""

MOST_PARTING = 256
"""Last words of seats that are kept while no control plane hears them."""

SILENT_SECONDS = 0.2
"""So long is an Envoy waited for that did not answer the last time: meanwhile nothing is heard of the others."""

PARTING_SECONDS = 1.0
"""The end of a seat waits for its last words so long at the most."""


class Reporter:
    """Reads every Envoy of the machine and reports."""

    def __init__(
        self,
        *,
        machine: str,
        uplink: Uplink,
        version: str,
        proxies: Callable[[], Iterable[Proxy]],
        programs: Callable[[], Iterable[Program]],
    ) -> None:
        self._machine = machine
        self._uplink = uplink
        self._version = version
        self._proxies = proxies
        self._programs = programs
        self._watched: dict[str, Watched] = {}
        self._parting: deque[ProxyReport] = deque(maxlen=MOST_PARTING)
        self._looking = asyncio.Lock()
        self._silent: frozenset[str] = frozenset()
        self._epoch = secrets.token_hex(8)
        self._sequence = 0
        self._read_at = 0.0

    def __repr__(self) -> str:
        return f"<Reporter {self._sequence} reports, {len(self._watched)} proxies>"

    def quiet(self, proxy: str) -> int:
        """How often in a row nothing had happened at an Envoy that was read once a second; 0 when it is not read."""
        watched = self._watched.get(proxy)
        return watched.meter.quiet if watched and self._uplink.is_connected else 0

    async def run(self) -> None:
        """Report for ever."""
        pending: deque[Report] = deque()
        while True:
            await asyncio.sleep(INTERVAL)
            if not self._uplink.is_connected:
                continue
            pending.extend(() if pending else await self._read())
            with suppress(RefusedError, ConnectionError):  # the next second tries again with the same ones
                while pending:
                    with suppress(MessageError):  # longer than can be, and the same the next time: what follows goes on
                        await self._uplink.report(pending[0])
                    pending.popleft()

    async def part(self, proxy: Proxy) -> None:
        """Read an Envoy that ends now, for the next Report: a job may have come and gone between two."""
        watched = self._watched.setdefault(proxy.proxy, Watched())
        with suppress(TimeoutError):
            async with asyncio.timeout(PARTING_SECONDS), self._looking:
                sight = await look(proxy, watched)
                if sight.reading is not None:
                    self._parting.append(self._proxy(sight, {}))

    async def _read(self) -> Sequence[Report]:
        now = asyncio.get_running_loop().time()
        interval = now - self._read_at if self._read_at else INTERVAL
        self._read_at = now
        async with self._looking:
            proxies = list(self._proxies())
            self._watched = {one.proxy: self._watched.get(one.proxy) or Watched() for one in proxies}
            seen = [await look(one, self._watched[one.proxy], within=self._patience(one)) for one in proxies]
        self._silent = frozenset(each.proxy.proxy for each in seen if each.reading is None)
        round_trips_us = _round_trips(seen)
        reports = [*self._parting, *(self._proxy(each, round_trips_us) for each in seen)]
        reports += [_program(each) for each in self._programs()]
        self._parting.clear()
        return [self._report(interval, part) for part in parts(reports)]

    def _patience(self, proxy: Proxy) -> float:
        return SILENT_SECONDS if proxy.proxy in self._silent else admin.WITHIN

    def _report(self, interval: float, proxies: Sequence[ProxyReport]) -> Report:
        self._sequence += 1
        return Report(
            machine=self._machine,
            epoch=self._epoch,
            sequence=self._sequence,
            interval=interval,
            proxies=tuple(proxies),
        )

    def _proxy(self, sight: Sight, round_trips_us: Mapping[str, int]) -> ProxyReport:
        proxy, reading = sight.proxy, sight.reading
        return ProxyReport(
            proxy=proxy.proxy,
            certificates=proxy.certificates(),
            envoy_version=self._version,
            exposed=proxy.exposed,
            edges=meter.edges(reading, proxy.workload) if reading else (),
            endpoints=meter.endpoints(reading, sight.endpoints, round_trips_us) if reading else (),
            is_live=reading is not None and reading.is_live,
            warming=sight.warming,
        )


def _program(program: Program) -> ProxyReport:
    """What is known of a program from outside: gRPC does not tell what it sees."""
    return ProxyReport(proxy=program.proxy, certificates=program.identity.report(), is_live=program.tenant.is_online)


def _round_trips(seen: Iterable[Sight]) -> Mapping[str, int]:
    """What TCP measured to the endpoints that are connected."""
    endpoints = {way[1] for each in seen for way, standing in each.endpoints.items() if standing.is_connected}
    return round_trips(endpoints) if endpoints else {}


def parts(proxies: Sequence[ProxyReport]) -> Iterator[Sequence[ProxyReport]]:
    """Divide what is to be reported so that no Report is longer than may be sent; there is always at least one part."""
    part: list[ProxyReport] = []
    entries = 0
    for proxy in chain.from_iterable(map(_pieces, proxies)):
        size = len(proxy.edges) + len(proxy.endpoints)
        if part and entries + size > MOST_ENTRIES:
            yield part
            part, entries = [], 0
        part.append(proxy)
        entries += size
    yield part


def _pieces(proxy: ProxyReport) -> Iterator[ProxyReport]:
    """Divide what one proxy has to say when it is too much for a Report: each piece has some of what was counted."""
    most = max(len(proxy.edges), len(proxy.endpoints))
    step = MOST_ENTRIES // 2
    if len(proxy.edges) + len(proxy.endpoints) <= MOST_ENTRIES:
        yield proxy
        return
    for at in range(0, most, step):
        yield replace(proxy, edges=proxy.edges[at : at + step], endpoints=proxy.endpoints[at : at + step])
