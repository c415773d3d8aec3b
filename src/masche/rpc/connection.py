"""One connection of HTTP/2 that carries calls of gRPC: ``h2`` is the protocol, this is its socket and its clock.

Peers that vanished without a word are noticed: who is silent for ``Quiet.after`` is pinged, and given up when no answer
comes ``within``. Frames are given to ``h2`` one by one, for it forgets what it read before one that it refuses, and it
refuses all that comes behind a GOAWAY. Invariant: when the connection ends, every call on it ends with the reason.
"""

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from typing import Any, Final, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error, StreamClosedError
from h2.settings import SettingCodes, Settings

from masche.model.frozen import frozen
from masche.rpc.call import Call, Headers
from masche.rpc.status import Code, RpcError, of_http, of_reset

WINDOW: Final = 1 << 20
"""Bytes that may come on a stream before they are taken."""

ALL_WINDOWS: Final = 1 << 30
"""The same of all streams: more than they can have together, so that no call waits because another is not read."""

MOST_UNTAKEN: Final = 1 << 20
"""Bytes of answers to pings, settings and the like that may wait for a peer that takes nothing."""

MOST_AT_ONCE: Final = 64 << 10
"""Bytes of one frame that we send, whatever the other side would take."""

MAX_HEAD_BYTES: Final = 64 << 10

CLOSE_WITHIN: Final = 1.0
"""Seconds in which the other side can take what is left to say, and answer that a connection in TLS ends."""

_FRAME_HEAD: Final = 9
_GOAWAY: Final = 7
_TCP_USER_TIMEOUT: Final = getattr(socket, "TCP_USER_TIMEOUT", None)


@frozen(kw_only=False)
class Quiet:
    """Seconds of silence ``after`` which the other side is asked whether it is there, and has to answer ``within``."""

    after: float
    within: float


