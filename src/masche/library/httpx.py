"""``httpx`` and ``httpx2`` in the mesh: a transport for their clients, asynchronous or not.

    import httpx
    from masche.library.httpx import AsyncTransport

    async with httpx.AsyncClient(transport=AsyncTransport()) as client:
        await client.get("http://orders/")

The same transport serves a client of either module: which one it is, is told by its first request. What is not for the
mesh is carried by ``outside``, the transport that the client would have had. Invariant: connections are kept apart by
the identities that are expected of the peer, never by address alone.
"""

from functools import lru_cache
from math import inf
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from masche.library.core.async_driver import AsyncDriver
from masche.library.core.exchange import Answer, Asked, Blame, Ending, Head, Target
from masche.library.core.facade import Facade
from masche.library.core.httpcore_pools import Kept, SyncPools
from masche.library.core.httpx_modules import AsyncOnce, Module, SyncOnce, module
from masche.library.core.ports import MeshError
from masche.library.core.sync_driver import SyncDriver
from masche.library.resident import facade as resident
from masche.traffic.request import Headers, Request, characters, octets

if TYPE_CHECKING:
    from httpx import AsyncBaseTransport, BaseTransport
    from httpx import Request as HttpxRequest
    from httpx import Response as HttpxResponse

    from masche.library.core.h11_connection import Pairs
    from masche.library.core.h11_pools import Answer as AsyncAnswer
    from masche.library.core.h11_pools import AsyncPools
else:
    # The clients ask a transport for its methods, never for its class, so neither module is imported for it.
    AsyncBaseTransport = BaseTransport = object

_TIMEOUTS = ("connect", "read", "write", "pool")
_LEFT_TO_THE_CLIENT = frozenset({"host", "content-length", "transfer-encoding"})
_KEEP_ALIVE = "keep-alive"
"""What clients say of every connection, and mean nothing by."""

_MEANING = {
    "ConnectError": Blame.UNREACHED,
    "ConnectTimeout": Blame.UNREACHED,
    "PoolTimeout": Blame.UNREACHED,
    "ReadTimeout": Blame.TIMEOUT,
    "WriteTimeout": Blame.TIMEOUT,
    "ReadError": Blame.BROKEN,
    "WriteError": Blame.BROKEN,
    "CloseError": Blame.BROKEN,
    "RemoteProtocolError": Blame.BROKEN,
}
"""What the client's exceptions mean; all others are not the peer's."""


def _module_of(request: "HttpxRequest") -> Module:
    return module(type(request).__module__.partition(".")[0])


class AsyncTransport(AsyncBaseTransport):
    """Carries the requests of an ``AsyncClient`` to services of the mesh, and all others as they were carried before.

    ``facade``: the mesh to use, by default that of this process, which is joined by the first request. ``outside``: the
    transport of what is not for the mesh, by default the client's usual one.
    """

    def __init__(self, *, facade: Facade | None = None, outside: AsyncBaseTransport | None = None) -> None:
        self._given, self._outside = facade, outside
        self._driver = AsyncDriver(self._mesh)
        self._pools: AsyncPools | None = None

    def __repr__(self) -> str:
        return f"<AsyncTransport {self._pools or 'not used yet'}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def handle_async_request(self, request: "HttpxRequest") -> "HttpxResponse":
        """Carry one request. Raises the client's own exceptions alone."""
        exchange = _AsyncExchange(self, _module_of(request), request)
        try:
            return await self._driver.begin(_asked(exchange.module, request), exchange)
        except MeshError as error:
            raise exchange.module.client.ConnectError(str(error)) from error

    async def aclose(self) -> None:
        """End what runs beside the calls, and close all connections."""
        await self._driver.close()
        if self._pools is not None:
            await self._pools.close()
        if self._outside is not None:
            await self._outside.aclose()

    def pools(self, module: Module) -> "AsyncPools":
        """Return the connections into the mesh."""
        if self._pools is None:
            from masche.library.core.h11_pools import AsyncPools  # it loads h11, which only a call needs

            self._pools = AsyncPools(module.client, self._mesh())
        return self._pools

    def outside(self, module: Module) -> AsyncBaseTransport:
        """Return the transport of what is not for the mesh."""
        if self._outside is None:
            made: AsyncBaseTransport = module.client.AsyncHTTPTransport()
            self._outside = made
        return self._outside

    def _mesh(self) -> Facade:
        if self._given is None:
            self._given = resident()
        return self._given


