"""Ways from the agent into the network namespace of an application: a connection, or a Unix socket that leads to one.

What knows addresses only (a client of gRPC) is given the socket. Invariant: whoever may open it is who may open the
agent's own socket, this user alone.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from masche.agent.capture.sockets import open_in
from masche.link.probe import Connect

CHUNK_BYTES = 1 << 16


def into(namespace_path: str) -> Connect:
    """Return what connects to an address inside the network namespace of this file; "" is our own."""
    return partial(_connect, namespace_path) if namespace_path else asyncio.open_connection


async def _connect(namespace_path: str, address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    inside = await asyncio.to_thread(open_in, namespace_path, family, socket.SOCK_STREAM)
    try:
        inside.setblocking(False)  # noqa: FBT003 - the standard library's own signature
        await asyncio.get_running_loop().sock_connect(inside, (address, port))
        return await asyncio.open_connection(sock=inside)
    except BaseException:
        inside.close()
        raise


@asynccontextmanager
async def opened(path: Path, connect: Connect, address: str, port: int) -> AsyncGenerator[str]:
    """Let whoever connects to the Unix socket at ``path`` reach ``address:port``. Yields it as a target of gRPC."""

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            inner, outer = await connect(address, port)
            with contextlib.closing(outer):
                await _first(partial(_pump, reader, outer), partial(_pump, inner, writer))

    path.unlink(missing_ok=True)  # noqa: ASYNC240 - a name in a folder, as below
    server = await asyncio.start_unix_server(lead, path=str(path))
    path.chmod(0o600)  # noqa: ASYNC240 - as above
    try:
        async with server:
            yield f"unix:{path}"
    finally:
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - as above


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()


async def _first(*ways: Callable[[], Awaitable[None]]) -> None:
    """Carry both directions until one of them ends."""
    tasks = [asyncio.ensure_future(way()) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
