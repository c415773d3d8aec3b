"""Requests of a session that ask for nothing special, over a connection that rests: sent and answered in one step.

For each request aiohttp merges options, looks for cookies and proxies, makes a timer, a context of it, a chain of
middlewares, a request, and a connection object. Of a request that has nothing of all that, in a session that has
nothing of it either, what is left is what the mesh does, a write, and a glance at the answer. Everything else stays
aiohttp's: what is found to be unusual before anything was done goes to aiohttp from the beginning, and what turns out
to be unusual later (no connection rests, the answer is not read at a glance, redirects, is not a good one, or does not
come) goes on within aiohttp's own way of making requests, as a middleware that has begun already. Invariant: nobody can
tell from outside which way a request went (a test makes the same requests both ways).
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from math import inf
from types import FunctionType
from typing import Any, Protocol, cast

import aiohttp
from aiohttp import ClientRequest, ClientResponse, ClientSession, ClientTimeout, CookieJar, DummyCookieJar, RequestInfo
from aiohttp.client_middlewares import ClientHandlerType, ClientMiddlewareType
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from msgspec import Struct
from multidict import CIMultiDictProxy
from yarl import URL

from masche.library.core.aiohttp_answers import HAS_THESE, Glanced, Handler, Usual, leaves_room
from masche.library.core.aiohttp_requests import Asking, Mould, Saids, head_of
from masche.library.core.async_driver import AsyncDriver
from masche.library.core.exchange import Asked, AsyncExchange, Target
from masche.library.core.lone import Lone
from masche.library.core.ports import MeshError
from masche.library.core.time_limits import OutOfTimeError
from masche.traffic.request import Request

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
"""What aiohttp follows."""

_DETOURS = 32
"""After an answer that was not read at a glance so many requests of its kind are aiohttp's: theirs will be like it."""

_OPTIONS = frozenset({"allow_redirects", "headers", "timeout"})
"""What may be asked of a usual request."""

_now_there = partial(getattr, ClientSession, "_request")
_OWN = _now_there()
"""aiohttp's own way to make a request: whoever has put another in its place, to see or to answer it, is asked."""

_IS_OWN = type(_OWN) is FunctionType and _OWN.__module__ == "aiohttp.client" and not hasattr(_OWN, "__wrapped__")

_FIELDS = (
    "_base_url", "_connector", "_cookie_jar", "_default_auth", "_default_headers", "_default_proxy", "_loop",
    "_middlewares", "_raise_for_status", "_request_class", "_resolve_charset", "_response_class", "_skip_auto_headers",
    "_timeout", "_trace_configs", "_trust_env", "_version",
)  # fmt: skip
"""The fields of a session that are looked at."""

_OF_CONNECTOR = ("_acquired", "_conns", "_force_close", "_keepalive_timeout", "_limit_per_host", "_release")
"""The same of a connector."""


class Pool(Protocol):
    """What is asked of the connector."""

    driver: AsyncDriver
    saids: Saids

    def exchange(
        self, request: ClientRequest, handler: ClientHandlerType, sent: Connection | None
    ) -> AsyncExchange[ClientResponse, ClientResponse]:
        """Say how a request goes that may have been ``sent`` already."""
        ...

    def key(self, target: Target) -> ConnectionKey:
        """By what the connections for this target are kept."""
        ...

    def resting(self, key: ConnectionKey) -> Handler | None:
        """Take a connection that rests."""
        ...

    def give_back(self, key: ConnectionKey, protocol: Handler, *, should_close: bool = False) -> None:
        """Be done with it."""
        ...


class _Quietly:
    """aiohttp warns whoever makes a kind of session of his own, lest he rely on what may change: here it is tested."""

    def __init_subclass__(cls) -> None: ...


