"""TCP services of the mesh, without a proxy: connections to their instances, and servers that take them.

    from masche.library import tcp

    reader, writer = await tcp.open("db", 5432)  # asyncio's streams
    connection = tcp.connect("db", 5432)  # what is used like a socket

    async with await tcp.start_server(handle, 5432) as server:  # as asyncio.start_server
        await server.serve_forever()

Mutual TLS with the identity that is expected there, balanced and limited like requests. Of what is carried nothing is
read. Invariant: only services of the mesh are connected to, and never in plaintext unless the mesh itself says so.
"""

import asyncio
from dataclasses import replace
from functools import partial

from masche.library import resident as residents
from masche.library.core import streams_async, streams_sync
from masche.library.core.facade import Facade
from masche.library.core.streams import NotConnectedError
from masche.library.core.streams_sync import Stream
from masche.library.inbound.health import turning
from masche.library.inbound.listen import bound
from masche.library.inbound.stream_server import Handler, StreamServer
from masche.library.inbound.streams import StreamDoor
from masche.library.life.options import port as read_port
from masche.library.life.residence import Resident
from masche.model.port import Port

__all__ = ["Handler", "NotConnectedError", "Stream", "StreamServer", "connect", "open", "start_server"]

LIMIT = 2**16
"""Bytes that a StreamReader reads ahead, as asyncio has it."""


async def open(  # noqa: A001 # as asyncio has open_connection; it is written tcp.open
    host: str,
    port: int,
    *,
    timeout: float | None = None,  # noqa: ASYNC109 # for those who have a loop but no block around the call
    limit: int = LIMIT,
    facade: Facade | None = None,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to an instance of the TCP service ``host`` at its Service's ``port``.

    ``timeout``: seconds for the connection to be made, all tries together; each is limited by the service's own
    ``timeouts.connect``. ``limit`` as for ``asyncio.open_connection``; ``facade`` is for tests.

    Raises NotConnectedError (an OSError) when the mesh has nobody to connect to or does not know the service, OSError
    when no instance could be connected to, TimeoutError, and NotReadyError when nothing is known of the mesh yet.
    """
    return await streams_async.opened(facade or residents.facade(), host, port, timeout=timeout, limit=limit)


def connect(host: str, port: int, *, timeout: float | None = None, facade: Facade | None = None) -> Stream:
    """Connect as ``open`` does, in a thread; ``timeout`` holds for reading and writing as well, as for a socket."""
    return streams_sync.opened(facade or residents.facade(), host, port, timeout=timeout)


async def start_server(
    handler: Handler,
    port: int | str | Port,
    *,
    host: str = "0.0.0.0",  # noqa: S104 - mutual TLS guards the port wherever it is reached
    limit: int = LIMIT,
    resident: Resident | None = None,
) -> StreamServer:
    """Serve TCP in the mesh: ``handler(reader, writer)`` is called for each connection, as by asyncio.start_server.

    Mutual TLS or plaintext as PeerAuthentication says just then, and whom AuthorizationPolicies let in;
    ``peer.current()`` in the handler is who calls. The port is ``5432``, or ``db:5432`` by its name; it gets traffic
    once it can take it. ``async with`` the server, or ``close`` it, to leave in order. Raises OSError when the port is
    not to be had.
    """
    at = read_port(port)
    at = at if at.protocol else replace(at, protocol="tcp")
    listening = bound(host, at.port)
    who = resident or residents.resident()
    identity = who.facade.identity
    door = StreamDoor(at.port, workload=lambda: who.workload, reception=who.reception, counter=who.counter)
    leave = partial(asyncio.to_thread, who.drain)
    server = StreamServer(handler, [listening], door, identity, leave=leave, limit=limit)
    server.start()
    loop = asyncio.get_running_loop()
    who.serve(at, probe=turning(port=at.port, reception=who.reception, identity=identity, loop=loop))
    return server
