"""A connection to a TCP service on an event loop, as asyncio's streams.

Invariant: a connection that nobody got is closed, and one that somebody got is counted until it is closed.
"""

import asyncio
import ssl

from masche.library.core.async_driver import AsyncDriver
from masche.library.core.counting_writer import counting_writer
from masche.library.core.exchange import Answer, Blame, Ending, Head, Target
from masche.library.core.facade import Facade
from masche.library.core.ports import BYTES
from masche.library.core.streams import CONNECTED, Streams, asked, blame, counting, outside, refused
from masche.library.core.ways_async import connected
from masche.traffic.request import Headers, Request

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def opened(facade: Facade, host: str, port: int, *, timeout: float | None, limit: int) -> Pair:  # noqa: ASYNC109 # as a socket has it
    """See ``library.tcp.open``."""
    streams = Streams(facade.recorder)
    mesh = counting(facade, streams)
    driver = AsyncDriver(lambda: mesh)
    try:
        return await driver.call(asked(host, port, timeout), _Exchange(mesh, streams, limit))
    finally:
        await driver.close()


class _Protocol(asyncio.StreamReaderProtocol):
    """One connection. ``ending`` is told once the connection is lost, by whomever."""

    def __init__(self, limit: int) -> None:
        loop = asyncio.get_running_loop()
        self.reader = asyncio.StreamReader(limit, loop)
        super().__init__(self.reader, loop=loop)
        self.ending: Ending | None = None
        self._received = 0
        self._is_lost: Exception | bool = False

    def data_received(self, data: bytes) -> None:
        """Count what comes."""
        self._received += len(data)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        super().connection_lost(exc)
        self._is_lost = exc or True
        self.tell()

    def tell(self) -> None:
        """Tell the end, if there is one and somebody to be told."""
        if self.ending is not None and self._is_lost:
            self.ending.over(received=self._received, is_broken=isinstance(self._is_lost, Exception))


_Raw = tuple[asyncio.Transport, _Protocol]


class _Exchange:
    """One call for a connection."""

    is_spent = False

    def __init__(self, facade: Facade, streams: Streams, limit: int) -> None:
        self._facade, self._streams, self._limit = facade, streams, limit

    async def attempt(self, target: Target) -> _Raw:
        """Connect to one instance."""
        identity = self._facade.identity
        context = identity.client_context(target.identities, BYTES) if target.is_tls else None
        async with asyncio.timeout(target.connect_timeout or None):
            if target.way is None:
                return await self._direct(target, context)
            gateway = identity.client_context(target.way.identities)
            return await connected(self._made, target.way, target.endpoint, gateway=gateway, context=context)

    async def _direct(self, target: Target, context: ssl.SSLContext | None) -> _Raw:
        loop = asyncio.get_running_loop()
        return await loop.create_connection(self._made, target.address, target.port, ssl=context)

    def _made(self) -> _Protocol:
        return _Protocol(self._limit)

    async def outside(self, request: Request) -> Pair:
        """Refuse what is not of the mesh."""
        raise outside(request)

    async def drop(self, raw: _Raw) -> None:
        """Close a connection that nobody wants."""
        raw[0].abort()

    def head(self, raw: _Raw) -> Head:  # noqa: ARG002 # they are all alike
        """It was made."""
        return CONNECTED

    def blame(self, error: Exception) -> Blame:
        """See ``streams``."""
        return blame(error)

    def finished(self, raw: _Raw, headers: Headers, ending: Ending) -> Pair:  # noqa: ARG002 # there are none
        """Hand it over."""
        transport, protocol = raw
        protocol.ending = ending
        writer = counting_writer(transport, protocol, protocol.reader, self._streams)
        protocol.tell()
        return protocol.reader, writer

    def answered(self, answer: Answer) -> Pair:
        """The mesh itself refuses."""
        raise refused(answer)

    def timed_out(self, why: str) -> Exception:
        """It took too long."""
        return TimeoutError(why)
