"""uvicorn in the mesh: its server on a port that takes mutual TLS, and its protocols that say who the caller is.

``Server`` takes connections itself (``inbound.listen``): uvicorn can have TLS or not, and one context for ever.
It leaves in order: callers are told and gone before the port is closed. uvicorn keeps the caller's certificate to
itself, so each of its protocols is wrapped once, by ``introducing``, and reads it once per connection.
"""

import asyncio
import math
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Final, cast

import h11
import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

from masche.library import resident as residents
from masche.library.asgi import door
from masche.library.core.ports import Identity
from masche.library.inbound.asgi import App, Guarded
from masche.library.inbound.health import asking
from masche.library.inbound.introduced import introduced
from masche.library.inbound.listen import Listener, bound
from masche.library.life.options import port as read_port
from masche.library.life.residence import Resident
from masche.model.port import Port
from masche.model.view import MtlsMode

IDLE_TIMEOUT: Final = 310
"""Seconds; longer than callers of the mesh keep an idle connection, so that none is closed as it is used."""

MAX_HEAD_BYTES: Final = 64 * 1024

HEAD_WITHIN: Final = 10.0
"""Seconds within which the head of a request has to come, as for our proxies (slow loris)."""

GRACE: Final = 10.0
"""Seconds that requests under way have at the end."""


_Kind = cast("Any", object)  # one of uvicorn's protocol classes, once ``introducing`` has put it there


class _Introducing(_Kind):
    """What stands before a protocol of uvicorn's: see ``introducing``."""

    kind: Any
    identity: Identity
    late: asyncio.TimerHandle | None = None
    is_within_head = False
    head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.kind.connection_made(self, transport)
        tls = transport.get_extra_info("ssl_object")
        self.app = introduced(self.app, tls, self.identity)
        self.wait(IDLE_TIMEOUT)

    def data_received(self, data: bytes) -> None:
        is_more = self.is_within_head
        self.kind.data_received(self, data)
        # What the head began with may have come behind a body, so it is not counted.
        self.head_bytes = self.head_bytes + len(data) if is_more and self.is_within_head else 0
        if self.head_bytes > MAX_HEAD_BYTES:
            self.is_within_head = False
            self.send_400_response("")
        elif not (self.is_within_head or _is_within_head(self)):
            self.wait(None)
        elif self.late is None or self.late.when() > self.loop.time() + HEAD_WITHIN:
            self.wait(HEAD_WITHIN)

    def connection_lost(self, error: Exception | None) -> None:
        self.wait(None)
        self.kind.connection_lost(self, error)

    def on_message_begin(self) -> None:
        """A parser's word that a head begins (httptools)."""
        self.is_within_head = True
        self.kind.on_message_begin(self)

    def on_headers_complete(self) -> None:
        """Its word that it is there."""
        self.is_within_head = False
        self.kind.on_headers_complete(self)

    def wait(self, seconds: float | None) -> None:
        """Close the connection then; None: not."""
        if self.late is not None:
            self.late.cancel()
        self.late = None if seconds is None else self.loop.call_later(seconds, self.transport.close)

    def send_400_response(self, _msg: str) -> None:
        """As our proxies say it."""
        self.kind.send_400_response(self, "Bad Request")


@cache
def introducing(kind: Any, identity: Identity) -> Any:
    """Return uvicorn's protocol class ``kind`` (HTTP or WebSocket) so that its scopes say who the caller is.

    It also ends connections on which nobody finishes the head of a request, by taking long or by never coming to its
    end, which uvicorn alone would keep for ever, and with httptools in memory.
    """
    return type("Introducing", (_Introducing, kind), {"kind": kind, "identity": identity})


def _is_within_head(protocol: Any) -> bool:
    """Say whether h11 has the beginning of a request and waits for more."""
    conn = getattr(protocol, "conn", None)
    return isinstance(conn, h11.Connection) and conn.their_state is h11.IDLE and bool(conn.trailing_data[0])


def config(app: App, identity: Identity, **options: Any) -> uvicorn.Config:
    """Return uvicorn's configuration of a server in the mesh; ``options`` are uvicorn's own and win.

    Headers by which a proxy would name the caller are not believed: the connection says who it is.
    """
    usual: dict[str, Any] = {
        "http": introducing(AutoHTTPProtocol, identity),
        "ws": introducing(AutoWebSocketsProtocol, identity) if AutoWebSocketsProtocol else "none",
        "proxy_headers": False,
        "server_header": False,
        "access_log": False,
        "log_config": None,
        "timeout_keep_alive": IDLE_TIMEOUT,
        "h11_max_incomplete_event_size": MAX_HEAD_BYTES,
    }
    return uvicorn.Config(cast("Any", app), **{**usual, **options})


class Server(uvicorn.Server):
    """uvicorn's server on sockets that take mutual TLS.

    ``begun`` is called when the application has started and callers can come, ``leave`` is awaited before anything is
    closed.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        sockets: Sequence[socket.socket],
        *,
        mode: Callable[[], MtlsMode | None],
        context: Callable[[], ssl.SSLContext],
        leave: Callable[[], Awaitable[None]],
        begun: Callable[["Server"], None] = lambda _: None,
    ) -> None:
        super().__init__(config)
        self._listener = Listener(sockets, self._protocol, mode=mode, context=context)
        self._leave = leave
        self._begun = begun

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then let callers in."""
        assert sockets is None, "the sockets were given to __init__"
        await super().startup(sockets=[])
        self.servers: list[Any] = [self._listener]
        if not self.should_exit:
            self._listener.start()
            self._begun(self)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell callers and wait until they are gone; then end what is under way, and the application."""
        await self._leave()
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        made: Any = self.config.http_protocol_class
        return made(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def run(
    app: App,
    port: int | str | Port,
    *,
    host: str = "0.0.0.0",  # noqa: S104 - mutual TLS guards the port wherever it is reached
    health: str = "",
    grace: float = GRACE,
    resident: Resident | None = None,
    served: Callable[[Resident], None] = lambda _: None,
    **options: Any,
) -> None:
    """Serve an ASGI application in the mesh until SIGTERM or SIGINT, and leave in order.

    ``health`` is the path that is asked whether the application is well, ``grace`` the seconds for requests under way
    at the end; ``served`` is called when it listens and the mesh is being told; ``options`` are uvicorn's own. Raises
    OSError when the port is not to be had, before anything starts.
    """
    at = read_port(port)
    listening = bound(host, at.port)
    who = resident or residents.resident()
    guard = door(who, at)
    identity = who.facade.identity
    settings = config(Guarded(app, guard), identity, **{"timeout_graceful_shutdown": math.ceil(grace), **options})

    def begun(server: Server) -> None:
        loop, state = asyncio.get_running_loop(), server.lifespan.state
        probe = asking(
            app, health, port=at.port, reception=who.reception, identity=identity, loop=loop, state=lambda: state
        )
        who.serve(at, probe=probe)
        served(who)

    async def leave() -> None:
        await asyncio.to_thread(who.drain)

    context = identity.server_context
    with _ended_by_signals():
        Server(settings, [listening], mode=guard.mode, context=context, leave=leave, begun=begun).run()
    who.close(drain=0)


@contextmanager
def _ended_by_signals() -> Generator[None]:
    """Let a signal end the server and nothing else: uvicorn raises it once more when it is done."""

    def noted(*_: object) -> None:
        """The server has ended by it."""

    before = {number: signal.signal(number, noted) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
