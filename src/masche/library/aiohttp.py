"""aiohttp through the mesh: ``client_session()`` makes an ``aiohttp.ClientSession`` in which names of the mesh work.

    from masche.library.aiohttp import client_session

    async with client_session() as session, session.get("http://orders/items") as answer: ...

aiohttp asks a resolver once for each connection, so the instance is chosen in a client middleware, which sees each
request. The middleware sends a copy of the request to the address of the instance, with a TLS context that belongs to
the identities expected there; as aiohttp's pool is keyed by address *and* context, no connection crosses identities,
and a detour is another key, for aiohttp keys by the proxy, too.
Invariant: the session's connector carries only what went through the middleware, so nothing bypasses the mesh unseen.
"""

import asyncio
import ssl
from collections.abc import Callable
from functools import lru_cache, partial
from math import inf
from time import monotonic
from types import CoroutineType
from typing import Any, cast
from weakref import ref

import aiohttp
from aiohttp import ClientRequest, ClientResponse, ClientTimeout, hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_middlewares import ClientHandlerType
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.helpers import TimerNoop
from aiohttp.payload import BytesPayload
from aiohttp.streams import StreamReader
from aiohttp.tracing import Trace
from multidict import CIMultiDict
from yarl import URL

from masche.library.core.aiohttp_answers import Glanced, Handler, replace_headers
from masche.library.core.aiohttp_requests import WAY, Asking, Bare, Said, Saids, Sent, head_of, is_usual, written
from masche.library.core.aiohttp_straight import Session
from masche.library.core.async_driver import AsyncDriver
from masche.library.core.exchange import Answer, Asked, Blame, Ending, Head, Target
from masche.library.core.facade import Facade
from masche.library.core.opening import FacadeOf
from masche.library.core.ports import MeshError
from masche.library.core.tls import Context
from masche.library.core.tls_buffers import lighten
from masche.library.core.ways import Way
from masche.library.core.ways_async import connected
from masche.library.resident import facade as resident
from masche.traffic.request import Headers, Request

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110, 9.2.2: the methods that aiohttp itself sends again."""

_MOST_KEYS = 4096
"""Keys of connections that are remembered, which are no connections."""


def client_session(facade: Facade | None = None, **options: Any) -> aiohttp.ClientSession:
    """Return an ``aiohttp.ClientSession`` whose requests to names of the mesh are carried by the mesh.

    It takes the ``options`` of ClientSession. ``middlewares`` of yours see each request before the mesh does;
    ``connector``, if given, is a ``Connector`` of this module; without one there is no limit of connections but those
    of each service (``circuitBreaker``). ``facade`` is for tests: without one, this process joins
    the mesh with the first request. To be called in a running event loop, as ClientSession. Raises TypeError.
    """
    connector = options.pop("connector", None)
    if connector is not None and not isinstance(connector, Connector):
        raise TypeError(f"the connector must be a masche.library.aiohttp.Connector, not {type(connector).__name__}")
    middlewares = (*options.pop("middlewares", ()), mesh)
    options.setdefault("request_class", Asking)
    session = Session(connector=connector or Connector(facade, limit=0), middlewares=middlewares, **options)
    session._retry_connection = False  # pyright: ignore[reportPrivateUsage] # what is repeated is the mesh's to decide
    if type(session.connector) is Connector:  # another kind may want to see each request
        session.go_straight(mesh)
    return session


async def mesh(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """Carry one request: a client middleware, the last one of a session, or of a request that brings its own.

    Raises what aiohttp raises.
    """
    connector = request.session.connector
    if not isinstance(connector, Connector):
        raise aiohttp.ClientConnectionError("the session has no masche.library.aiohttp.Connector")
    exchange = _Exchange(connector, request, handler)
    try:
        return await connector.driver.begin(exchange.asked(), exchange)
    except MeshError as error:
        raise aiohttp.ClientConnectionError(str(error)) from error


class Connector(aiohttp.TCPConnector):
    """aiohttp's own connector, for requests that went through ``mesh``; it takes the options of TCPConnector."""

    def __init__(self, facade: Facade | None = None, **options: Any) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType] # of the socket factory's types
        self.facade_of: FacadeOf = resident if facade is None else lambda: facade
        self.driver = AsyncDriver(self.facade_of)
        self._factory = cast("Any", partial(Handler, loop=self._loop))
        self._keys: dict[tuple[object, ...], ConnectionKey] = {}
        self.saids = Saids()

    def connect(
        self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout
    ) -> "CoroutineType[Any, Any, Connection]":
        """Get a connection. Raises aiohttp.ClientConnectionError for a request that the mesh has not seen."""
        if type(req) is Sent:
            return _given(req.connection)
        if type(req) is Bare:  # which is made for its key and has it
            return super().connect(req, traces, timeout)
        target: Target | None = vars(req).get(WAY, _UNSEEN)
        if target is _UNSEEN:
            raise aiohttp.ClientConnectionError(
                "this request's own middlewares replaced those of the session, and with them the mesh: "
                "add masche.library.aiohttp.mesh as the last of them"
            )
        if target is not None and target.is_tls and not isinstance(req.ssl, Context):
            raise aiohttp.ClientConnectionError("a request of the mesh lost its mutual TLS; it is not sent without")
        return super().connect(req, traces, timeout)

    def resting(self, key: ConnectionKey) -> Handler | None:
        """Take the connection that aiohttp would take; None: none rests, or aiohttp has to look at it."""
        me: Any = self
        conns = me._conns.get(key)
        if not conns or me._limit_per_host or me._force_close:
            return None
        protocol, since = conns[0]
        transport = protocol.transport
        if protocol._buffer or protocol._tail:  # which nobody asked for
            return None
        is_old = me._keepalive_timeout is not None and monotonic() - since > me._keepalive_timeout
        if is_old or transport is None or transport.is_closing() or type(protocol) is not Handler:
            return None
        conns.popleft()
        if not conns:
            del me._conns[key]
        me._acquired.add(protocol)
        return protocol

    def give_back(self, key: ConnectionKey, protocol: Handler, *, should_close: bool = False) -> None:
        """Be done with a connection that ``resting`` gave."""
        self._release(key, protocol, should_close=should_close)

    def exchange(
        self, request: ClientRequest, handler: ClientHandlerType, sent: Connection | None = None
    ) -> "_Exchange":
        """Say how a request goes, that may have been ``sent`` over a connection already."""
        return _Exchange(self, request, handler, sent)

    def key(self, target: Target) -> ConnectionKey:
        """By what aiohttp's pool keeps the connections for this target apart from all others."""
        context = self.facade_of().identity.client_context(target.identities) if target.is_tls else True
        what = (target.address, target.port, target.way, context)
        found = self._keys.get(what)
        if found is None:
            if len(self._keys) >= _MOST_KEYS:
                self._keys.clear()
            proxy = None if target.way is None else _proxy(target.way)
            found = ConnectionKey(target.address, target.port, target.is_tls, context, proxy, None, None, None)
            self._keys[what] = found
        return found

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close all connections, and end what runs beside the calls."""
        await self.driver.close()
        await super().close(abort_ssl=abort_ssl)

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109 # as aiohttp calls it
    ) -> ResponseHandler:
        target: Target | None = vars(req).get(WAY)
        if target is not None:
            own = timeout.sock_connect
            timeout = ClientTimeout(
                connect=timeout.connect,
                sock_connect=target.connect_timeout if own is None else min(own, target.connect_timeout),
                ceil_threshold=timeout.ceil_threshold,
            )
            if target.way is not None:
                return await self._carried(req, target, target.way, timeout)
        made = await super()._create_connection(req, traces, timeout)
        if target is not None:
            lighten(made.transport)
        return made

    async def _carried(
        self,
        req: ClientRequest,
        target: Target,
        way: Way,
        timeout: ClientTimeout,  # noqa: ASYNC109 # as aiohttp calls it
    ) -> ResponseHandler:
        """A connection by a detour. Raises what aiohttp raises of a connection that cannot be made."""
        gateway, context = self.facade_of().identity.client_context(way.identities), cast("Context", req.ssl)
        made = cast("Callable[[], ResponseHandler]", self._factory)
        try:
            async with asyncio.timeout(timeout.sock_connect):
                _, protocol = await connected(made, way, target.endpoint, gateway=gateway, context=context)
        except ssl.CertificateError as error:
            raise aiohttp.ClientConnectorCertificateError(req.connection_key, error) from error
        except ssl.SSLError as error:
            raise aiohttp.ClientConnectorSSLError(req.connection_key, error) from error
        except TimeoutError:
            raise
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error
        return protocol


async def _given(connection: Connection) -> Connection:
    return connection


@lru_cache(maxsize=1024)
def _proxy(way: Way) -> URL:
    """The name of a way in the key by which aiohttp's pool keeps connections apart; nothing is looked up by it."""
    return URL.build(scheme="detour", host=way.address[0], port=way.address[1], query_string=" ".join(way.identities))


