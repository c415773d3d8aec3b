"""Requests of aiohttp that have no body and ask for nothing special, written in one piece: most are such.

aiohttp works out of a request's URL where its connections are, and of its headers how it is framed. What the headers of
a session's requests say is the same for most of them: it is worked out once (``Saids``), and a copy of such a request
(``Bare``) knows where it goes. Invariant: it goes out in the same words in which aiohttp would write it (a test).
"""

from collections.abc import Sequence
from typing import Any, Self, cast

import aiohttp
from aiohttp import ClientRequest, ClientResponse
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from multidict import CIMultiDict
from yarl import URL

from masche.library.core.aiohttp_answers import TAKES_WRITER, Glanced, Written
from masche.library.core.exchange import Target
from masche.library.core.router import plain_headers
from masche.traffic.request import Headers

WAY = "masche_way"
"""Set on a request that went through the middleware: its Target, or None when it is not for the mesh."""

_FRAMING = frozenset({"content-length", "transfer-encoding"})
"""Headers that are aiohttp's own business; all others pass the pipeline."""

_OF_THE_CONNECTION = frozenset({"connection", "expect", "upgrade"})

_BARE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "DELETE"})
"""To others aiohttp adds a type of content, though they have none."""

_MOST_SAIDS, _MOST_BYTES = 256, 2048
"""So many sets of headers are remembered, of so many characters each at the most: the usual ones of an application."""


class Said:
    """What the headers of a request say: ``pairs`` are the pipeline's, with their ``names`` if they are plain;
    ``framing`` is aiohttp's; ``lines`` is how the pairs are written, None where aiohttp has to look at one of them.
    """

    __slots__ = ("authority", "framing", "lines", "names", "pairs")

    def __init__(self, items: Sequence[tuple[str, str]]) -> None:
        pairs: list[tuple[str, str]] = []
        self.authority = ""
        self.framing: list[tuple[str, str]] = []
        for key, value in items:
            name = key.lower()
            if name == "host":
                self.authority = value
            elif name in _FRAMING:
                self.framing.append((key, value))
            else:
                pairs.append((name, value))
        self.pairs: Headers = tuple(pairs)
        self.names = plain_headers(self.pairs)
        self.lines = None if any(name in _OF_THE_CONNECTION for name, _ in pairs) else _lines(self.pairs)

    def __repr__(self) -> str:
        return f"<Said to {self.authority}: {len(self.pairs)} headers>"


class Saids:
    """What the headers of one session's requests said, and the ``moulds`` of such requests."""

    __slots__ = ("_known", "moulds")

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[str, str], ...], Said] = {}
        self.moulds: dict[tuple[object, ...], Mould] = {}

    def __repr__(self) -> str:
        return f"<Saids: {len(self._known)}>"

    def of(self, request: ClientRequest) -> Said:
        """What this request's headers say."""
        items = tuple(request.headers.items())
        found = self._known.get(items)
        return found if found is not None else self._read(items)

    def _read(self, items: tuple[tuple[str, str], ...]) -> Said:
        found = Said(items)
        if sum(len(value) for _, value in items) <= _MOST_BYTES:
            if len(self._known) >= _MOST_SAIDS:
                self._known.clear()
            self._known[items] = found
        return found


def _lines(pairs: Sequence[tuple[str, str]]) -> str | None:
    """How headers are written; None where they have characters that aiohttp has to look at."""
    text = "".join([f"{name}: {value}\r\n" for name, value in pairs])
    return text if _is_clean(text, len(pairs)) else None


def _is_clean(text: str, lines: int) -> bool:
    """Are these so many lines, and nothing else that does not print?"""
    return text.count("\r\n") == lines and text.replace("\r\n", "").isprintable()


