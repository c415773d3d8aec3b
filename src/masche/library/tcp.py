"""TCP services of the mesh, without a proxy: connections to their instances, and servers that take them.

    from masche.library import tcp

    reader, writer = await tcp.open("db", 5432)  # asyncio's streams
    connection = tcp.connect("db", 5432)  # what is used like a socket

Mutual TLS with the identity that is expected there, balanced and limited like requests. Of what is carried nothing is
read. Invariant: only services of the mesh are connected to, and never in plaintext unless the mesh itself says so.
"""

import asyncio

from masche.library.core import streams_async, streams_sync
from masche.library.core.facade import Facade
from masche.library.core.streams import NotConnectedError
from masche.library.core.streams_sync import Stream
from masche.library.resident import facade as resident

__all__ = ["NotConnectedError", "Stream", "connect", "open"]

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
    return await streams_async.opened(facade or resident(), host, port, timeout=timeout, limit=limit)


def connect(host: str, port: int, *, timeout: float | None = None, facade: Facade | None = None) -> Stream:
    """Connect as ``open`` does, in a thread; ``timeout`` holds for reading and writing as well, as for a socket."""
    return streams_sync.opened(facade or resident(), host, port, timeout=timeout)