class Session(_Quietly, ClientSession):
    """aiohttp's own session; ``is_straight``: its usual requests go straight."""

    is_straight = False

    async def _request(self, method: str, str_or_url: str | URL, **options: Any) -> ClientResponse:
        straight = _begun(self, method, str_or_url, options) if self.is_straight else None
        if straight is None:
            return await super()._request(method, str_or_url, **options)
        try:
            waiter = straight.sent()
            if waiter is not None:
                straight.came(await waiter)
                if straight.answer is not None:
                    return straight.answer
        except Exception as error:  # noqa: BLE001 - whatever it is, the exchange says what it means, or it is raised
            straight.failed(error)
        except BaseException:
            straight.end()
            raise
        try:
            return await super()._request(method, str_or_url, **straight.rest(options))
        finally:
            straight.leave()

    def go_straight(self, mesh: ClientMiddlewareType) -> None:
        """Let usual requests go straight, if this session asks for nothing special, but for this one middleware, and
        this aiohttp is as it is known.
        """
        fields, connector = vars(self), self._connector
        if not (_IS_OWN and HAS_THESE and all(name in fields for name in _FIELDS)):
            return
        is_plain = not any(map(fields.get, _HAS_NONE)) and tuple(self._middlewares) == (mesh,)
        has_these = self._request_class is Asking and self._response_class is ClientResponse
        is_known = self._version == aiohttp.HttpVersion11 and all(hasattr(connector, name) for name in _OF_CONNECTOR)
        is_usual = type(self._cookie_jar) in _JARS and leaves_room({name[1:]: value for name, value in fields.items()})
        fields["is_straight"] = is_plain and has_these and is_known and is_usual and not self._loop.get_debug()


_HAS_NONE = ("_base_url", "_default_auth", "_default_proxy", "_raise_for_status", "_skip_auto_headers", "_trust_env")
"""What a session must not have, for its requests to be usual."""

_JARS = frozenset({CookieJar, DummyCookieJar})
"""Those that may be asked twice for a request, which goes on in aiohttp's way."""


def _begun(session: Session, method: str, given: str | URL, options: Mapping[str, Any]) -> "Straight | None":
    """Begin a request, if it is a usual one; None: nothing has been begun. Raises what the user did wrong no earlier
    than aiohttp does.
    """
    own: Any = session
    if session.closed or own._trace_configs or _now_there() is not _OWN or not options.keys() <= _OPTIONS:
        return None
    timeout = options.get("timeout", own._timeout)
    if type(timeout) is not ClientTimeout or timeout.sock_read is not None:
        return None
    headers = options.get("headers")
    headers = own._default_headers if not headers else _merged(own, headers)
    url = _url(given)
    if url is None or headers is None or own._cookie_jar.filter_cookies(url):
        return None
    pool = cast("Pool", own._connector)
    mould = pool.saids.moulds.get((method, url.host_port_subcomponent, own._version, *headers.items()))
    if mould is None or not mould.is_bare:
        return None
    if mould.detours:
        mould.detours -= 1
        return None
    said = mould.said
    asked = Request(method=method, target=url.raw_path_qs, authority=said.authority, headers=said.pairs)
    try:
        lone = pool.driver.lone(Asked(asked, 0.0, True, 0, said.names))  # noqa: FBT003 # by place, which is the fastest
    except MeshError as error:
        raise aiohttp.ClientConnectionError(str(error)) from error
    return None if lone is None else Straight(session, pool, mould, url, lone, timeout)


def _merged(session: Any, headers: object) -> Mapping[str, str] | None:
    """A request's own headers with those of the session, unless they can be read but once: that is left to aiohttp."""
    found: Mapping[str, str] | None
    found = session._prepare_headers(headers) if isinstance(headers, Mapping | Sequence) else None
    return found


def _url(given: str | URL) -> URL | None:
    """The URL, if there is nothing in it that aiohttp has to look at."""
    try:
        url = URL(given)
    except (ValueError, TypeError):
        return None
    is_unusual = url.raw_user is not None or url.raw_password is not None or url.raw_fragment
    return None if is_unusual or url.scheme != "http" else url


