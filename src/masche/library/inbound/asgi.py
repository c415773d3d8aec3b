"""The door in front of an ASGI application: requests and WebSocket handshakes are judged before it hears of them.

Bodies stream through in both directions. What the server knows of the connection stands in the scope under
``masche.shown``, where no caller can write. Invariant: each request is ended exactly once, however the application,
the server or the caller leaves it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from masche.library import peer as peers
from masche.library.core import context, trace
from masche.library.core.context import Bound
from masche.library.inbound.deciding import Answer, Shown, silent
from masche.library.inbound.door import Door, Passage, ended
from masche.library.peer import Peer
from masche.traffic.request import Connection, Headers, Request, characters, octets

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SHOWN = "masche.shown"
"""Where a server of ours leaves what the connection proved, an ``inbound.Shown``."""

PEER = "masche.peer"
"""Where the application finds its caller, a ``masche.library.peer.Peer`` or None."""

SNI = "masche.sni"
SILENT = "SI"
"""Envoy's flag of a request on which nothing moved for too long."""

_REFUSAL = "websocket.http.response"


class Guarded:
    """An ASGI application behind a Door."""

    def __init__(self, app: App, door: Door) -> None:
        self._app = app
        self._door = door

    def __repr__(self) -> str:
        return f"<Guarded {self._app!r} by {self._door!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        shown: Shown | None = scope.get(SHOWN)
        request = request_of(scope, self._door.port, shown)
        entered = self._door.enter(request, shown)
        if isinstance(entered, Answer):
            is_one = scope.get("http_version", "1.1").startswith("1")  # HTTP/2 has no such header
            await _answer(ended(entered) if is_one else entered, scope, receive, send)
            return
        await self._pass(entered, request, scope, receive, send)

    async def _pass(self, passage: Passage, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        body = _Body(passage, receive, send)
        caller = Peer.of(passage.shown.peer) if passage.shown else None
        inside = {**scope, **_as_passed_on(passage.request, request), PEER: caller}
        try:
            with (
                peers.calling(caller),
                trace.within(trace.of(passage.request.headers)),
                context.until(passage.deadline) as body.bound,
            ):
                async with asyncio.timeout(passage.idle_timeout or None) as body.patience:
                    await self._app(inside, body.receive, body.send)
        except TimeoutError:
            if not body.patience or not body.patience.expired():
                passage.end(sent=body.sent, received=body.received, is_broken=True)
                raise
            passage.flag = SILENT
            if not passage.status:  # else the server ends what has begun
                answer = silent(passage.request, is_read=body.is_read)
                passage.begin(answer.status, ())
                await _answer(answer, scope, receive, send)
        except Exception:
            passage.end(sent=body.sent, received=body.received, is_broken=True)
            raise
        finally:
            passage.end(sent=body.sent, received=body.received)


class _Body:
    """What goes in and out of one request, on its way."""

    __slots__ = ("_passage", "_receive", "_send", "bound", "is_read", "patience", "received", "sent")

    def __init__(self, passage: Passage, receive: Receive, send: Send) -> None:
        self._passage, self._receive, self._send = passage, receive, send
        self.sent = self.received = 0
        self.is_read = False
        self.patience: asyncio.Timeout | None = None
        self.bound: Bound | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        self.received += _length(message)
        self.is_read = not message.get("more_body", False)
        self._moved()
        return message

    def _moved(self) -> None:
        """Something moved: what is idle begins anew."""
        idle, patience = self._passage.idle_timeout, self.patience
        if idle and patience is not None and not patience.expired():
            patience.reschedule(asyncio.get_running_loop().time() + idle)

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                message = self._begun(message, message["status"])
            case "websocket.accept":
                message = self._begun(message, 101)
            case "websocket.close" if not self._passage.status:
                self._passage.begin(403, ())  # ASGI: closing before accepting is answered 403 by the server
            case _:
                self.sent += _length(message)
        await self._send(message)
        self._moved()
        if self.bound is not None and _is_answered(message):
            self.bound.lift()

    def _begun(self, message: Message, status: int) -> Message:
        headers = self._passage.begin(status, _text(message.get("headers", ())))
        return {**message, "headers": _bytes(headers)}


def _is_answered(message: Message) -> bool:
    """Has the caller all that it waits for? A conversation has no end that it waits for."""
    kind = message["type"]
    return kind == "websocket.accept" or (kind == "http.response.body" and not message.get("more_body", False))


def _length(message: Message) -> int:
    return len(message.get("body") or message.get("bytes") or message.get("text") or b"")


def request_of(scope: Scope, port: int, shown: Shown | None) -> Request:
    """Read the request of a scope, as it came on the wire."""
    host: list[str] = []
    headers: list[tuple[str, str]] = []
    for name, value in scope["headers"]:
        if name == b"host":
            host.append(value.decode("latin-1"))
        else:
            headers.append((name.decode("latin-1").lower(), characters(value)))
    raw = scope.get("raw_path")
    path = raw.decode("latin-1") if raw is not None else quote(scope["path"])
    query = scope.get("query_string", b"").decode("latin-1")
    client, server = scope.get("client"), scope.get("server")
    connection = Connection(
        peer=shown.peer.removeprefix("spiffe://") if shown else None,
        source_ip=client[0] if client else "",
        destination_ip=server[0] if server else "",
        port=port,
        sni=scope.get(SNI, ""),
    )
    return Request(
        method=scope.get("method", "GET"),
        target=f"{path}?{query}" if query else path,
        authority=",".join(host),
        scheme="https" if shown else "http",
        headers=tuple(headers),
        connection=connection,
    )


def _as_passed_on(request: Request, before: Request) -> Scope:
    """The parts of a scope that the mesh changes."""
    changed: Scope = {"headers": _bytes(request.headers)}
    if request.target != before.target:
        path, _, query = request.target.partition("?")
        changed |= {
            "raw_path": path.encode("latin-1"),
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "query_string": query.encode("latin-1"),
        }
    return changed


async def _answer(answer: Answer, scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-length", str(len(answer.body)).encode()), *_bytes(answer.headers)]
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})
        return
    await receive()  # the server says websocket.connect first
    if _REFUSAL in (scope.get("extensions") or {}):
        await send({"type": f"{_REFUSAL}.start", "status": answer.status, "headers": headers})
        await send({"type": f"{_REFUSAL}.body", "body": answer.body})
    else:
        await send({"type": "websocket.close"})


def _text(pairs: Iterable[tuple[bytes, bytes]]) -> Headers:
    return tuple((name.decode("latin-1").lower(), characters(value)) for name, value in pairs)


def _bytes(pairs: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), octets(value)) for name, value in pairs]