class Transport(BaseTransport):
    """Carries the requests of a ``Client``; see AsyncTransport. May be used by any number of threads."""

    def __init__(self, *, facade: Facade | None = None, outside: BaseTransport | None = None) -> None:
        self._given, self._outside = facade, outside
        self._driver = SyncDriver(self._mesh)
        self._pools: SyncPools | None = None
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<Transport {self._pools or 'not used yet'}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self.close()

    def handle_request(self, request: "HttpxRequest") -> "HttpxResponse":
        """Carry one request. Raises the client's own exceptions alone."""
        exchange = _SyncExchange(self, _module_of(request), request)
        try:
            return self._driver.call(_asked(exchange.module, request), exchange)
        except MeshError as error:
            raise exchange.module.client.ConnectError(str(error)) from error

    def close(self) -> None:
        """Close all connections."""
        if self._pools is not None:
            self._pools.close()
        if self._outside is not None:
            self._outside.close()

    def pools(self, module: Module) -> SyncPools:
        """Return the connections into the mesh."""
        if self._pools is None:
            mesh = self._mesh()
            with self._lock:
                if self._pools is None:
                    self._pools = SyncPools(module.core, mesh)
        return self._pools

    def outside(self, module: Module) -> BaseTransport:
        """Return the transport of what is not for the mesh."""
        if self._outside is None:
            made: BaseTransport = module.client.HTTPTransport()
            with self._lock:
                self._outside = self._outside or made
        return self._outside

    def _mesh(self) -> Facade:
        if self._given is None:
            self._given = resident()
        return self._given


@lru_cache(maxsize=1024)
def _name(raw: bytes) -> str:
    """The pipeline's word for a header's name; the same few come with every request and answer."""
    return raw.decode("latin-1").lower()


def _asked(module: Module, request: "HttpxRequest") -> Asked:
    """What the user asked for, in the pipeline's words."""
    headers: list[tuple[str, str]] = []
    for raw, octet_value in request.headers.raw:
        name, value = _name(raw), characters(octet_value)
        if name not in _LEFT_TO_THE_CLIENT and (name != "connection" or value.lower() != _KEEP_ALIVE):
            headers.append((name, value))
    url = request.url
    changed = Request(
        method=request.method,
        target=url.raw_path.decode("ascii"),
        authority=request.headers.get("host") or url.netloc.decode("ascii"),
        scheme=url.scheme,
        headers=tuple(headers),
    )
    limits: dict[str, float | None] = request.extensions.get("timeout", {})
    read = limits.get("read")
    return Asked(
        changed,
        0.0 if read is None else read + (limits.get("connect") or 0.0),
        isinstance(request.stream, module.client.ByteStream),
        int(request.headers.get("content-length") or 0),
    )


class _Answer:
    """An answer of httpcore's, and the pool that it is counted in until it has ended. ``limits``: the core's timeouts,
    which hold for its body from when that is begun.
    """

    __slots__ = ("_kept", "_pools", "core", "limits")

    def __init__(self, core: Any, pools: SyncPools, kept: Kept, limits: dict[str, float | None]) -> None:
        self.core, self._kept, self.limits = core, kept, limits
        self._pools: SyncPools | None = pools

    @property
    def status(self) -> int:
        """Its status."""
        status: int = self.core.status
        return status

    @property
    def headers(self) -> "Pairs":
        """Its headers as they came."""
        headers: Pairs = self.core.headers
        return headers

    @property
    def extensions(self) -> Any:
        """What the client shows besides."""
        return self.core.extensions

    def close(self) -> None:
        """Close it."""
        try:
            self.core.close()
        finally:
            pools, self._pools = self._pools, None
            if pools is not None:
                pools.ended(self._kept)


class _Exchange:
    """What both kinds of call have in common."""

    __slots__ = ("_headers", "is_spent", "module", "request")

    def __init__(self, module: Module, request: "HttpxRequest") -> None:
        self.module, self.request = module, request
        self.is_spent = False
        self._headers: Headers = ()

    def head(self, raw: "_Answer | AsyncAnswer") -> Head:
        """Return the head of an answer."""
        self._headers = tuple([(_name(name), characters(value)) for name, value in raw.headers])
        return Head(raw.status, self._headers)

    def blame(self, error: Exception) -> Blame:
        """Say what an exception means, by its name."""
        return _MEANING.get(type(error).__name__, Blame.OURS)

    def answered(self, answer: Answer) -> "HttpxResponse":
        """Make an answer of the mesh's own."""
        made: HttpxResponse = self.module.client.Response(
            answer.status, headers=list(answer.headers), stream=self.module.client.ByteStream(answer.body)
        )
        return made

    def timed_out(self, why: str) -> Exception:
        """Make the client's timeout."""
        made: Exception = self.module.client.ReadTimeout(why)
        return made

    def sent_headers(self, target: Target) -> "list[tuple[bytes, bytes]]":
        """The headers that go to one instance."""
        framing = [each for each in self.request.headers.raw if each[0].lower() in _FRAMING]
        return [(b"Host", target.request.authority.encode("latin-1")), *_encoded(target.headers), *framing]

    def response(self, raw: "_Answer | AsyncAnswer", headers: Headers, body: Any) -> "HttpxResponse":
        """Make the client's response of an attempt's."""
        made: HttpxResponse = self.module.client.Response(
            raw.status,
            headers=raw.headers if headers is self._headers else _encoded(headers),
            stream=body,
            extensions=raw.extensions,
        )
        return made


