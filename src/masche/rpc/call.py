"""One call of gRPC: messages in both directions over one stream of HTTP/2, until it ends in one way.

What comes is kept until it is read, and the other side is told to wait when more than WAITING bytes are. Invariant: a
call that has ended stays as it ended, and whoever waits for anything of it is woken.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Final, Protocol
from urllib.parse import unquote

from masche.rpc.assembly import HEAD, Assembly
from masche.rpc.status import Code, RpcError, of_grpc, of_http

WAITING: Final = 1 << 20
"""Bytes of messages that nobody has read yet, from which on no more are asked for."""

Headers = Mapping[str, str]


class Carrier(Protocol):
    """What carries the stream of a call."""

    async def send(self, stream: int, data: bytes, *, is_last: bool) -> None:
        """Send bytes as the other side takes them. Raises RpcError when the connection ends before."""
        ...

    def taken(self, stream: int, size: int) -> None:
        """So many bytes need to be kept no more: as many may come."""
        ...

    def reset(self, stream: int) -> None:
        """End the stream, at once."""
        ...


class Call:
    """A call that was begun. Its parts may be used by one reader and one writer at a time, on one event loop."""

    def __init__(self, carrier: Carrier, stream: int, *, max_receive_bytes: int) -> None:
        self._carrier, self._stream = carrier, stream
        self._headers: Headers | None = None
        self._partial = Assembly(max_receive_bytes)
        self._messages: deque[bytes] = deque()
        self._waiting = self._owed = 0
        self._news = asyncio.Event()
        self._ended: RpcError | None = None

    def __repr__(self) -> str:
        return f"<Call {self._stream}, {self._ended or f'{len(self._messages)} messages to read'}>"

    async def write(self, message: bytes) -> None:
        """Send one message; waits while the other side takes none. Raises RpcError when the call has ended.

        Who is cancelled meanwhile ends the call: what came next would be taken for the rest of the message.
        """
        self._check()
        try:
            await self._carrier.send(self._stream, b"\0" + len(message).to_bytes(4, "big") + message, is_last=False)
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def done_writing(self) -> None:
        """Say that nothing more is sent. Raises RpcError when the call has ended."""
        self._check()
        await self._carrier.send(self._stream, b"", is_last=True)

    async def initial_metadata(self) -> Headers:
        """Wait for what the other side says first. Raises RpcError when it says nothing before the call ends badly."""
        while self._headers is None and self._ended is None:
            await self._turn()
        if self._headers is None and self._ended is not None and self._ended.code is not Code.OK:
            self._check()
        return self._headers or {}

    async def read(self) -> bytes | None:
        """Return the next message; None when the call has ended well. Raises RpcError when it has ended otherwise."""
        while not self._messages:
            if self._ended is not None and self._ended.code is Code.OK:
                return None
            self._check()
            await self._turn()
        message = self._messages.popleft()
        self._waiting -= HEAD + len(message)
        if self._waiting < WAITING:
            self._settle()
        return message

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self.read()) is not None:
            yield message

    def cancel(self) -> None:
        """End the call. Nothing happens when it has ended."""
        if self._ended is None:
            self._carrier.reset(self._stream)
            self.end(RpcError(Code.CANCELLED, "the call was cancelled here"))

    def _check(self) -> None:
        if self._ended is not None:
            raise RpcError(self._ended.code, self._ended.details)

    async def _turn(self) -> None:
        self._news.clear()
        await self._news.wait()

    # -- from the connection ------------------------------------------------------------------------------------------

    def head(self, headers: Headers) -> None:
        """Hear the head of the answer, which may be all of it."""
        status, kind = headers.get(":status", ""), headers.get("content-type", "")
        if status != "200" or not kind.startswith("application/grpc"):
            self._fail(of_http(status))
            return
        self._headers = headers
        self._news.set()

    def data(self, data: bytes, size: int) -> None:
        """Hear bytes of the answer, which took ``size`` bytes of what may come."""
        if self._ended is not None:
            self._carrier.taken(self._stream, size)
            return
        self._owed += size
        try:
            whole = self._partial.add(data)
        except RpcError as error:
            self._fail(error)
            return
        if whole:
            self._messages.extend(whole)
            self._waiting += HEAD * len(whole) + sum(map(len, whole))
            self._news.set()
        if self._waiting < WAITING:
            self._settle()

    def trailers(self, headers: Headers) -> None:
        """Hear how the other side ends the call."""
        code = of_grpc(headers.get("grpc-status", ""))
        if "grpc-status" not in headers:
            self.end(RpcError(Code.UNKNOWN, "it ended the call without a status"))
        elif code is Code.OK and self._partial:
            self.end(RpcError(Code.INTERNAL, "it ended in the middle of a message"))
        else:
            self.end(RpcError(code, unquote(headers.get("grpc-message", "")) or code.name))

    def end(self, how: RpcError) -> None:
        """Hear that nothing more comes; of a call that has ended already, nothing changes."""
        if self._ended is None:
            self._ended = how
            self._partial.clear()
            self._settle()
        self._news.set()

    def _settle(self) -> None:
        """Let as much come as came. Of a call that has ended it is owed to the others on its connection."""
        owed, self._owed = self._owed, 0
        self._carrier.taken(self._stream, owed)

    def _fail(self, how: RpcError) -> None:
        if self._ended is None:
            self._carrier.reset(self._stream)
            self.end(how)
