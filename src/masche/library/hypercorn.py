"""hypercorn in the mesh: HTTP/1.1 and HTTP/2 on a port that takes mutual TLS, or plaintext, or both.

hypercorn's own protocols on connections that are taken by ``inbound.listen``, so that certificates rotate, modes
change and callers are known as everywhere. It leaves in order: callers are told and gone before the port is closed.
"""

import asyncio
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, Final, cast

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.lifespan import Lifespan
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.protocol.h2 import H2Protocol
from hyperframe.frame import GoAwayFrame

from masche.library import resident as residents
from masche.library.asgi import door
from masche.library.core.ports import HTTP_2, Identity
from masche.library.inbound.asgi import App, Guarded
from masche.library.inbound.health import asking
from masche.library.inbound.introduced import Introduced, introduced
from masche.library.inbound.listen import Listener, bound
from masche.library.life.options import port as read_port
from masche.library.life.residence import Resident
from masche.model.port import Port

IDLE_TIMEOUT: Final = 310
"""Seconds; longer than callers of the mesh keep an idle connection, so that none is closed as it is used."""

FAREWELL: Final = 5.0
"""Seconds in which the caller of an old connection of HTTP/2 hears that it should open another, as Envoy has it."""


def config() -> Config:
    """Return hypercorn's configuration as the mesh wants it; change what you like of it."""
    made = Config()
    made.keep_alive_timeout = IDLE_TIMEOUT
    made.include_server_header = False
    made.h11_max_incomplete_size = 64 * 1024
    return made


async def serve(
    app: App,
    port: int | str | Port,
    *,
    host: str = "0.0.0.0",  # noqa: S104 - mutual TLS guards the port wherever it is reached
    health: str = "",
    settings: Config | None = None,
    resident: Resident | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve an ASGI application in the mesh until ``stop`` (without it: SIGTERM or SIGINT), and leave in order.

    ``health`` is the path that is asked whether the application is well. Raises OSError when the port is not to be had.
    """
    at = read_port(port)
    listening = bound(host, at.port)
    who = resident or residents.resident()
    guard, identity = door(who, at), who.facade.identity
    server = Serving(Guarded(app, guard), settings or config(), identity)
    with _stopping(stop) as stopped:
        await server.start()
        context = cast("Any", identity).server_context
        listener = Listener([listening], server.connection, mode=guard.mode, context=lambda: context(HTTP_2))
        listener.start()
        loop, reception, state = asyncio.get_running_loop(), who.reception, server.state
        who.serve(
            at,
            probe=asking(
                app, health, port=at.port, reception=reception, identity=identity, loop=loop, state=lambda: state
            ),
        )
        await stopped.wait()
        await asyncio.to_thread(who.drain)
        listener.close()
        await listener.wait_closed()
        await server.end()
    await asyncio.to_thread(who.close, drain=0)


class Serving:
    """hypercorn's protocols around one application: ``start``, then a ``connection`` each, then ``end``."""

    def __init__(self, app: App, settings: Config, identity: Identity) -> None:
        self._app = app
        self._settings = settings
        self._identity = identity
        self._open: dict[asyncio.Task[Any], WorkerContext] = {}
        self._living: asyncio.Task[None] | None = None
        self.state: Any = {}

    async def start(self) -> None:
        """Start the application. Raises what it raises."""
        loop = asyncio.get_running_loop()
        self._lifespan = Lifespan(self._wrapped(self._app), self._settings, loop, self.state)
        self._living = loop.create_task(self._lifespan.handle_lifespan())
        await self._lifespan.wait_for_startup()
        if self._living.done():
            self._living.result()

    def connection(self) -> asyncio.Protocol:
        """Return the protocol of one connection."""
        loop = asyncio.get_running_loop()
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), self._serve, loop=loop)

    async def end(self) -> None:
        """Let requests under way end, for as long as the settings say, and then the application."""
        for each in self._open.values():
            await each.terminated.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.graceful_timeout):
                await asyncio.gather(*self._open, return_exceptions=True)
        await self._lifespan.wait_for_shutdown()
        if self._living is not None:
            self._living.cancel()
            await asyncio.gather(self._living, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = asyncio.current_task()
        assert mine is not None
        context = self._open[mine] = WorkerContext(None)
        mine.add_done_callback(lambda done: self._open.pop(done, None))
        app = introduced(self._app, writer.get_extra_info("ssl_object"), self._identity)
        loop = asyncio.get_running_loop()
        server = TCPServer(self._wrapped(app), loop, self._settings, context, self.state, reader, writer)
        ageing = loop.create_task(_age(app.until, server, context)) if isinstance(app, Introduced) else None
        try:
            await server
        finally:
            if ageing is not None:
                ageing.cancel()
                await asyncio.gather(ageing, return_exceptions=True)

    def _wrapped(self, app: App) -> Any:
        return ASGIWrapper(cast("Any", app))


async def _age(until: float, server: TCPServer, context: WorkerContext) -> None:
    """End a connection of HTTP/2 that is too old. RFC 9113, 6.8: "A server that is attempting to gracefully shut down
    a connection SHOULD send an initial GOAWAY frame with the last stream identifier set to 2^31-1 and a NO_ERROR code".
    What is under way ends, and then the connection does.
    """
    await asyncio.sleep(until - time.monotonic())
    if not isinstance(getattr(server.protocol, "protocol", None), H2Protocol):
        return  # of HTTP/1.1 the last answer says so, and a WebSocket is told by itself
    server.writer.write(GoAwayFrame(0, last_stream_id=2**31 - 1).serialize())
    await asyncio.sleep(FAREWELL)
    await context.terminated.set()


@contextmanager
def _stopping(given: asyncio.Event | None) -> Generator[asyncio.Event]:
    """Return what says that it is over: what was given, or the signals that end a process."""
    if given is not None:
        yield given
        return
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
