"""A WSGI application on an ASGI server: each request in a thread, with streams in both directions.

Invariant: the loop never waits for the application, and the application sees the peer and the trace of its request.
"""

import asyncio
import contextvars
import inspect
import io
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

from masche.library.inbound.asgi import App, Message, Receive, Scope, Send

Environ = dict[str, Any]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]
WsgiApp = Callable[[Environ, StartResponse], Iterable[bytes]]

PEER = "masche.peer"
"""Where the application finds its caller, a ``masche.library.peer.Peer`` or None."""

WITHOUT_PREFIX = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}

THREADS: Final = 40
"""So many requests at a time."""


def is_wsgi(app: object) -> bool:
    """Say whether a callable takes what WSGI gives: two arguments, and no coroutine comes of it."""
    called = app if inspect.isroutine(app) else getattr(app, "__call__", None)  # noqa: B004 - its signature is asked for
    if called is None or inspect.iscoroutinefunction(called) or inspect.isclass(app):
        return False
    try:
        wanted = [each for each in inspect.signature(called).parameters.values() if each.default is each.empty]
    except (TypeError, ValueError):
        return False
    return len(wanted) == 2 and all(each.kind is not each.VAR_KEYWORD for each in wanted)


def as_asgi(app: WsgiApp) -> App:
    """Return an ASGI application that runs a WSGI one in threads, with streams in both directions."""

    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="masche-wsgi")

    async def adapted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
        else:
            loop, around = asyncio.get_running_loop(), contextvars.copy_context()
            exchange = _Exchange(loop, receive, send)
            environ = _environ(scope, exchange)
            await loop.run_in_executor(threads, lambda: around.run(exchange.run, app, environ))

    return adapted


async def _live(receive: Receive, send: Send) -> None:
    for word in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{word}.complete"})


class _Exchange(io.RawIOBase):
    """One request between a thread and its loop; as a file it is the request's body."""

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Receive, send: Send) -> None:
        super().__init__()
        self._loop, self._receive, self._send = loop, receive, send
        self._buffer = b""
        self._has_more = True
        self._head: Message | None = None
        self._has_begun = False

    def run(self, app: WsgiApp, environ: Environ) -> None:
        """Call the application in this thread and send what it says."""
        said = app(environ, self._start)
        try:
            for chunk in said:
                if chunk:
                    self._write(chunk)
            self._write(b"", has_more=False)
        finally:
            getattr(said, "close", lambda: None)()

    def _start(self, status: str, headers: list[tuple[str, str]], error: object = None) -> Write:
        if error and self._has_begun:
            raise cast("Any", error)[1]
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        self._head = {"type": "http.response.start", "status": int(status[:3]), "headers": pairs}
        return self._write

    def _write(self, data: bytes, *, has_more: bool = True) -> None:
        if self._head is not None:
            head, self._head, self._has_begun = self._head, None, True
            self._await(self._send(head))
        self._await(self._send({"type": "http.response.body", "body": data, "more_body": has_more}))

    def _await(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    def readable(self) -> bool:
        """A body can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some of the body, waiting for it. Raises ConnectionAbortedError when the caller goes before its end:
        half a body must not be taken for a whole one.
        """
        while not self._buffer and self._has_more:
            message: Message = self._await(self._receive())
            if message["type"] == "http.disconnect":
                raise ConnectionAbortedError("the caller went away before the end of its request")
            self._buffer = message.get("body", b"")
            self._has_more = message.get("more_body", False)
        part, self._buffer = self._buffer[: len(buffer)], self._buffer[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _environ(scope: Scope, exchange: _Exchange) -> Environ:
    """PEP 3333's environ of an ASGI scope."""
    server, client = scope.get("server") or ("", 0), scope.get("client") or ("", 0)
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"].encode("utf-8").decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": client[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BufferedReader(exchange),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        PEER: scope.get(PEER),
    }
    for name, value in scope["headers"]:
        key = name.decode("latin-1").upper().replace("-", "_")
        key = key if key in WITHOUT_PREFIX else f"HTTP_{key}"
        text = value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ
