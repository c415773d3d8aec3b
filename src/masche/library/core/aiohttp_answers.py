"""Answers of aiohttp whose usual head is read at a glance, and every other one as aiohttp reads it.

aiohttp makes a parser, a reader of the body and a table of headers for each answer, and releases its connection in a
dozen steps. Nearly all answers come in one piece, are counted, and have nothing odd in their headers. Of such a one
status, headers and body are taken at once; whatever else a user asks for is made when it is asked for. Invariant: what
is read here aiohttp reads in the same way (a property test), and of all else nothing has been taken away when aiohttp's
own parser begins.
"""

import asyncio
import re
from collections.abc import Mapping
from functools import lru_cache
from inspect import signature
from math import inf
from types import SimpleNamespace
from typing import Any, cast

from aiohttp import ClientConnectionError, ClientResponse, HttpVersion11, RequestInfo, hdrs
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.helpers import TimerNoop, noop, set_exception
from aiohttp.streams import StreamReader
from msgspec import Struct
from multidict import CIMultiDict, CIMultiDictProxy, istr
from yarl import URL

from masche.library.core.exchange import Head
from masche.library.core.time_limits import OutOfTimeError
from masche.traffic.request import Headers

_STATUS = re.compile(r"HTTP/1\.1 ([2-5][0-9][0-9]) ([ -~]*)")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_BODILESS = frozenset({204, 304})
_ODD = frozenset(
    {"connection", "content-encoding", "proxy-connection", "set-cookie", "sec-websocket-key1", "transfer-encoding",
     "trailer", "upgrade"}
)  # fmt: skip
"""Headers of which aiohttp makes something that is not made here."""

TAKES_WRITER = "stream_writer" in signature(ClientResponse.__init__).parameters
"""Since aiohttp 3.13. Before it, answers are not read at a glance."""

_Lines = tuple[tuple[bytes, bytes], ...]

_MOST = 64
_LONGEST = 8000
"""Headers, and bytes of them all; aiohttp's own limits are 128, and 8190 for each."""


class Usual(Struct, gc=False):
    """An answer that was read at a glance. ``lines``: its headers as they came."""

    head: Head
    reason: str
    lines: list[str]
    body: bytes

    def __repr__(self) -> str:
        return f"<Usual {self.head.status}, {len(self.body)} bytes>"

    @property
    def pairs(self) -> Headers:
        """Its headers as they came."""
        return tuple((name, value) for name, _, value in (line.partition(": ") for line in self.lines))


@lru_cache(maxsize=256)
def _status(line: str) -> tuple[int, str]:
    """The status and its reason; 0: it is none."""
    found = _STATUS.fullmatch(line)
    return (0, "") if found is None or int(found[1]) in _BODILESS else (int(found[1]), found[2])


@lru_cache(maxsize=512)
def _line(line: str) -> tuple[str, str] | None:
    """A header, its name in lower case; None: it is none, or an odd one. Most lines come again and again."""
    name, between, value = line.partition(": ")
    lowered = name.lower()
    if not between or _NAME.fullmatch(name) is None or lowered in _ODD:
        return None
    return None if value[:1] == " " or value[-1:] == " " or not value.isprintable() else (lowered, value)


def glance(data: bytes) -> Usual | None:
    """Read an answer that has come as a whole, and nothing behind it; None where anything of it is unusual."""
    head, _, body = data.partition(b"\r\n\r\n")
    if not body or len(head) > _LONGEST or not head.isascii():
        return None
    lines = head.decode("ascii").split("\r\n")
    status, reason = _status(lines.pop(0))
    pairs: Any = tuple(map(_line, lines))
    if not status or None in pairs or len(pairs) > _MOST:
        return None
    said, size = dict[str, str](pairs), len(body)
    if len(said) != len(pairs) or said.get("content-length") != str(size):
        return None
    return Usual(Head(status, pairs, said, size), reason, lines, body)


