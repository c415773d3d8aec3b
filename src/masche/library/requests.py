"""requests through the mesh: a transport adapter, for a session whose requests to names of the mesh the mesh carries.

    from masche.library.requests import Adapter

    session = requests.Session()
    session.mount("http://", Adapter())
    session.get("http://orders/items")

Each attempt goes to one instance, over a pool of urllib3 that belongs to its address and to the identities expected
there. What requests believes of certificates (``verify``, ``cert``, REQUESTS_CA_BUNDLE, proxies) holds for what is not
of the mesh, as ever; within the mesh the identity decides. Invariant: nothing that a session says makes it less.
"""

import re
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from http.client import HTTPException
from io import BytesIO
from math import inf
from queue import Empty, Full, LifoQueue
from time import monotonic
from typing import Any, cast

import requests
import urllib3
from requests import PreparedRequest, Response
from requests.adapters import DEFAULT_POOLBLOCK, HTTPAdapter
from requests.cookies import extract_cookies_to_jar
from requests.structures import CaseInsensitiveDict
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, ProtocolError, SSLError

from masche.library.core.exchange import Answer, Asked, Blame, Ending, Head, Target
from masche.library.core.facade import Facade
from masche.library.core.opening import FacadeOf
from masche.library.core.pool import Pools
from masche.library.core.ports import MeshError
from masche.library.core.sync_driver import SyncDriver
from masche.library.core.usual_heads import UsualHeads
from masche.library.core.ways import Way
from masche.library.core.ways_sync import tunnel
from masche.library.resident import facade as resident
from masche.traffic.request import Headers, Request, characters, octets

_FRAMING = frozenset({"host", "content-length", "transfer-encoding"})
"""Headers that are the client's own business; all others pass the pipeline."""

_KEEP_ALIVE = ("connection", "keep-alive")
"""What requests says of every connection, and means nothing by."""

_HOST = re.compile(r"(?:[^/?#]*@)?([^/?#]*)")
"""The host and port of a URL, without its scheme."""

_WAY = "masche_way"
"""On a copy of a request: the Target that it is for."""

_UNSENT = "masche_unsent"
"""On an exception: the connection was not made, so nothing was sent."""


class Adapter(HTTPAdapter):
    """The adapter to mount on ``http://``; it takes the options of HTTPAdapter. May be used by any number of threads.

    ``facade`` is for tests: without one, this process joins the mesh with the first request.
    """

    def __init__(self, facade: Facade | None = None, **options: Any) -> None:
        self._facade = facade
        super().__init__(**options)

    def __repr__(self) -> str:
        return f"<Adapter for requests: {self._carrier.pools!r}>"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._facade = None  # a session that was pickled wakes in another process
        super().__setstate__(state)  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue] # untyped

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = DEFAULT_POOLBLOCK, **pool_kwargs: Any
    ) -> None:
        """Make the pools, also after a session was unpickled."""
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs)
        given = self._facade
        facade_of: FacadeOf = resident if given is None else lambda: given
        self._driver = SyncDriver(facade_of)
        self._carrier = _Carrier(facade_of, pool_maxsize=maxsize, pool_block=block)

    def close(self) -> None:
        """Close all connections."""
        super().close()
        self._carrier.close()

    def send(  # noqa: PLR0917 # as requests spells it
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> Response:
        """Carry one request. Raises what requests raises."""
        options = {"stream": stream, "timeout": timeout, "verify": verify, "cert": cert, "proxies": proxies}
        exchange = _Exchange(self, self._carrier, request, options)
        try:
            return self._driver.call(exchange.asked(), exchange)
        except MeshError as error:
            raise requests.ConnectionError(error, request=request) from error

    def send_outside(self, request: PreparedRequest, options: Mapping[str, Any]) -> Response:
        """Send a request that is not for the mesh."""
        return super().send(request, **options)


class _Carrier(HTTPAdapter):
    """Sends copies of requests to instances. It never repeats anything: that is decided elsewhere."""

    def __init__(self, facade_of: FacadeOf, **options: Any) -> None:
        self._facade_of = facade_of
        super().__init__(**options)

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = DEFAULT_POOLBLOCK, **pool_kwargs: Any
    ) -> None:
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs)
        self._size: dict[str, Any] = {"maxsize": maxsize, "block": block}
        self.pools: Pools[tuple[str, Way | None], _Pool] = Pools(self._pool, close=_forget, now=monotonic)

    def close(self) -> None:
        super().close()
        self.pools.close()

    def to(self, target: Target) -> urllib3.HTTPConnectionPool:
        """The connections to one instance."""
        if not target.is_tls:
            return self.poolmanager.connection_from_host(target.address, target.port, "http")
        context = self._facade_of().identity.client_context(target.identities)
        return self.pools.pool(target.identities, (target.endpoint, target.way), context)

    def _pool(self, context: ssl.SSLContext, place: tuple[str, Way | None]) -> "_Pool":
        endpoint, way = place
        host, _, port = endpoint.rpartition(":")
        kind = _WaitedFor if self._size["block"] else _Pool
        made = kind(host, int(port), ssl_context=context, assert_hostname=False, **self._size)
        if way is not None:
            made.by = partial(self._tunnel, way, endpoint)
        return made

    def _tunnel(self, way: Way, endpoint: str, timeout: float | None) -> ssl.SSLSocket:
        return tunnel(way, endpoint, gateway=self._facade_of().identity.client_context(way.identities), timeout=timeout)

    # What requests asks of an adapter, told by the copy of the request alone

    def get_connection_with_tls_context(
        self, request: PreparedRequest, *_session: Any, **_said: Any
    ) -> urllib3.HTTPConnectionPool:
        return vars(request)[_WAY][1]

    def cert_verify(self, *_session: Any, **_said: Any) -> None:
        """Nothing: the pool's context verifies, whatever the session or its environment says."""

    def request_url(self, request: PreparedRequest, *_session: Any, **_said: Any) -> str:
        target: Target = vars(request)[_WAY][0]
        return target.request.target


