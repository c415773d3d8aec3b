"""One HTTP/1.1 connection of an httpx client on an event loop: h11 says what bytes mean, and the loop carries them.

It does what httpcore does with h11, without what that costs: several generators, locks and scopes of cancellation for
each step of a call. Invariant: it may carry another request only when h11 says that request and answer are complete;
whatever else happens it is closed, at once and without waiting, so that a cancelled call leaves nothing behind.
"""

import asyncio
import select
from collections.abc import AsyncIterable, Sequence
from math import inf
from typing import Any, cast

import h11

from masche.library.core.tls_buffers import lighten

_LONGEST = 100 * 1024
"""Bytes of a head, or of the line before a chunk, at most (httpcore's limit)."""

_MOST_UNREAD = 256 * 1024
"""Bytes that came and were not read yet, above which the peer has to wait."""

_EARLY = 0.001
"""Seconds by which a loop's timer may come too early."""

Limits = dict[str, float | None]
"""Seconds for each ``read`` and ``write``; None: for ever. What is read counts at the moment when a wait begins."""

Pairs = Sequence[tuple[bytes, bytes]]


class Connection(asyncio.Protocol):
    """A connection that is made, or being made. ``errors`` is the client's module, whose exceptions are raised.

    ``idle_since``: when it was given back, by the clock of ``loop``. ``is_ended``: the peer sends nothing any more.
    """

    def __init__(self, errors: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.idle_since = 0.0
        self.is_ended = False
        self._errors = errors
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LONGEST)
        self._transport: asyncio.Transport | None = None
        self._raw: bytearray | None = None
        self._broken: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._unread = 0
        self._due = self._timer_at = inf
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "closed" if self._transport is None else "ended" if self.is_ended else self._http.our_state
        return f"<Connection {state}>"

    # Told by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is made, its handshake over."""
        lighten(transport)
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._raw is None:
            self._http.receive_data(data)
        else:
            self._raw += data
        self._unread += len(data)
        if self._unread > _MOST_UNREAD and self._transport is not None:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        """The peer sends nothing any more; then the loop closes the connection."""
        self.is_ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whomever."""
        self.is_ended, self._broken, self._transport = True, exc, None
        self._wake()
        self.resume_writing()

    def pause_writing(self) -> None:
        """Too much is still to be sent."""
        self._room = self.loop.create_future()

    def resume_writing(self) -> None:
        """There is room again."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    # Used again, or closed

    @property
    def is_closed(self) -> bool:
        """Is it gone, here and there?"""
        return self._transport is None

    @property
    def is_usable(self) -> bool:
        """Can an idle connection take a request? Not if the peer closed it, or sent what nobody asked for."""
        transport = self._transport
        if self.is_ended or self._unread or transport is None or transport.is_closing():
            return False
        return not _is_readable(transport.get_extra_info("socket"))

    def rest(self) -> bool:
        """End an exchange; False: it cannot be used again."""
        http = self._http
        if http.our_state is not h11.DONE or http.their_state is not h11.DONE or self.is_ended:
            return False
        http.start_next_cycle()
        self._read_on()
        self._unread = 0 if http.trailing_data == (b"", False) else 1
        self.idle_since = self.loop.time()
        return True

    def close(self) -> None:
        """Close it at once, without the farewell of TLS, for which nobody would wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, inf
        if self._transport is not None and not self.loop.is_closed():
            self._transport.abort()

    # One exchange

    async def send(
        self, method: bytes, target: bytes, headers: Pairs, body: bytes | AsyncIterable[bytes], limits: Limits
    ) -> Any:
        """Send a request and return the head of its answer, of h11's. Raises the client's exceptions."""
        http, ended = self._http, h11.EndOfMessage()
        try:
            head = _sent(http.send(h11.Request(method=method, target=target, headers=list(headers))))
            if isinstance(body, bytes):
                data = _sent(http.send(h11.Data(data=body))) if body else b""
                await self.write(head + data + _sent(http.send(ended)), limits["write"])
            else:
                await self.write(head, limits["write"])
                async for part in body:
                    await self.write(_sent(http.send(h11.Data(data=part))), limits["write"])
                await self.write(_sent(http.send(ended)), limits["write"])
        except h11.LocalProtocolError as error:
            raise self._errors.LocalProtocolError(str(error)) from error
        return await self._head(limits)

    async def part(self, limits: Limits) -> bytes | None:
        """Return the next part of the answer's body; None at its end."""
        while True:
            event = await self._event(limits)
            if not isinstance(event, h11.Data):
                return None
            if event.data:
                return bytes(event.data)

    async def write(self, data: bytes, seconds: float | None) -> None:
        """Send bytes. Nothing happens once the peer has gone: it may have answered before."""
        if not data or self._transport is None or self.is_ended:
            return
        self._transport.write(data)
        if self._room is not None:
            try:
                async with asyncio.timeout(seconds):
                    await self._room
            except TimeoutError as error:
                raise self._errors.WriteTimeout("the peer takes no more bytes") from error

    async def read(self, size: int, seconds: float | None) -> bytes:
        """Return bytes that are not HTTP, after the protocol was switched; none at the end."""
        assert self._raw is not None, "the protocol was switched"
        while not self._raw and not self.is_ended:
            await self._more(seconds)
        found = bytes(self._raw[:size])
        del self._raw[:size]
        return found

    def said(self, name: str) -> Any:
        """What the loop says of it."""
        return None if self._transport is None else self._transport.get_extra_info(name)

    async def _head(self, limits: Limits) -> Any:
        while True:
            event = await self._event(limits)
            if isinstance(event, h11.Response) or getattr(event, "status_code", 0) == 101:
                if self._http.their_state is h11.SWITCHED_PROTOCOL:
                    self._raw = bytearray(self._http.trailing_data[0])
                return event

    async def _event(self, limits: Limits) -> Any:
        http = self._http
        while True:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError as error:
                raise self._errors.RemoteProtocolError(str(error)) from error
            if event is not h11.NEED_DATA:
                return event
            if not self.is_ended:
                await self._more(limits["read"])
            elif self._broken is not None:
                raise self._errors.ReadError(str(self._broken)) from self._broken
            elif http.their_state is h11.SEND_RESPONSE:
                raise self._errors.RemoteProtocolError("Server disconnected without sending a response.")
            else:
                http.receive_data(b"")

    async def _more(self, seconds: float | None) -> None:
        """Wait until something has come, or ended."""
        self._read_on()
        self._waiter = self.loop.create_future()
        self._watch(inf if seconds is None else self.loop.time() + seconds)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _read_on(self) -> None:
        """All that came is read: the peer need not wait any more."""
        if self._unread > _MOST_UNREAD and self._transport is not None:
            self._transport.resume_reading()
        self._unread = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # One timer for all waits of a connection: it is seldom the first of them that it comes for.

    def _watch(self, due: float) -> None:
        self._due = due
        if due < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._timer_at = self.loop.call_at(due, self._look), due

    def _look(self) -> None:
        self._timer, self._timer_at = None, inf
        if self._waiter is None or self._waiter.done():
            return
        if self._due > self.loop.time() + _EARLY:
            self._watch(self._due)
        else:
            self._waiter.set_exception(self._errors.ReadTimeout("nothing came in time"))


