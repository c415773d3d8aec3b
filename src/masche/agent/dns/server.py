"""Mesh DNS: answers in the namespaces of workloads, by UDP and TCP, and asks the host's resolvers from outside them.

Invariant: names of the mesh are answered without waiting for anybody, whoever is gone (a control plane, a resolver);
anything else is answered, with a failure if need be, within ``upstream.GIVE_UP_AFTER`` seconds. What one workload asks
takes no room from what another one asks.

Only an agent with captured workloads imports this, when it has the first: dnspython takes 4 MB of its memory.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, cast

from masche.agent.dns.answering import LARGEST_QUERY, Answering, Elsewhere, Names, failure, truncated
from masche.agent.dns.resolvers import HostResolvers
from masche.agent.dns.upstream import PORT, Upstream

MOST_IN_FLIGHT: Final = 64
"""Queries of one workload that wait for the host's resolvers; above it a query fails at once."""

MOST_CONNECTIONS: Final = 16
"""TCP connections of one workload."""

IDLE_AFTER: Final = 5.0
"""Seconds in which the next query must have come over a TCP connection, and the reply must have been taken."""

_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})

OpenSocket = Callable[[str, socket.AddressFamily, socket.SocketKind], socket.socket]


class Desk:
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
        return f"<Desk {self._answering}, {self._in_flight} in flight, {self._connections} connections>"

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
        """Do it until it is done or the desk closes."""
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
    """The UDP socket of a desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what replies are sent by."""
        self._transport = cast("asyncio.DatagramTransport", transport)  # asyncio's own is none by inheritance

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Reply at once, or when the host's resolvers have."""
        decided = self._desk.decide(data)
        if isinstance(decided, Elsewhere):
            self._desk.start(self._reply_later(decided, data[:2], addr))
        elif decided is not None:
            self._send(decided, addr)

    async def _reply_later(self, asked: Elsewhere, number: bytes, addr: tuple[str | Any, int]) -> None:
        reply = await self._desk.elsewhere(asked, number, is_tcp=False)
        self._send(reply if len(reply) <= asked.limit else truncated(reply, asked.question), addr)

    def _send(self, reply: bytes, addr: tuple[str | Any, int]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(reply, addr)


class MeshDns:
    """Mesh DNS of one machine: a desk in each namespace, one way to the host's resolvers for all of them."""

    def __init__(
        self, *, open_socket: OpenSocket, resolvers: HostResolvers | None = None, upstream_port: int = PORT
    ) -> None:
        self._open_socket = open_socket
        self._resolvers = resolvers or HostResolvers()
        self._upstream = Upstream(self._resolvers, port=upstream_port)

    def __repr__(self) -> str:
        return f"<MeshDns {self._upstream}>"

    async def serve(self, namespace_path: str, port: int, answers: Callable[[], Names]) -> Desk:
        """Answer on ``port`` of the loopback addresses in a namespace ("" for our own) until the Desk is closed.

        nftables' ``redirect`` leads there what a namespace sends itself, and what is bound there replies from there.
        ``answers`` is asked for each query and should return the same object for as long as nothing has changed;
        ``answering.names`` makes it of a Scope. A namespace without IPv6 is served by IPv4 alone.

        Raises:
            OSError: there is no such namespace, or the port is taken.
        """
        desk = Desk(answers, self._resolvers, self._upstream)
        try:
            await desk.listen(self._bound(namespace_path, port))
        except OSError:
            await desk.close()
            raise
        return desk

    def _bound(self, namespace_path: str, port: int) -> tuple[socket.socket, ...]:
        by_ipv4 = self._pair(namespace_path, socket.AF_INET, "127.0.0.1", port)
        try:
            return (*by_ipv4, *self._pair(namespace_path, socket.AF_INET6, "::1", port))
        except OSError as error:
            if error.errno in _NO_IPV6:
                return by_ipv4
            for each in by_ipv4:
                each.close()
            raise

    def _pair(
        self, namespace_path: str, family: socket.AddressFamily, address: str, port: int
    ) -> tuple[socket.socket, ...]:
        """A socket for datagrams and one for connections: bound both, or neither is left."""
        with contextlib.ExitStack() as opened:
            pair = tuple(
                opened.enter_context(self._open_socket(namespace_path, family, kind))
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
            )
            for each in pair:
                each.setblocking(False)  # noqa: FBT003 - the standard library's own signature
                if each.type is socket.SOCK_STREAM:
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                each.bind((address, port))
            opened.pop_all()
            return pair
