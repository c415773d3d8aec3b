"""A client of gRPC over HTTP/2 without gRPC's library: a channel is one connection to one server, and calls on it.

It carries messages as bytes, for those who live in a process that is not theirs: no thread of its own, nothing that a
fork would break, and no megabytes. A channel does not connect again: whoever had a stream on it has to say everything
anew anyway, on a new one. It obeys no settings of proxies: a control plane is reached directly.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self

from masche.rpc.call import Call
from masche.rpc.connection import CLOSE_WITHIN, Connection, Quiet, in_words
from masche.rpc.status import Code, RpcError
from masche.version import VERSION

CONNECT_WITHIN: Final = 10.0
"""Seconds for a connection with its handshake."""

NEXT_AFTER: Final = 2.0
"""Seconds that an address has to take a connection, if the name has another."""

HTTPS: Final = 443
"""The port of a target that names none."""


class Target:
    """Where a server is, from ``host:port``, ``[v6]:port``, ``unix:/path`` or a ``dns:``, ``ipv4:`` or ``ipv6:`` URI.

    Raises ValueError for what is none of these.
    """

    __slots__ = ("host", "path", "port")

    def __init__(self, target: str) -> None:
        self.host, self.port, self.path = "", HTTPS, ""
        scheme, has_scheme, rest = target.partition(":")
        if has_scheme and scheme == "unix":
            self.path = rest.removeprefix("//")
            if not self.path:
                raise ValueError(f"{target!r} names no path: write unix:/path")
            return
        named = rest.removeprefix("//").rpartition("/")[2] if scheme in {"dns", "ipv4", "ipv6"} else target
        host, colon, port = named.rpartition(":")
        if not colon or named.endswith("]") or (":" in host.strip("[]") and not host.startswith("[")):
            host, port = named, str(HTTPS)
        self.host = host.strip("[]")
        if not self.host or "/" in self.host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(f"{target!r} is no address of a server: write host:port or unix:/path")
        self.port = int(port)

    def __repr__(self) -> str:
        return f"unix:{self.path}" if self.path else self.authority

    @property
    def authority(self) -> str:
        """As in a URI (RFC 3986, 3.2); of a path, which has none, as gRPC does it."""
        if self.path:
            return "localhost"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Channel:
    """One server's. ``tls`` offers HTTP/2 by ALPN; None is plaintext.

    ``name`` is what a certificate must be for, and the ``:authority`` of calls; empty: the host. ``max_receive_bytes``
    is the most that one message may have. Raises ValueError for a ``target`` that is none.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: ssl.SSLContext | None,
        name: str = "",
        quiet: Quiet,
        max_receive_bytes: int,
    ) -> None:
        self._target, self._tls = Target(target), tls
        self._name, self._authority = name or self._target.host or "localhost", name or self._target.authority
        self._quiet, self._most = quiet, max_receive_bytes
        self._connecting: asyncio.Task[Connection] | None = None
        self._is_closed = False

    def __repr__(self) -> str:
        return f"<Channel to {self._target}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def ready(self) -> None:
        """Connect. Raises RpcError (UNAVAILABLE)."""
        await self._connected()

    async def stream(self, path: str) -> Call:
        """Begin a call in both directions; ``path`` is ``/service/method``. Raises RpcError."""
        return await (await self._connected()).begin(path)

    async def unary(self, path: str, request: bytes, *, within: float) -> bytes:
        """Ask, and return the one message of the answer, in ``within`` seconds. Raises RpcError."""
        try:
            async with asyncio.timeout(within), self._begun(path, within) as call:
                with suppress(RpcError):  # how the call ended, reading tells
                    await call.write(request)
                    await call.done_writing()
                answer = await call.read()
                if answer is None or await call.read() is not None:
                    raise RpcError(Code.INTERNAL, "the answer is not one message")
                return answer
        except TimeoutError:
            raise RpcError(Code.DEADLINE_EXCEEDED, f"no answer within {within:g} s") from None

    async def close(self) -> None:
        """End the connection and all calls, for good. Who is cancelled meanwhile ends them without a word."""
        self._is_closed = True
        if (connecting := self._connecting) is None:
            return
        connecting.cancel()
        if not connecting.done():
            await asyncio.wait((connecting,))
        if not connecting.cancelled() and not connecting.exception():
            await connecting.result().close()

    @asynccontextmanager
    async def _begun(self, path: str, within: float) -> AsyncGenerator[Call]:
        call = await (await self._connected()).begin(path, within=within)
        try:
            yield call
        finally:
            call.cancel()

    async def _connected(self) -> Connection:
        if self._is_closed:
            raise RpcError(Code.CANCELLED, "the channel was closed here")
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
        try:
            return await asyncio.shield(self._connecting)
        except asyncio.CancelledError:
            if self._connecting.cancelled() and not ((task := asyncio.current_task()) and task.cancelling()):
                raise RpcError(Code.CANCELLED, "the channel was closed here") from None
            raise

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                connection = await self._dial()
                try:
                    await connection.greeted()
                except BaseException:
                    connection.abort()
                    raise
                return connection
        except TimeoutError:
            raise RpcError(Code.UNAVAILABLE, f"no connection within {CONNECT_WITHIN:g} s") from None
        except OSError as error:
            raise RpcError(Code.UNAVAILABLE, in_words(error)) from error

    async def _dial(self) -> Connection:
        loop = asyncio.get_running_loop()
        more: dict[str, Any] = {}
        if self._tls is not None:
            more = {"ssl": self._tls, "server_hostname": self._name, "ssl_shutdown_timeout": CLOSE_WITHIN}

        def made() -> Connection:
            return Connection(
                authority=self._authority,
                user_agent=f"masche/{VERSION}",
                quiet=self._quiet,
                max_receive_bytes=self._most,
            )

        if self._target.path:
            _, connection = await loop.create_unix_connection(made, self._target.path, **more)
        else:
            _, connection = await loop.create_connection(made, sock=await _reached(self._target), **more)
        return connection


async def _reached(target: Target) -> socket.socket:
    """A socket that is connected to one of the addresses of a name, tried in their order. Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    for left, (family, kind, protocol, _, address) in zip(range(len(found) - 1, -1, -1), found, strict=True):
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(0)
            async with asyncio.timeout(NEXT_AFTER if left else None):
                await loop.sock_connect(made, address)
        except BaseException as error:
            made.close()
            if not left or not isinstance(error, OSError):  # TimeoutError is one
                raise
        else:
            return made
    raise OSError("the name has no address")