def _forget(pool: "_Pool") -> None:
    """Close what is idle. The pool stays open for requests that are under way; urllib3 closes what they leave in it as
    soon as nobody refers to it any more.
    """
    idle = pool.pool
    if idle is None:
        return
    found: list[Any] = []
    with suppress(Empty):
        while True:
            found.append(idle.get(block=False))
    for connection in found:
        if connection is not None:
            connection.close()
        with suppress(Full):
            idle.put(None, block=False)  # another one may be made in its place


@lru_cache(maxsize=1024)
def _is_usual(header: str) -> bool:
    """Is it the name of a header about which there is nothing to be said?"""
    return _USUAL.fullmatch(header) is not None


_USUAL = re.compile("[A-Za-z0-9-]+")


class _Connection(HTTPSConnection):
    """A connection that may begin at a gateway between zones, ``by`` which it is tunnelled."""

    response_class = UsualHeads
    by: Callable[[float | None], ssl.SSLSocket] | None = None

    def putheader(self, header: str, *values: str) -> None:  # type: ignore[override] # bytes come, too, and go on
        """Send a header. The usual one is told at a glance; what http.client has to look at, it looks at."""
        value = values[0]
        if type(value) is str and value.isascii() and value.isprintable() and _is_usual(header) and value[:1] != "@":
            self._output(f"{header}: {value}".encode("ascii"))  # type: ignore[attr-defined] # http.client's own word
        else:
            super().putheader(header, *values)

    def _new_conn(self) -> socket.socket:
        if self.by is None:
            return super()._new_conn()
        try:
            return self.by(self.timeout)
        except TimeoutError as error:
            raise ConnectTimeoutError(self, f"the way to {self.host} took too long: {error}") from error
        except OSError as error:
            raise NewConnectionError(self, str(error)) from error


class _Idle(LifoQueue[Any]):
    """The idle connections of a pool for which nobody ever waits: a list does, whose ends no two threads can have."""

    def __init__(self, maxsize: int = 0) -> None:
        self.maxsize = maxsize
        self._idle: list[Any] = []

    def get(self, block: bool = False, timeout: float | None = None) -> Any:  # noqa: ARG002 # as urllib3 calls it
        try:
            return self._idle.pop()
        except IndexError:
            raise Empty from None

    def put(self, item: Any, block: bool = False, timeout: float | None = None) -> None:  # noqa: ARG002 # as urllib3 calls it
        if len(self._idle) >= self.maxsize > 0:
            raise Full
        self._idle.append(item)

    def qsize(self) -> int:
        return len(self._idle)