class Straight:
    """One such request, until it is answered or goes on in aiohttp's way."""

    __slots__ = (
        "_came", "_connection", "_final", "_has_gone_on", "_head", "_key", "_limits", "_lone", "_mould", "_pool",
        "_protocol", "_session", "_target", "_timeout", "_url", "answer",
    )  # fmt: skip

    def __init__(  # noqa: PLR0917 # made in this module alone, once for every call
        self, session: Session, pool: Pool, mould: Mould, url: URL, lone: Lone[Any, Any], timeout: ClientTimeout
    ) -> None:
        self._session, self._pool, self._mould, self._url = session, pool, mould, url
        self._lone, self._timeout = lone, timeout
        self._protocol: Handler | None = None
        self._came: ClientResponse | Exception | None = None
        self._connection: Connection | None = None
        self._final: ClientResponse | None = None
        self._has_gone_on = False
        self.answer: ClientResponse | None = None

    def __repr__(self) -> str:
        return f"<Straight {self._lone!r}>"

    def sent(self) -> "asyncio.Future[Usual | None] | None":
        """Send it, and return what is to be awaited; None: no connection rests. Raises why it cannot be sent."""
        lone, pool = self._lone, self._pool
        target = lone.target()
        if target is None:
            return None
        head = head_of(target, self._mould.said)
        key, limits = pool.key(target), pool.driver.limits()
        protocol = pool.resting(key) if head and limits.loop is self._session._loop else None  # pyright: ignore[reportPrivateUsage] # as aiohttp has it
        if protocol is None:
            return None
        self._target, self._head, self._key, self._protocol, self._limits = target, head, key, protocol, limits
        total, seconds = self._timeout.total, target.timeout
        least = total if total and total < seconds and total > 0 else seconds
        waiter = protocol.asked(head, at=limits.loop.time() + least)
        limits.add(protocol)
        return waiter

    def came(self, usual: Usual | None) -> None:
        """Its answer has begun to come, and was read at a glance, or is to be read by aiohttp."""
        protocol, self._protocol = cast("Handler", self._protocol), None
        self._limits.active.discard(protocol)
        if usual is None:
            self._mould.detours = _DETOURS
            self._connection = Connection(cast("Any", self._pool), self._key, protocol, self._limits.loop)
            return
        self._pool.give_back(self._key, protocol)
        head, method = usual.head, self._mould.method
        asked = _Made(self._mould, self._url, len(self._head))
        made = Glanced.at_once(usual, method, self._url, self._session, asked)
        headers = self._lone.took(head, is_spent=False)
        if headers is None:
            self._came = made
            return
        if headers is not head.headers:
            made.show(headers)
        if head.status in _REDIRECTS or made._raw_cookie_headers is not None:  # pyright: ignore[reportPrivateUsage] # as aiohttp does
            self._final = made
        else:
            self.answer = made

    def failed(self, error: Exception) -> None:
        """It came to an exception. Raises it where nothing goes on, for the session was closed meanwhile."""
        self._drop()
        if self._session.closed and not isinstance(error, OutOfTimeError):
            self._lone.end()
            raise error
        is_own = isinstance(error, OutOfTimeError) and 0 < (self._timeout.total or inf) < self._target.timeout
        self._came = TimeoutError() if is_own else error  # as what aiohttp's own timer comes to

    def end(self) -> None:
        """It was cancelled."""
        self._drop()
        self._lone.end()

    def _drop(self) -> None:
        """Close the connection, if it has one."""
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            self._limits.active.discard(protocol)
            protocol.forgo()
            self._pool.give_back(self._key, protocol, should_close=True)

    # Going on in aiohttp's way

    def rest(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What aiohttp is to be asked for, so that this goes on."""
        timeout = self._timeout
        if timeout.total and timeout.total > 0:
            timeout = ClientTimeout(
                total=max(timeout.total - self._lone.seconds(), _LEAST),
                connect=timeout.connect,
                sock_connect=timeout.sock_connect,
                ceil_threshold=timeout.ceil_threshold,
            )
        return {**options, "middlewares": (self._go_on,), "timeout": timeout}

    async def _go_on(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """As a middleware: first what was begun, then what a redirect leads to. Raises what aiohttp raises."""
        if self._has_gone_on:
            mesh: ClientMiddlewareType = cast("Any", self._session)._middlewares[0]
            return await mesh(request, handler)
        self._has_gone_on = True
        if self._final is not None:
            return self._final
        connection, self._connection = self._connection, None
        exchange = self._pool.exchange(request, handler, connection)
        target = None if connection is None else self._target
        try:
            return await self._pool.driver.resumed(self._lone, exchange, self._came, target)
        except MeshError as error:
            raise aiohttp.ClientConnectionError(str(error)) from error

    def leave(self) -> None:
        """aiohttp has done with it. If it has not even begun, there is nothing that goes on."""
        if not self._has_gone_on:
            self._has_gone_on = True
            if self._connection is not None:
                self._connection.close()
            self._lone.end()


_LEAST = 1e-3
"""Seconds: to aiohttp 0 is no limit."""


class _Made(Struct):
    """A request that went straight, as far as its answer knows of it."""

    mould: Mould
    url: URL
    size_bytes: int

    @property
    def request_info(self) -> RequestInfo:
        """What was asked for."""
        return RequestInfo(self.url, self.mould.method, CIMultiDictProxy(self.mould.headers), self.url)