_UNSEEN = cast("Target", object())


_KINDS = (Asking, ClientRequest)


class _Exchange:
    """One request of a session."""

    __slots__ = (
        "_connector",
        "_handler",
        "_has_body",
        "_head",
        "_idle",
        "_raw",
        "_request",
        "_said",
        "_sent",
        "is_spent",
    )

    def __init__(
        self,
        connector: Connector,
        request: ClientRequest,
        handler: ClientHandlerType,
        sent: Connection | None = None,
    ) -> None:
        self._connector, self._request, self._handler = connector, request, handler
        self._raw: ClientResponse | None = None
        self._sent = sent
        self._head = _NO_HEAD
        self._said: Said = connector.saids.of(request)
        self._idle = 0.0
        self._has_body = self.is_spent = False

    def asked(self) -> Asked:
        """What the user asked for."""
        request, said = self._request, self._said
        url, body = request.url, request.body
        asked = Request(
            method=request.method,
            target=url.raw_path_qs,
            authority=said.authority,
            scheme=url.scheme,
            headers=said.pairs,
        )
        if not body:
            return Asked(asked, 0.0, True, 0, said.names)  # noqa: FBT003 # by place, which is the fastest
        self._has_body = True
        return Asked(asked, 0.0, isinstance(body, BytesPayload), body.size or 0, said.names)

    def attempt(self, target: Target) -> "CoroutineType[Any, Any, ClientResponse]":
        self._idle = target.idle_timeout
        if self._has_body:
            self.is_spent = not isinstance(self._request.body, BytesPayload)
        sent: Any = self._handler(self._to(target) if self._sent is None else self._over(target, self._sent))
        return sent

    def _over(self, target: Target, connection: Connection) -> ClientRequest:
        """What was sent there over this connection, whose answer begins to come."""
        self._sent = None
        key = connection._key  # pyright: ignore[reportPrivateUsage] # by now the mesh may know of other certificates, or none
        head = head_of(target, self._said)
        return Sent.over(connection, self._request, target, key=key, head=head)

    def _to(self, target: Target) -> ClientRequest:
        """A copy of the request, for one instance."""
        request, asked, said = self._request, target.request, self._said
        if type(request) in _KINDS and not self._connector.force_close and is_usual(request):
            head = head_of(target, said)
            if head:
                return Bare.of(request, target, key=self._connector.key(target), head=head)
        fields = dict(vars(request))
        fields["headers"] = headers = CIMultiDict((("Host", asked.authority), *target.headers, *said.framing))
        if hdrs.CONNECTION in request.headers and hdrs.CONNECTION not in headers:
            headers[hdrs.CONNECTION] = request.headers[hdrs.CONNECTION]
        if target.is_tls:
            fields["url"] = URL(f"https://{target.endpoint}{asked.target}", encoded=True)
            fields["_ssl"] = self._connector.facade_of().identity.client_context(target.identities)
        else:
            fields["url"] = URL(f"http://{target.endpoint}{asked.target}", encoded=True)
            fields["_ssl"] = True
        fields["proxy"] = None if target.way is None else _proxy(target.way)
        fields["proxy_auth"] = fields["proxy_headers"] = fields["server_hostname"] = None
        if fields.get("_continue") is not None:  # each copy waits for its own "100 Continue"
            fields["_continue"] = request.loop.create_future()
        fields[WAY] = target
        copy = object.__new__(type(request))
        copy.__dict__ = fields
        return copy

    async def outside(self, request: Request) -> ClientResponse:  # noqa: ARG002 # the client's own request goes out
        """As aiohttp does it: an idempotent request that met a connection which had just been closed goes again."""
        own = self._request
        vars(own)[WAY] = None
        try:
            return await self._handler(own)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            body = own.body
            if own.method not in _IDEMPOTENT or (body and not isinstance(body, BytesPayload)):
                raise
            await own.close()
            return await self._handler(own)

    async def drop(self, raw: ClientResponse) -> None:
        _end(raw)

    def head(self, raw: ClientResponse) -> Head:
        if type(raw) is Glanced and raw.usual is not None:
            return raw.usual.head
        if raw is not self._raw:
            self._raw = raw
            self._head = Head(raw.status, tuple([(name.lower(), value) for name, value in raw.headers.items()]))
        return self._head

    def blame(self, error: Exception) -> Blame:
        match error:
            case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError():
                return Blame.UNREACHED
            case TimeoutError():
                return Blame.TIMEOUT
            case aiohttp.InvalidURL() | MeshError():
                return Blame.OURS
            case aiohttp.ClientError() | OSError():
                return Blame.BROKEN
            case _:
                return Blame.OURS

    def finished(self, raw: ClientResponse, headers: Headers, ending: Ending) -> ClientResponse:
        head = self.head(raw)
        if headers is not head.headers:
            replace_headers(raw, headers)
        if head.received >= 0:
            ending.over(received=head.received)
            return raw
        connection = raw.connection
        if connection is None:
            ending.over(received=raw.content.total_bytes)
            return raw
        protocol = connection.protocol
        if self._idle and protocol is not None:
            protocol.read_timeout = min(self._idle, protocol.read_timeout or inf)
            protocol.start_timeout()
        left = ending.left()
        cut = None if left == inf else self._request.loop.call_later(left, _cut, raw)
        connection.add_callback(partial(_over, ref(raw), raw.content, ending, cut))
        return raw

    def answered(self, answer: Answer) -> ClientResponse:
        return _local_answer(self._request, answer)

    def timed_out(self, why: str) -> Exception:
        return aiohttp.ServerTimeoutError(why)


