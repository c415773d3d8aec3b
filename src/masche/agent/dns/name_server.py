"""Answers in the namespace of one workload, by UDP and TCP, and has the host's resolvers asked from outside it.

Invariant: names of the mesh are answered without waiting for anybody, whoever is gone (a control plane, a resolver);
anything else is answered, with a failure if need be, within ``upstream.GIVE_UP_AFTER`` seconds. What one workload asks
takes no room from what another one asks.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, cast

from masche.agent.dns.answering import LARGEST_QUERY, Answering, Elsewhere, failure, truncated
from masche.agent.dns.names import Names
from masche.agent.dns.resolvers import HostResolvers
from masche.agent.dns.upstream import Upstream

MOST_IN_FLIGHT: Final = 64
"""Queries of one workload that wait for the host's resolvers; above it a query fails at once."""

MOST_CONNECTIONS: Final = 16
"""TCP connections of one workload."""

IDLE_AFTER: Final = 5.0
"""Seconds in which the next query must have come over a TCP connection, and the reply must have been taken."""


class NameServer:
    """The place in one namespace where queries are answered, until ``close``."""

    def __init__(self, answers: Callable[[], Names], resolvers: HostResolvers, upstream: Upstream) -> None:
        self._answers = answers
        self._resolvers = resolvers
        self._upstream = upstream
        self._answering = Answering({})
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._connections = 0
        self._until_closed = contextlib.ExitStack()

    def __repr__(self) -> str:
        return f"<NameServer {self._answering}, {self._in_flight} in flight, {self._connections} connections>"

    async def listen(self, sockets: Iterable[socket.socket]) -> None:
        """Serve bound sockets, which are ours from now on."""
        loop = asyncio.get_running_loop()
        for each in sockets:
            self._until_closed.callback(each.close)
            if each.type is socket.SOCK_DGRAM:
                transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=each)
                self._until_closed.callback(transport.close)
            else:
                server = await asyncio.start_server(self._converse, sock=each, limit=LARGEST_QUERY + 2)
                self._until_closed.callback(server.close)

    def at_close(self, function: Callable[[], None]) -> None:
        """Call this as well when it closes."""
        self._until_closed.callback(function)

    async def close(self) -> None:
        """Answer nothing any more; nothing is left of it when this returns."""
        self._until_closed.close()
        for each in self._tasks:
            each.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def decide(self, query: bytes) -> bytes | Elsewhere | None:
        """What becomes of a query, by the names of now."""
        names, search = self._answers(), self._resolvers().search
        if names is not self._answering.names or search is not self._answering.search:
            self._answering = Answering(names, search)
        return self._answering.decide(query)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it until it is done or it closes."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def elsewhere(self, asked: Elsewhere, number: bytes, *, is_tcp: bool) -> bytes:
        """What the host's resolvers say, under the asker's own id."""
        if self._in_flight >= MOST_IN_FLIGHT or self._upstream.is_own(number, asked.question):
            return failure(asked, number)
        self._in_flight += 1
        try:
            reply = await self._upstream.ask(asked.query, asked.question, is_tcp=is_tcp)
        finally:
            self._in_flight -= 1
        return failure(asked, number) if reply is None else number + reply[2:]

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One TCP connection: query by query, as they come (RFC 7766)."""
        task = asyncio.current_task()
        assert task is not None, "a connection is served by a task"
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._connections += 1
        try:
            with contextlib.suppress(OSError, EOFError, TimeoutError):
                while self._connections <= MOST_CONNECTIONS:
                    await self._converse_once(reader, writer)
        finally:
            self._connections -= 1
            writer.transport.abort()

    async def _converse_once(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(IDLE_AFTER):
            size = int.from_bytes(await reader.readexactly(2))
            if size > LARGEST_QUERY:
                raise EOFError
            query = await reader.readexactly(size)
        decided = self.decide(query)
        if isinstance(decided, Elsewhere):
            decided = await self.elsewhere(decided, query[:2], is_tcp=True)
        if decided is None:
            raise EOFError
        writer.write(len(decided).to_bytes(2) + decided)
        async with asyncio.timeout(IDLE_AFTER):
            await writer.drain()


class _Datagrams(asyncio.DatagramProtocol):
    """The UDP socket of a name server."""

    def __init__(self, server: NameServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what replies are sent by."""
        self._transport = cast("asyncio.DatagramTransport", transport)  # asyncio's own is none by inheritance

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Reply at once, or when the host's resolvers have."""
        decided = self._server.decide(data)
        if isinstance(decided, Elsewhere):
            self._server.start(self._reply_later(decided, data[:2], addr))
        elif decided is not None:
            self._send(decided, addr)

    async def _reply_later(self, asked: Elsewhere, number: bytes, addr: tuple[str | Any, int]) -> None:
        reply = await self._server.elsewhere(asked, number, is_tcp=False)
        self._send(reply if len(reply) <= asked.limit else truncated(reply, asked.question), addr)

    def _send(self, reply: bytes, addr: tuple[str | Any, int]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(reply, addr)