def head_of(target: Target, said: Said) -> bytes:
    """The head of a request; none where it has characters that aiohttp has to look at."""
    asked, headers, begins = target.request, target.headers, said.lines
    if begins is None:
        return b""
    count = len(said.pairs)
    if headers[:count] == said.pairs:
        headers = headers[count:]
    else:
        begins = ""
    if said.framing:
        headers = (*headers, *said.framing)
    first = f"{asked.method} {asked.target} HTTP/1.1\r\nHost: {asked.authority}\r\n"
    last = "\r\n".join(map(_LINE, headers))
    if not _is_clean(first + last, 1 + len(headers)):
        return b""
    return f"{first}{begins}{last}\r\n\r\n".encode()


_LINE = ": ".join
"""How a header is written, of a pair."""


def is_usual(request: ClientRequest) -> bool:
    """Has a request neither body nor anything else that aiohttp has to carry out for it?"""
    fields = vars(request)
    return (
        request.method in _BARE_METHODS
        and not fields.get("_body")
        and not (fields["_traces"] or fields["compress"] or fields["chunked"] or fields.get("_upload_tracker"))
        and fields["version"] == aiohttp.HttpVersion11
    )


class Asking(ClientRequest):
    """A request of a session. What aiohttp works out of its host and headers it works out once, for a first request
    that has nothing else: the next one is as that one is, with its own URL, timer, traces and table of headers.
    """

    def __init__(self, method: str, url: URL, **said: Any) -> None:
        if (
            any(map(said.get, _ITS_OWN))
            or said.get("data") is not None
            or said.get("chunked") is not None
            or url.raw_fragment
            or url.raw_user
            or url.raw_password
        ):
            super().__init__(method, url, **said)
            return
        moulds: dict[tuple[object, ...], Mould] = said["session"].connector.saids.moulds
        key = (method, url.host_port_subcomponent, said["version"], *said["headers"].items())
        mould = moulds.get(key)
        if mould is None:
            super().__init__(method, url, **said)
            _keep(moulds, key, vars(self))
            return
        self.__dict__ = {
            **mould.fields,
            "headers": mould.headers.copy(),
            "original_url": url,
            "url": url,
            "_session": said["session"],
            "loop": said["loop"],
            "_timer": said["timer"],
            "_ssl": said["ssl"],
            "server_hostname": said["server_hostname"],
            "_traces": said["traces"],
            "response_class": said["response_class"],
        }


_ITS_OWN = (
    "params", "skip_auto_headers", "cookies", "auth", "compress", "expect100", "proxy", "proxy_auth", "proxy_headers",
)  # fmt: skip
"""What a request has for itself, if it has any of it."""

_GIVEN = frozenset(
    ("headers", "original_url", "url", "_session", "loop", "_timer", "_ssl", "server_hostname", "response_class",
     "_traces")
)  # fmt: skip
"""The fields that each request gets for itself."""


class Mould:
    """What requests with the same method, host and headers have in common: ``fields`` of aiohttp's, and ``headers``.

    ``said``: what these say. ``is_bare``: such a request has neither body nor anything else that aiohttp has to carry
    out for it. ``detours``: so many of the next ones are left to aiohttp, for their answers were unusual.
    """

    __slots__ = ("detours", "fields", "headers", "is_bare", "method", "said")

    def __init__(self, fields: dict[str, Any], headers: CIMultiDict[str]) -> None:
        self.fields, self.headers = fields, headers
        self.method: str = fields["method"]
        self.said = Said(tuple(headers.items()))
        self.detours = 0
        wants = any(map(fields.get, ("_body", "compress", "chunked", "_upload_tracker")))
        self.is_bare = not wants and self.method in _GLANCED_METHODS and self.said.lines is not None

    def __repr__(self) -> str:
        return f"<Mould {self.method} to {self.said.authority}>"


_GLANCED_METHODS = _BARE_METHODS - {"HEAD"}
"""Those whose answers have bodies."""