_NO_HEAD = Head(0, ())


def _over(
    answer: "ref[ClientResponse]", content: StreamReader, ending: Ending, cut: asyncio.TimerHandle | None
) -> None:
    """The connection is free again, or closed, whoever did it.

    If the answer's finalizer did it, the answer is not closed yet, or gone; then nothing is told here, for that may be
    within any lock: the ending goes with this callback, and sees to it itself.
    """
    if cut is not None:
        cut.cancel()
    raw = answer()
    if raw is not None and raw.closed:
        ending.over(received=content.total_bytes, is_broken=content.exception() is not None)


def _cut(raw: ClientResponse) -> None:
    """The time for the whole answer is up, as Envoy counts it: "spans ... the complete response has been received"."""
    raw.content.set_exception(aiohttp.ServerTimeoutError("the answer's body did not end in time"))
    _end(raw)


def _end(raw: ClientResponse) -> None:
    """Close an answer and its connection, without the farewell of TLS, for which nobody would wait."""
    transport = raw.connection.transport if raw.connection is not None else None
    if transport is not None:
        transport.abort()
    raw.close()


def _local_answer(request: ClientRequest, answer: Answer) -> ClientResponse:
    """An answer that came over no connection."""
    made = request.response_class(
        request.method,
        request.original_url,
        writer=cast("Any", None),
        continue100=None,
        timer=TimerNoop(),
        request_info=request.request_info,
        traces=[],
        loop=request.loop,
        session=request.session,
        **written(0),
    )
    made.version, made.status, made.reason = aiohttp.HttpVersion11, answer.status, ""
    made.content = StreamReader(BaseProtocol(request.loop), 2**16, loop=request.loop)
    if answer.body:
        made.content.feed_data(answer.body)
    made.content.feed_eof()
    replace_headers(made, answer.headers)
    return made