class _Pool(urllib3.HTTPSConnectionPool):
    """Connections to one instance by one way, which tell when nothing was sent."""

    QueueCls = _Idle
    ConnectionCls = _Connection  # pyright: ignore[reportAssignmentType] # urllib3's own class does not fit either
    by: Callable[[float | None], ssl.SSLSocket] | None = None

    def _new_conn(self) -> Any:
        made = cast("_Connection", super()._new_conn())
        made.by = self.by
        return made

    def urlopen(  # type: ignore[override] # what nobody here asks for is left out
        self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any
    ) -> Any:
        """Send a request as ``_Carrier`` asks for it, and urllib3 would; what is repeated, and where redirects lead,
        is decided elsewhere.
        """
        retries, timeout = options["retries"], options["timeout"]
        connection = self._get_conn()
        try:
            connection.timeout = timeout.connect_timeout
            return self._make_request(
                connection,
                method,
                url,
                body=body,
                headers=headers,
                retries=retries,
                timeout=timeout,
                chunked=options["chunked"],
                response_conn=connection,
                preload_content=False,
                decode_content=False,
            )
        except BaseException as error:
            connection.close()
            self._put_conn(None)  # another one may be made in its place
            if isinstance(error, urllib3.exceptions.HTTPError | HTTPException | OSError):
                retries.increment(method, url, error=_told(error), _pool=self, _stacktrace=error.__traceback__)
            raise

    def _validate_conn(self, conn: Any) -> None:
        try:
            super()._validate_conn(conn)
        except Exception as error:
            setattr(error, _UNSENT, True)
            raise


class _WaitedFor(_Pool):
    """One with so many connections and no more (``pool_block``): who finds none waits."""

    QueueCls = LifoQueue


def _told(error: Exception) -> Exception:
    """What urllib3 calls an error, before it says that there were retries enough: there are none."""
    if isinstance(error, ssl.SSLError | ssl.CertificateError):
        return SSLError(error)
    if isinstance(error, OSError | HTTPException):
        return ProtocolError("Connection aborted.", error)
    return error


class _Exchange:
    """One request of a session."""

    __slots__ = ("_adapter", "_carrier", "_connect", "_head", "_idle", "_options", "_raw", "_read", "_request")

    def __init__(
        self, adapter: Adapter, carrier: _Carrier, request: PreparedRequest, options: Mapping[str, Any]
    ) -> None:
        self._adapter, self._carrier, self._request, self._options = adapter, carrier, request, options
        self._connect, self._read = _timeouts(options["timeout"])
        self._raw: Response | None = None
        self._head = Head(0, ())
        self._idle = 0.0

    def asked(self) -> Asked:
        """What the user asked for."""
        request, body = self._request, self._request.body
        scheme, _, rest = str(request.url).partition("://")
        pairs = [(key.lower(), _text(value)) for key, value in request.headers.items()]
        return Asked(
            Request(
                method=str(request.method),
                target=request.path_url,
                authority=_text(request.headers.get("Host") or _HOST.match(rest)[1]),  # type: ignore[index] # it always matches
                scheme=scheme,
                headers=tuple([pair for pair in pairs if pair[0] not in _FRAMING and pair != _KEEP_ALIVE]),
            ),
            timeout=0.0 if self._read is None else self._read + (self._connect or 0.0),
            can_repeat=body is None or isinstance(body, bytes | str),
            sent_bytes=len(body) if isinstance(body, bytes | str) else 0,
        )

    @property
    def is_spent(self) -> bool:
        return not (self._request.body is None or isinstance(self._request.body, bytes | str))

    def attempt(self, target: Target) -> Response:
        # A thread has no other clock: what is left for the head of the answer limits each read until it has come.
        self._idle = target.idle_timeout
        timeout = _least(self._connect, target.connect_timeout, target.timeout), _least(self._read, target.timeout)
        return self._carrier.send(self._to(target), stream=True, timeout=timeout)

    def _to(self, target: Target) -> PreparedRequest:
        """A copy of the request, for one instance."""
        request, asked = self._request, target.request
        told = {"Host": asked.authority}
        for name, value in target.headers:  # requests knows one value for a name; lists may be joined (RFC 9110, 5.3)
            told[name] = value if name not in told else f"{told[name]}{'; ' if name == 'cookie' else ', '}{value}"
        headers: dict[str, Any] = {name: value if value.isascii() else octets(value) for name, value in told.items()}
        for name in ("Content-Length", "Transfer-Encoding", "Connection"):
            if name in request.headers and name.lower() not in headers:
                headers[name] = request.headers[name]
        copy = PreparedRequest()
        vars(copy).update(vars(request))
        vars(copy)["headers"] = headers  # a plain dict does: nobody looks for what is not spelled so
        vars(copy)[_WAY] = (target, self._carrier.to(target))
        return copy

    def outside(self, request: Request) -> Response:  # noqa: ARG002 # the client's own request goes out
        return self._adapter.send_outside(self._request, self._options)

    def drop(self, raw: Response) -> None:
        raw.close()

    def head(self, raw: Response) -> Head:
        if raw is not self._raw:
            self._raw = raw
            pairs = [(name.lower(), _text(value)) for name, value in raw.raw.headers.items()]
            self._head = Head(raw.status_code, tuple(pairs))
        return self._head

    def blame(self, error: Exception) -> Blame:
        match error:
            case requests.ConnectTimeout():
                return Blame.UNREACHED
            case requests.Timeout():
                return Blame.TIMEOUT
            case requests.exceptions.InvalidURL() | requests.exceptions.InvalidHeader() | MeshError():
                return Blame.OURS
            case requests.RequestException() | OSError() | urllib3.exceptions.HTTPError():
                return Blame.UNREACHED if _is_unsent(error) else Blame.BROKEN
            case _:
                return Blame.OURS

    def finished(self, raw: Response, headers: Headers, ending: Ending) -> Response:
        if headers is not self.head(raw).headers:
            _replace_headers(raw, self._request, headers)
        raw.request, raw.url = self._request, str(self._request.url)
        raw.connection = self._adapter
        body = cast("urllib3.HTTPResponse", raw.raw)
        connection = cast("Any", body.connection)
        if connection is None:
            ending.over(received=body.tell())
            return raw
        # Until the answer began, no longer than the mesh allows; from now on the client's own patience counts again.
        connection.sock.settimeout(_least(self._read, self._idle or inf, ending.left()))
        body.__class__ = _Watched
        cast("_Watched", body).ending = ending
        return raw

    def answered(self, answer: Answer) -> Response:
        headers = urllib3.HTTPHeaderDict(answer.headers)
        body = urllib3.HTTPResponse(BytesIO(answer.body), headers, answer.status, preload_content=False)
        return self._adapter.build_response(self._request, body)

    def timed_out(self, why: str) -> Exception:
        return requests.ReadTimeout(why, request=self._request)


class _Watched(urllib3.HTTPResponse):
    """An answer that tells when its body has ended or was closed; if it was forgotten, its ending sees to that."""

    ending: Ending | None = None

    def __del__(self) -> None:
        self.ending = None  # a finalizer may run within any lock, so nothing is told from here
        super().__del__()

    def release_conn(self) -> None:
        super().release_conn()
        if self.ending is not None:
            missing = self._missing()
            said = self.headers.get("content-length", "")
            received = int(said) - missing if said.isdecimal() else self.tell()
            self.ending.over(received=received, is_broken=bool(missing))

    def close(self) -> None:
        super().close()
        if self.ending is not None:
            self.ending.over(received=self.tell())

    def _missing(self) -> int:
        """How many bytes of the body were announced and have not come; urllib3's own count is behind here."""
        return getattr(self._original_response, "length", None) or 0


def _replace_headers(raw: Response, request: PreparedRequest, headers: Headers) -> None:
    """Show other headers in all places where requests, and its cookies, look for them."""
    body = raw.raw
    shown = [(name, _shown(value)) for name, value in headers]
    body.headers = urllib3.HTTPHeaderDict(shown)
    raw.headers = CaseInsensitiveDict(body.headers)
    message = body._original_response.msg
    for name in set(message):
        del message[name]
    for name, value in shown:
        message[name] = value
    raw.cookies.clear()
    extract_cookies_to_jar(raw.cookies, request, body)


def _timeouts(said: Any) -> tuple[float | None, float | None]:
    """How long the client would wait to connect, and to read; None: for ever."""
    if isinstance(said, urllib3.Timeout):
        connect: Any = said.connect_timeout
        return connect if isinstance(connect, int | float) else None, said.read_timeout
    if isinstance(said, tuple):
        connect, read = cast("tuple[Any, Any]", said)
        return connect, read
    return said, said


def _least(own: float | None, *ours: float) -> float | None:
    """The shortest of some times; None and infinity mean for ever. A socket takes no zero."""
    least = max(0.001, min(inf if own is None else own, *ours))
    return None if least == inf else least


def _is_unsent(error: BaseException) -> bool:
    """Does what led to ``error`` say that no connection was made?"""
    found: BaseException | None = error
    for _ in range(8):
        if found is None:
            return False
        if isinstance(found, NewConnectionError) or hasattr(found, _UNSENT):
            return True
        found = found.__cause__ or found.__context__
    return False


def _text(value: str | bytes) -> str:
    """A value as the pipeline reads it; on the wire http.client makes Latin-1 of text."""
    if isinstance(value, str):
        return value if value.isascii() else characters(value.encode("latin-1"))
    return characters(value)


def _shown(value: str) -> str:
    """The same backwards: as http.client would have read it."""
    return value if value.isascii() else octets(value).decode("latin-1")