def leaves_room(params: Mapping[str, Any]) -> bool:
    """Does aiohttp, that is to read answers with these limits, take all that is read at a glance?"""
    line, field = params.get("max_line_size", _LONGEST), params.get("max_field_size", _LONGEST)
    return line >= _LONGEST and field >= _LONGEST and params.get("max_headers", _MOST) >= _MOST


class Handler(ResponseHandler):
    """aiohttp's protocol of a connection, which makes a parser no earlier than it is needed.

    ``glances``: the next answer may be read at a glance, for whoever asked knows what to do with a Usual one. ``at``:
    when what was ``asked`` has to be answered, by the loop's clock.
    """

    glances = False
    at = inf
    has_passed = False
    _awaited: "asyncio.Future[Usual | None] | None" = None
    _later: Mapping[str, Any] | None = None
    _rests = False

    def set_response_params(self, **params: Any) -> None:
        """How the next answer is to be read."""
        me: Any = self
        self._rests = False
        if me._tail:
            super().set_response_params(**params)
            if me.transport is None:  # it ended before there was a parser to tell
                super().connection_lost(None)
            return
        self._later, me._parser, me._read_timeout = params, None, params.get("read_timeout")

    def data_received(self, data: bytes) -> None:
        """Bytes have come. What nobody asked for ends the connection: it would be taken for the next answer."""
        awaited = self._awaited
        if awaited is not None and data:
            self._tell(awaited, data)
            return
        later = self._later
        if later is not None and data:
            self._later = None
            if self.glances:
                self.glances = False
                usual = glance(data) if leaves_room(later) else None
                if usual is not None:
                    self._rests = True
                    self._drop_timeout()
                    self.feed_data((usual, None), 0)  # type: ignore[arg-type] # whoever asked takes it as it is
                    return
            super().set_response_params(**later)
        elif self._rests:
            self.close()
            return
        super().data_received(data)

    def is_connected(self) -> bool:
        """May it be used? Not if something came that nobody asked for: it would be taken for the next answer."""
        me: Any = self
        return super().is_connected() and not (me._buffer or me._tail)

    def asked(self, head: bytes, *, at: float) -> "asyncio.Future[Usual | None]":
        """Send a request, and return what is to be awaited: its answer, or None if aiohttp is to read that, which has
        begun to come. It is to begin by ``at``, else this raises OutOfTimeError. ``forgo`` it, however that ends.
        """
        me: Any = self
        me.transport.write(head)
        self._later = me._parser = me._read_timeout = None
        self._rests = self.has_passed = False
        self.at = at
        self._awaited = me._waiter = waiter = self._loop.create_future()
        return waiter

    def _tell(self, awaited: "asyncio.Future[Usual | None]", data: bytes) -> None:
        """What was ``asked`` is answered. What is not read here waits for a parser, as aiohttp has it."""
        me: Any = self
        self._awaited = me._waiter = None
        usual = glance(data)
        if usual is None:
            me._tail = data
        else:
            self._rests = True
        if not awaited.done():
            awaited.set_result(usual)

    def cut(self) -> None:
        """It was not answered in time."""
        self.has_passed = True
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_exception(OutOfTimeError())

    def awaited(self) -> "asyncio.Future[None] | None":
        """What is to be awaited before there is something to read, be it an exception; None: there is."""
        me: Any = self
        if me._buffer or me._eof:
            return None
        me._waiter = waiter = self._loop.create_future()
        return waiter

    def forgo(self) -> None:
        """Wait no longer."""
        me: Any = self
        self._awaited = me._waiter = None

    def usual(self) -> Usual | None:
        """Take the answer, if it was read at a glance; all else is left."""
        me: Any = self
        buffer = me._buffer
        return buffer.popleft()[0][0] if buffer and type(buffer[0][0][0]) is Usual else None


class Written:
    """What aiohttp asks of a writer whose work is done."""

    __slots__ = ("output_size",)

    def __init__(self, output_size: int) -> None:
        self.output_size = output_size