class Stream:
    """A connection as httpcore's ``network_stream``, for who switches the protocol, or asks where it leads."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __repr__(self) -> str:
        return f"<Stream of {self._connection!r}>"

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 # as httpcore has it
        """Return the next bytes, none at the end."""
        return await self._connection.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 # as httpcore has it
        """Send bytes."""
        await self._connection.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close it."""
        self._connection.close()

    def get_extra_info(self, info: str) -> Any:
        """What httpcore would say: ``ssl_object``, ``client_addr``, ``server_addr``, ``socket``, ``is_readable``."""
        if info == "is_readable":
            return not self._connection.is_usable
        return self._connection.said(_NAMES.get(info, info))


_NAMES = {"client_addr": "sockname", "server_addr": "peername"}
"""What a loop calls what httpcore asks for."""


def _sent(data: bytes | None) -> bytes:
    """What is to be sent of an event; h11 says None only where the connection was closed."""
    return data or b""


def _is_readable(socket: Any) -> bool:
    """Is there something to be read, which for a connection in use by nobody is most likely its end?"""
    if not hasattr(select, "poll"):
        return bool(select.select([socket], [], [], 0)[0])
    asked = select.poll()
    asked.register(socket.fileno(), select.POLLIN)
    return bool(asked.poll(0))