_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


def _encoded(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), octets(value)) for name, value in headers]


def _limits(request: "HttpxRequest", target: Target, *, blocks: bool) -> dict[str, float | None]:
    """The core's timeouts: the user's own, no longer than what the mesh gives. A thread has no other clock than these,
    so where it ``blocks`` what is left for the head of the answer limits each read.
    """
    given: dict[str, float | None] = dict(request.extensions.get("timeout", {}))
    limits = {name: given.get(name) for name in _TIMEOUTS}
    limits["connect"] = _shorter(limits["connect"], min(target.connect_timeout or inf, target.timeout))
    limits["read"] = _shorter(limits["read"], min(target.idle_timeout or inf, target.timeout if blocks else inf))
    return limits


def _shorter(given: float | None, limit: float) -> float | None:
    if limit == inf:
        return given
    return limit if given is None else min(given, limit)


class _AsyncExchange(_Exchange):
    """One call of an AsyncClient."""

    __slots__ = ("_transport",)

    def __init__(self, transport: AsyncTransport, module: Module, request: "HttpxRequest") -> None:
        super().__init__(module, request)
        self._transport = transport

    async def attempt(self, target: Target) -> "AsyncAnswer":
        """Send the request to one instance."""
        body: Any = self.request.stream
        body = b"".join(body) if isinstance(body, self.module.client.ByteStream) else AsyncOnce(body, self)
        limits = _limits(self.request, target, blocks=False)
        return await self._transport.pools(self.module).send(target, self.sent_headers(target), body, limits)

    async def outside(self, request: Request) -> "HttpxResponse":  # noqa: ARG002 - the client's own goes out untouched
        """Send the request as if there were no mesh."""
        return await self._transport.outside(self.module).handle_async_request(self.request)

    async def drop(self, raw: "AsyncAnswer") -> None:
        """Close an answer."""
        await raw.aclose()

    def finished(self, raw: "AsyncAnswer", headers: Headers, ending: Ending) -> "HttpxResponse":
        """Make the user's answer."""
        return self.response(raw, headers, self.module.async_body(self.module, raw, ending))


class _SyncExchange(_Exchange):
    """One call of a Client."""

    __slots__ = ("_transport",)

    def __init__(self, transport: Transport, module: Module, request: "HttpxRequest") -> None:
        super().__init__(module, request)
        self._transport = transport

    def attempt(self, target: Target) -> "_Answer":
        """Send the request to one instance."""
        pools = self._transport.pools(self.module)
        kept = pools.pool(target)
        body = self.request.stream
        if not isinstance(body, self.module.client.ByteStream):
            body = SyncOnce(body, self)
        try:
            limits = _limits(self.request, target, blocks=True)
            return _Answer(pools.send(kept, self._core_request(target, body, limits)), pools, kept, limits)
        except Exception as error:
            if (theirs := self.module.error(error)) is not None:
                raise theirs from error
            raise

    def _core_request(self, target: Target, body: Any, limits: dict[str, float | None]) -> Any:
        """Make the request of httpcore's that goes to one instance."""
        core, sent = self.module.core, target.request
        url = core.URL(
            scheme=b"https" if target.is_tls else b"http",
            host=target.address.encode("ascii"),
            port=target.port,
            target=sent.target.encode("ascii"),
        )
        extensions = {**self.request.extensions, "timeout": limits}
        return core.Request(sent.method, url, headers=self.sent_headers(target), content=body, extensions=extensions)

    def outside(self, request: Request) -> "HttpxResponse":  # noqa: ARG002 - the client's own goes out untouched
        """Send the request as if there were no mesh."""
        return self._transport.outside(self.module).handle_request(self.request)

    def drop(self, raw: "_Answer") -> None:
        """Close an answer."""
        raw.close()

    def finished(self, raw: "_Answer", headers: Headers, ending: Ending) -> "HttpxResponse":
        """Make the user's answer."""
        return self.response(raw, headers, self.module.sync_body(self.module, raw, ending))