class Glanced(ClientResponse):
    """aiohttp's answer, of a connection of ``Handler``; what nobody asks for is not made.

    ``usual`` is what was read at a glance, None where aiohttp has read it. ``asked`` is the user's own request.
    """

    usual: Usual | None = None
    asked: ClientRequest
    _is_folded = False
    """Has nobody asked for more of what was read at a glance than its status, headers and whole body?"""
    _reader: StreamReader | None = None
    _table: CIMultiDictProxy[str] | None = None
    _lines: _Lines | None = None
    _shown: Headers | None = None
    """What the application sees in place of the headers that were read at a glance."""

    @classmethod
    def of(cls, fields: Mapping[str, Any], asked: ClientRequest, size_bytes: int) -> "Glanced":
        """Make the answer to a request that has these ``fields`` and was written in so many bytes. What aiohttp would
        make of them is known, as long as it makes these fields and no others.
        """
        url, loop, session = fields["original_url"], fields["loop"], fields["_session"]
        if not HAS_THESE or url.raw_fragment or loop.get_debug():
            return cls.as_ever(fields, asked, size_bytes)
        made = object.__new__(cls)
        made.__dict__ = {
            "method": fields["method"],
            "_real_url": url,
            "_url": url,
            "_output_size": size_bytes,
            "_request_info": None,
            "_timer": fields["_timer"],
            "_cache": {},
            "_traces": fields["_traces"],
            "_loop": loop,
            "_session": session,
            "_resolve_charset": session._resolve_charset,
            "asked": asked,
        }
        return made

    @classmethod
    def at_once(cls, usual: Usual, method: str, url: URL, session: Any, asked: Any) -> "Glanced":
        """Make the answer to a request that was ``asked`` of a Handler, where ``HAS_THESE`` says that this can be."""
        made = object.__new__(cls)
        made.__dict__ = {
            "method": method,
            "_real_url": url,
            "_url": url,
            "_output_size": asked.size_bytes,
            "_request_info": None,
            "_timer": _NO_TIMER,
            "_cache": {},
            "_traces": [],
            "_loop": session._loop,
            "_session": session,
            "_resolve_charset": session._resolve_charset,
            "asked": asked,
            "version": HttpVersion11,
            "status": usual.head.status,
            "reason": usual.reason,
            "usual": usual,
            "_is_folded": True,
        }
        return made

    @classmethod
    def as_ever(cls, fields: Mapping[str, Any], asked: ClientRequest, size_bytes: int) -> "Glanced":
        """Let aiohttp make it."""
        nothing: Any = None
        made = cls(
            fields["method"],
            fields["original_url"],
            writer=None,
            continue100=None,
            timer=fields["_timer"],
            request_info=nothing,
            traces=fields["_traces"],
            loop=fields["loop"],
            session=fields["_session"],
            stream_writer=Written(size_bytes),  # type: ignore[arg-type] # as much of a writer as is asked
        )
        made.asked = asked
        return made

    async def start(self, connection: Connection) -> ClientResponse:
        """Wait for the head. Raises what aiohttp raises."""
        protocol: Any = connection.protocol
        waiter = protocol.awaited()
        if waiter is not None:
            try:
                with self._timer:
                    await waiter
            except (asyncio.CancelledError, TimeoutError):
                protocol.forgo()
                raise
            except Exception:  # noqa: BLE001, S110 # aiohttp's own meets it once more, and says what it means
                pass
        usual = protocol.usual()
        if usual is None:
            return await super().start(connection)
        self.version, self.status, self.reason = HttpVersion11, usual.head.status, usual.reason
        self.usual, self._is_folded = usual, True
        connection.release()
        return self

    async def read(self) -> bytes:
        """Read the body. Raises what aiohttp raises."""
        if not self._is_folded or self._released:
            return await super().read()
        usual: Any = self.usual
        self._body = body = usual.body
        return body

    def release(self) -> Any:
        """Be done with it."""
        if not self._is_folded:
            return super().release()
        self._released, self._session = True, None
        return _DONE

    async def wait_for_close(self) -> None:
        """Be done with it."""
        if self._is_folded:
            self.release()
        else:
            await super().wait_for_close()

    async def __aexit__(self, *error: Any) -> None:
        """Be done with it."""
        if self._is_folded:
            self._in_context, self._released, self._session = False, True, None
        else:
            await super().__aexit__(*error)

    @property
    def request_info(self) -> RequestInfo:  # type: ignore[override] # a property of aiohttp's own kind
        """What was asked for."""
        return self.asked.request_info

    @property
    def content(self) -> StreamReader:
        """The body."""
        if self._is_folded:
            self._is_folded = False
            self._reader = self._unfolded(cast("Usual", self.usual).body)
        return cast("StreamReader", self._reader)

    @content.setter
    def content(self, reader: StreamReader) -> None:  # pyright: ignore[reportIncompatibleVariableOverride] # a field
        self._reader = reader

    @property
    def _headers(self) -> CIMultiDictProxy[str]:
        if self._table is None and self.usual is not None:
            pairs = [(_SPELLED.get(name.lower(), name), value) for name, value in self.usual.pairs]
            self._table = CIMultiDictProxy(CIMultiDict(pairs if self._shown is None else self._shown))
        return cast("CIMultiDictProxy[str]", self._table)

    @_headers.setter
    def _headers(self, table: CIMultiDictProxy[str]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride] # as above
        self._table = table

    @property
    def _raw_headers(self) -> _Lines:
        if self._lines is None and self.usual is not None:
            self._lines = _encoded(self.usual.pairs if self._shown is None else self._shown)
        return cast("_Lines", self._lines)

    @_raw_headers.setter
    def _raw_headers(self, lines: _Lines) -> None:  # pyright: ignore[reportIncompatibleVariableOverride] # as above
        self._lines = lines

    def show(self, headers: Headers) -> None:
        """Let the application see these in place of those that were read at a glance."""
        self._shown, self._table, self._lines = headers, None, None
        self._raw_cookie_headers = tuple([value for name, value in headers if name == _SET_COOKIE]) or None

    def _unfolded(self, body: bytes) -> StreamReader:
        """The reader that aiohttp would have made."""
        reader = StreamReader(
            BaseProtocol(self._loop), max(2**16, len(body)), loop=self._loop
        )  # there is none to pause
        reader.feed_data(body)
        reader.feed_eof()
        if self._body is not None:
            reader.read_nowait()
        if self._released:
            set_exception(reader, ClientConnectionError("Connection closed"))
        return reader