class Connection(asyncio.Protocol):
    """A connection and its calls, on the loop that made it. ``user_agent`` is what it says of itself."""

    def __init__(self, *, authority: str, user_agent: str, quiet: Quiet, max_receive_bytes: int) -> None:
        self._authority, self._user_agent = authority, user_agent
        self._quiet, self._most = quiet, max_receive_bytes
        self._loop = asyncio.get_running_loop()
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._calls: dict[int, Call] = {}
        self._rest = bytearray()
        self._room = asyncio.Event()
        self._greeting = asyncio.Event()
        self._has_ended = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = self._loop.time()
        self._asked: float | None = None
        self._is_paused = False
        self._is_closing = False
        self._said_all: set[int] = set()
        self.why: RpcError | None = None

    def __repr__(self) -> str:
        return f"<Connection to {self._authority}, {self.why or f'{len(self._calls)} calls'}>"

    async def greeted(self) -> None:
        """Wait until the other side has said that it speaks HTTP/2. Raises RpcError when the connection ends before."""
        await self._greeting.wait()
        if self.why is not None:
            raise self.why

    # -- for calls ----------------------------------------------------------------------------------------------------

    async def begin(self, path: str, *, within: float | None = None) -> Call:
        """Begin a call, once the other side takes one more; it is told to end it ``within`` seconds.

        Raises RpcError on a dead connection.
        """
        while self._is_alive() and self._h2.open_outbound_streams >= self._h2.remote_settings.max_concurrent_streams:
            self._room.clear()
            await self._room.wait()
        try:
            number = self._h2.get_next_available_stream_id()
            self._h2.send_headers(number, self._head(path, within))
        except H2Error as error:
            self._break(RpcError(Code.UNAVAILABLE, f"no call can be made on this connection: {error}"))
            raise RpcError(Code.UNAVAILABLE, str(error)) from error
        call = self._calls[number] = Call(self, number, max_receive_bytes=self._most)
        self._flush()
        return call

    def _is_alive(self) -> bool:
        """Whether calls can be made. Raises RpcError when they cannot."""
        if self.why is not None:
            raise RpcError(self.why.code, self.why.details)
        if self._is_closing:
            raise RpcError(Code.UNAVAILABLE, "it closes the connection")
        return True

    async def send(self, stream: int, data: bytes, *, is_last: bool) -> None:
        """See ``Carrier``."""
        rest = memoryview(data)
        while rest:
            size = await self._window(stream)
            is_end = is_last and size >= len(rest)
            self._say(stream, rest[:size], is_end=is_end)
            rest = rest[size:]
        if is_last and not data and stream in self._calls:  # "MAY be sent if there is no available space" (6.9.1)
            self._say(stream, b"", is_end=True)

    def _say(self, stream: int, data: bytes | memoryview, *, is_end: bool) -> None:
        if is_end:
            self._said_all.add(stream)
        self._h2.send_data(stream, bytes(data), end_stream=is_end)
        self._flush()

    def taken(self, stream: int, size: int) -> None:
        """See ``Carrier``."""
        if size and self.why is None:
            self._h2.acknowledge_received_data(size, stream)
            self._flush()

    def reset(self, stream: int) -> None:
        """See ``Carrier``."""
        if self._calls.pop(stream, None) is not None and self.why is None:
            self._said_all.discard(stream)
            with suppress(StreamClosedError):  # both sides have said all
                self._h2.reset_stream(stream, ErrorCodes.CANCEL)
            self._flush()
            self._over()

    async def close(self) -> None:
        """End the connection in order, and wait until it has."""
        if self.why is None and self._transport is not None:
            self._h2.close_connection()
            self._flush()
            self._end(RpcError(Code.CANCELLED, "the connection was closed here"))
        if self._transport is not None:
            self._transport.close()
            try:
                async with asyncio.timeout(CLOSE_WITHIN):
                    await self._has_ended.wait()
            except TimeoutError:
                self._transport.abort()
                await self._has_ended.wait()
            except asyncio.CancelledError:
                self._transport.abort()
                raise

    def abort(self) -> None:
        """End the connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    def _head(self, path: str, within: float | None) -> list[tuple[str, str]]:
        assert self._transport is not None, "calls are made on a connection"
        is_tls = self._transport.get_extra_info("ssl_object") is not None
        given = [("grpc-timeout", f"{max(1, round(within * 1000))}m")] if within is not None else []
        return [
            (":method", "POST"),
            (":scheme", "https" if is_tls else "http"),
            (":path", path),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("user-agent", self._user_agent),
            *given,
        ]

    async def _window(self, stream: int) -> int:
        """Wait until something may be sent on a stream, and return how much."""
        while True:
            if stream not in self._calls:
                raise self.why or RpcError(Code.CANCELLED, "the call has ended")
            size = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size, MOST_AT_ONCE)
            if size > 0 and not self._is_paused:
                return size
            self._room.clear()
            await self._room.wait()

    # -- from the loop ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to speak."""
        self._transport = cast("asyncio.Transport", transport)
        tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._break(RpcError(Code.UNAVAILABLE, "it does not speak HTTP/2"))
            return
        self._set_options(transport.get_extra_info("socket"))
        self._h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: WINDOW,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD_BYTES,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(ALL_WINDOWS)
        self._flush()
        self._heard = self._loop.time()
        self._timer = self._loop.call_later(self._quiet.after, self._listen)

    def data_received(self, data: bytes) -> None:
        """Hear bytes."""
        if self.why is not None:
            return
        self._heard, self._asked = self._loop.time(), None
        self._rest += data
        at = 0
        try:
            while self.why is None and len(self._rest) - at >= _FRAME_HEAD:
                size = _FRAME_HEAD + int.from_bytes(self._rest[at : at + 3], "big")
                if size - _FRAME_HEAD > self._h2.max_inbound_frame_size:
                    self._break(RpcError(Code.UNAVAILABLE, "it does not speak HTTP/2"))
                elif len(self._rest) - at < size:
                    break
                else:
                    self._hear(bytes(self._rest[at : at + size]))
                    at += size
        except H2Error as error:
            self._flush()
            self._break(RpcError(Code.UNAVAILABLE, f"it breaks the rules of HTTP/2: {error}"))
        del self._rest[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear the end."""
        self._end(RpcError(Code.UNAVAILABLE, in_words(exc) if exc else "the connection was closed"))
        self._has_ended.set()

    def pause_writing(self) -> None:
        """Hear that the socket is full."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Hear that it takes more."""
        self._is_paused = False
        self._room.set()

    def _hear(self, frame: bytes) -> None:
        if frame[3] == _GOAWAY and len(frame) >= _FRAME_HEAD + 8:
            self._bid_farewell(frame[_FRAME_HEAD:])
            return
        for event in self._h2.receive_data(frame):
            self._take(event)
        self._flush()
        if self._transport is not None and self._transport.get_write_buffer_size() > MOST_UNTAKEN:
            self._break(RpcError(Code.UNAVAILABLE, "it takes nothing of what it is answered"))
            self.abort()
        self._room.set()  # what may be sent, or whether anything may, can be different now

    def _bid_farewell(self, said: bytes) -> None:
        """Hear that the connection closes: who has asked all may be answered yet, all others go elsewhere at once.

        ``h2`` would take nothing any more. "Activity on streams numbered lower or equal to the last stream identifier
        might still complete successfully" (RFC 9113, 6.8).
        """
        last, code = int.from_bytes(said[:4], "big") & 0x7FFFFFFF, int.from_bytes(said[4:8], "big")
        words = said[8:308].decode("utf-8", "replace")
        why = RpcError(Code.UNAVAILABLE, f"it closes the connection{words and f': {words}'}")
        self._is_closing = True
        for stream, call in list(self._calls.items()):
            if code or stream > last or stream not in self._said_all:
                call.end(why)
                self.reset(stream)
        if not self._calls:
            self._break(why)
        self._room.set()

    def _over(self) -> None:
        """A call is over: another may begin, or nothing is left to wait for."""
        self._room.set()
        if self._is_closing and not self._calls:
            self._break(RpcError(Code.UNAVAILABLE, "it closes the connection"))

    def _take(self, event: Event) -> None:
        match event:
            case RemoteSettingsChanged():
                self._greeting.set()
            case ResponseReceived():
                self._answered(event.stream_id, _headers(event), is_all=event.stream_ended is not None)
            case DataReceived():
                if call := self._calls.get(event.stream_id):
                    call.data(event.data, event.flow_controlled_length)
                else:
                    self.taken(event.stream_id, event.flow_controlled_length)
            case TrailersReceived():
                if call := self._calls.get(event.stream_id):
                    call.trailers(_headers(event))
            case StreamEnded():
                self._ended(event.stream_id)
            case StreamReset():
                if call := self._calls.pop(event.stream_id, None):
                    self._said_all.discard(event.stream_id)
                    call.end(of_reset(int(event.error_code)))
                    self._over()
            case _:
                pass

    def _answered(self, stream: int, headers: Headers, *, is_all: bool) -> None:
        if (call := self._calls.get(stream)) is None:
            return
        if is_all and "grpc-status" in headers:
            call.trailers(headers)
        elif is_all:
            call.end(of_http(headers.get(":status", "")))
        else:
            call.head(headers)

    def _ended(self, stream: int) -> None:
        """The other side says no more on a stream. What we would still say, it would not hear."""
        if call := self._calls.get(stream):
            call.end(RpcError(Code.INTERNAL, "it ended the stream without a status"))
            if stream in self._said_all:
                self._said_all.discard(stream)
                del self._calls[stream]
                self._over()
            else:
                self.reset(stream)

    def _flush(self) -> None:
        if (data := self._h2.data_to_send()) and self._transport is not None:
            self._transport.write(data)

    def _end(self, why: RpcError) -> None:
        self.why = self.why or why
        if self._timer is not None:
            self._timer.cancel()
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.end(self.why)
        self._room.set()
        self._greeting.set()

    def _break(self, why: RpcError) -> None:
        """Nothing more is to be had of this connection."""
        self._end(why)
        if self._transport is not None:
            self._transport.close()

    # -- silence ------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Look whether the other side is silent, and how long already."""
        now = self._loop.time()
        if self._asked is not None and now - self._asked >= self._quiet.within:
            self._end(RpcError(Code.UNAVAILABLE, f"it did not answer a ping within {self._quiet.within:g} s"))
            self.abort()
            return
        if self._asked is None and now - self._heard >= self._quiet.after:
            self._asked = now
            self._h2.ping(b"hear me?")
            self._flush()
        due = self._heard + self._quiet.after if self._asked is None else self._asked + self._quiet.within
        self._timer = self._loop.call_later(max(0.01, due - now), self._listen)

    def _set_options(self, connected: Any) -> None:
        """What was sent and nobody took is given up as soon as a ping would be."""
        if connected is None or connected.family not in {socket.AF_INET, socket.AF_INET6}:
            return
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if _TCP_USER_TIMEOUT is not None:
            connected.setsockopt(
                socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, round((self._quiet.after + self._quiet.within) * 1000)
            )


def _headers(event: ResponseReceived | TrailersReceived) -> Headers:
    """What others write need not be text, and is none of our defects."""
    headers = cast("list[tuple[bytes, bytes]]", event.headers)
    return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in headers}


def in_words(error: Exception) -> str:
    """What the system, or TLS, says of a connection, in few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not what is expected there: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if isinstance(error, socket.gaierror):
        return (error.strerror or str(error)).lower()
    if isinstance(error, OSError) and error.errno:
        words = os.strerror(error.errno)
        return words[:1].lower() + words[1:]
    return str(error) or type(error).__name__
