"""A TCP server on asyncio's streams whose port the mesh guards: mutual TLS, plaintext or both, as it says just then.

Connections are taken as those of HTTP servers are (``inbound.listen``), judged by the door, and given to the handler as
``asyncio.start_server`` gives them, with the caller's identity (``library.peer``). Invariant: the handler never gets a
connection that the door did not let in, and each ends when its handler does, however it does.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from socket import socket
from typing import Any, Self, cast

from masche.library import peer as peers
from masche.library.core.counting_writer import counting_writer
from masche.library.core.ports import BYTES, Identity
from masche.library.inbound.introduced import shown_by
from masche.library.inbound.listen import Listener
from masche.library.inbound.streams import RefusedError, StreamDoor, StreamPassage
from masche.library.peer import Peer

_log = logging.getLogger("masche.library")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

GRACE = 10.0
"""Seconds that open connections have at the end."""


class StreamServer:
    """Takes the connections of one port. ``leave`` tells callers that it ends, and returns when they have heard it."""

    def __init__(
        self,
        handler: Handler,
        sockets: Sequence[socket],
        door: StreamDoor,
        identity: Identity,
        *,
        leave: Callable[[], Awaitable[object]],
        limit: int,
    ) -> None:
        self.handler, self.door, self.identity, self.limit = handler, door, identity, limit
        self._leave = leave
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_ending = False
        self._ended = asyncio.Event()
        self._listener = Listener(
            sockets, self._protocol, mode=door.mode, context=lambda: identity.server_context(BYTES)
        )

    def __repr__(self) -> str:
        return f"<StreamServer {self.door!r}: {len(self._tasks)} connections>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def sockets(self) -> tuple[socket, ...]:
        """Where it listens."""
        return self._listener.sockets

    def start(self) -> None:
        """Begin to take connections."""
        self._listener.start()

    async def serve_forever(self) -> None:
        """Return once it is closed; cancelled, close it."""
        try:
            await self._ended.wait()
        finally:
            await self.close()

    async def close(self, grace: float = GRACE) -> None:
        """Leave in order: callers are told and have heard of it, then the port is closed, then connections that do not
        end within ``grace`` seconds. Whoever asks for it while somebody does it waits for the same end.
        """
        if self._is_ending:
            await self._ended.wait()
            return
        self._is_ending = True
        try:
            await self._leave()
            await self._stop_listening()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=grace)
        finally:
            await self._end()

    async def _stop_listening(self) -> None:
        self._listener.close()
        await self._listener.wait_closed()

    async def _end(self) -> None:
        """Whatever came of leaving in order, nothing goes on."""
        await self._stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._ended.set()

    def begin(self, reader: asyncio.StreamReader, protocol: "_Taken", passage: StreamPassage) -> None:
        """Give a connection to the handler, in a task that knows who calls."""
        peer = Peer.of(passage.shown.peer) if passage.shown else None
        with peers.calling(peer):
            task = asyncio.get_running_loop().create_task(self._handle(reader, protocol, passage))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, reader: asyncio.StreamReader, protocol: "_Taken", passage: StreamPassage) -> None:
        writer = counting_writer(protocol.transport, protocol, reader, passage)
        try:
            await self._served(reader, writer)
        except asyncio.CancelledError:
            protocol.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()
            raise
        finally:
            passage.end(received=protocol.received, is_broken=protocol.is_broken)

    async def _served(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the handler has ended, and the caller has what it wrote."""
        try:
            await self.handler(reader, writer)
        except ConnectionError:  # the caller has gone
            pass
        except Exception:  # noqa: BLE001 - one connection ends by itself, whatever its handler met
            _log.exception("the handler of a connection failed")
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    def _protocol(self) -> asyncio.Protocol:
        return _Taken(self)


class _Taken(asyncio.StreamReaderProtocol):
    """One connection, from the end of its handshake on."""

    transport: asyncio.Transport

    def __init__(self, server: StreamServer) -> None:
        loop = asyncio.get_running_loop()
        self._server = server
        self._taken = asyncio.StreamReader(server.limit, loop)
        self.received = 0
        self.is_broken = False
        super().__init__(self._taken, loop=loop)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Judge it."""
        self.transport = cast("asyncio.Transport", transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        shown = shown_by(tls, self._server.identity) if tls is not None else None
        try:
            passage = self._server.door.enter(
                shown, source_ip=_host(transport, "peername"), destination_ip=_host(transport, "sockname")
            )
        except RefusedError:
            self.transport.abort()
            return
        super().connection_made(transport)
        self._server.begin(self._taken, self, passage)

    def data_received(self, data: bytes) -> None:
        """Count what comes."""
        self.received += len(data)
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended."""
        self.is_broken = exc is not None
        super().connection_lost(exc)


def _host(transport: asyncio.BaseTransport, name: str) -> str:
    address: Any = transport.get_extra_info(name)
    return str(address[0]) if address else ""