def _keep(moulds: dict[tuple[object, ...], Mould], key: tuple[object, ...], fields: dict[str, Any]) -> None:
    """Keep a request as the mould of others, if nothing in it could be shared that changes."""
    rest = {name: value for name, value in fields.items() if name not in _GIVEN}
    size = sum(len(value) for value in fields["headers"].values())
    if (
        all(value is None or isinstance(value, str | aiohttp.HttpVersion) for value in rest.values())
        and size <= _MOST_BYTES
    ):
        if len(moulds) >= _MOST_SAIDS:
            moulds.clear()
        moulds[key] = Mould(rest, fields["headers"].copy())


class Bare(ClientRequest):
    """A copy of such a request. It goes out in one write, and what aiohttp would work out for it from its URL and
    headers is known already.
    """

    @classmethod
    def of(cls, asked: ClientRequest, target: Target, *, key: ConnectionKey, head: bytes) -> Self:
        """A copy of what the user ``asked`` for, for one instance; ``head`` is all that is written."""
        made = object.__new__(cls)
        made.__dict__ = {
            **vars(asked),
            WAY: target,
            "masche_asked": asked,
            "masche_key": key,
            "masche_head": head,
            "_ssl": key.ssl,
            "proxy": key.proxy,
            "server_hostname": None,
        }
        return made

    @property
    def url(self) -> URL:  # type: ignore[override] # of the instance: looked at only when a connection is made
        """Where it goes."""
        target: Target = vars(self)[WAY]
        scheme = "https" if target.is_tls else "http"
        return URL(f"{scheme}://{target.endpoint}{target.request.target}", encoded=True)

    @property
    def connection_key(self) -> ConnectionKey:
        """The key of the connections that it may go over."""
        key: ConnectionKey = vars(self)["masche_key"]
        return key

    @property
    def request_info(self) -> aiohttp.RequestInfo:
        """As the user asked: what an answer and its errors name."""
        asked: ClientRequest = vars(self)["masche_asked"]
        return asked.request_info

    async def send(self, conn: Connection) -> ClientResponse:
        """Send it. Raises what aiohttp raises."""
        protocol: Any = conn.protocol
        fields = vars(self)
        transport = None if protocol is None else protocol.transport
        if protocol is None or transport is None or transport.is_closing():
            raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
        head: bytes = fields["masche_head"]
        transport.write(head)
        protocol.start_timeout()
        made = self._answer()
        protocol.glances = type(made) is Glanced and self.method != "HEAD"
        return made

    def _answer(self) -> ClientResponse:
        """What is to become its answer."""
        fields = vars(self)
        size = len(fields["masche_head"])
        if not TAKES_WRITER or fields["response_class"] is not ClientResponse:
            return self._other(Written(size) if TAKES_WRITER else None)
        fields["response"] = made = Glanced.of(fields, fields["masche_asked"], size)
        return made

    def _other(self, written: "Written | None") -> ClientResponse:
        """An answer of the user's own class, or of an older aiohttp."""
        more: dict[str, Any] = {} if written is None else {"stream_writer": written}
        self.response = made = self.response_class(
            self.method,
            self.original_url,
            writer=cast("Any", None),
            continue100=None,
            timer=self._timer,
            request_info=self.request_info,
            traces=self._traces,
            loop=self.loop,
            session=self.session,
            **more,
        )
        return made


class Sent(Bare):
    """One that went out over this ``connection`` already, and whose answer has begun to come."""

    @property
    def connection(self) -> Connection:
        """Where its answer comes."""
        found: Connection = vars(self)["masche_connection"]
        return found

    @classmethod
    def over(
        cls, connection: Connection, asked: ClientRequest, target: Target, *, key: ConnectionKey, head: bytes
    ) -> Self:
        """What the user ``asked`` for, as it was sent to an instance."""
        made = cls.of(asked, target, key=key, head=head)
        vars(made)["masche_connection"] = connection
        return made

    async def send(self, conn: Connection) -> ClientResponse:  # noqa: ARG002 # it was sent
        """Let its answer be read."""
        return self._answer()


def written(size_bytes: int) -> dict[str, Any]:
    """What the versions of aiohttp want to know of a request that was sent."""
    return {"stream_writer": Written(size_bytes)} if TAKES_WRITER else {}