def replace_headers(raw: ClientResponse, headers: Headers) -> None:
    """aiohttp has no words for another view of an answer, so its own fields are set."""
    if type(raw) is Glanced and raw.usual is not None:
        raw.show(headers)
    else:
        found = CIMultiDictProxy(CIMultiDict(headers))
        fields = cast("Any", raw)
        fields._headers = found
        fields._raw_headers = _encoded(headers)
        fields._raw_cookie_headers = tuple(found.getall(hdrs.SET_COOKIE, ())) or None
    cache: dict[str, Any] = vars(raw)["_cache"]
    cache.pop("headers", None)
    cache.pop("raw_headers", None)


def _encoded(headers: Headers) -> _Lines:
    return tuple([(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in headers])


_SET_COOKIE = "set-cookie"


def _fields() -> frozenset[str]:
    """The fields that aiohttp makes of an answer."""
    anything: Any = SimpleNamespace(get_debug=bool, _resolve_charset=None)
    asked: dict[str, Any] = {"method": "GET", "original_url": URL(), "_timer": anything, "_traces": []}
    made = Glanced.as_ever({**asked, "loop": anything, "_session": anything}, anything, 1)
    return frozenset(vars(made))


_THESE = frozenset(
    ("method", "_real_url", "_url", "_output_size", "_request_info", "_timer", "_cache", "_traces", "_loop", "_session",
     "_resolve_charset", "asked")
)  # fmt: skip

HAS_THESE = TAKES_WRITER and _fields() == _THESE
"""Does this version of aiohttp make the fields that ``Glanced.of`` makes?"""

_NO_TIMER = TimerNoop()
_DONE = noop()
_SPELLED = {name.lower(): name for name in vars(hdrs).values() if isinstance(name, istr)}
"""The names of headers as aiohttp spells them, whoever sent them."""
