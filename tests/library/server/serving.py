"""A server of the library in a thread, and what calls it: bytes in, bytes out."""

import asyncio
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvloop
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from masche.library import peer as peers
from masche.library import uvicorn
from masche.library.core import trace
from masche.library.core.ports import Received
from masche.library.core.tls import Certificates
from masche.library.inbound.asgi import App, Guarded, Message, Receive, Scope, Send
from masche.library.inbound.door import Door
from masche.library.inbound.listen import bound
from masche.model.view import Inbound, InboundPort, Policy, Protocol
from masche.testing.static_reception import Counted, StaticReception

PROTOCOLS = {"h11": H11Protocol, "httptools": HttpToolsProtocol}
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def inbound(*policies: Policy, port: int, **more: Any) -> Inbound:
    return Inbound(policies=policies, ports=(InboundPort(target=port, protocol=Protocol.HTTP),), **more)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Say all that the application was told."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    if scope["type"] == "websocket":
        await _converse(scope, receive, send)
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    if scope["path"] == "/boom":
        raise RuntimeError("boom")
    told = _told(scope) | {"body": body.decode("latin-1")}
    headers = [(b"content-type", b"application/json"), (b"x-masche-service-us", b"1"), (b"x-masche-denied", b"me")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})


def _told(scope: Scope) -> dict[str, Any]:
    peer, at = peers.current(), trace.current()
    return {
        "path": scope["path"],
        "raw_path": scope["raw_path"].decode(),
        "query": scope["query_string"].decode(),
        "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
        "peer": str(peer) if peer else None,
        "in_scope": str(scope["masche.peer"]) if scope["masche.peer"] else None,
        "tls": (scope.get("extensions") or {}).get("tls"),
        "trace": at.parent if at else None,
    }


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _converse(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    message: Message = await receive()
    await send({"type": "websocket.send", "text": f"{message['text']} from {_told(scope)['peer']}"})
    await receive()


class Served:
    """A server that runs."""

    def __init__(self, app: App, certificates: Certificates, *, http: str = "h11", loop: str = "asyncio") -> None:
        self.socket = bound("127.0.0.1", 0)
        self.port: int = self.socket.getsockname()[1]
        self.reception, self.counted = StaticReception(), Counted()
        self.door = Door(
            self.port, name="http", workload=lambda: "shop/orders-1", reception=self.reception, counter=self.counted
        )
        self.left = threading.Event()
        self._certificates = certificates
        kind = uvicorn.introducing(PROTOCOLS[http], certificates)
        config = uvicorn.config(Guarded(app, self.door), certificates, http=kind)
        self.server = uvicorn.Server(
            config, [self.socket], mode=self.door.mode, context=certificates.server_context, leave=self._leave
        )
        self._loop = LOOPS[loop]
        self._thread = threading.Thread(target=self._run, name="serving")
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._loop) as runner:
            runner.run(self.server.serve())

    async def _leave(self) -> None:
        self.left.set()

    def told(self, *policies: Policy, **more: Any) -> None:
        """Let the control plane say how calls are received."""
        self.reception.told = {self.port: inbound(*policies, port=self.port, **more)}

    def counts(self, number: int = 1) -> list[Received]:
        """What was counted, once so many requests were: an answer is there a little before it is counted."""
        end = time.monotonic() + 10
        while len(self.counted.requests) < number and time.monotonic() < end:
            time.sleep(0.002)
        assert len(self.counted.requests) == number
        return self.counted.requests

    def close(self) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    def raw(self, data: bytes, context: ssl.SSLContext | None = None) -> bytes:
        """Send bytes and read until the server closes."""
        with connected(self.port, context) as connection:
            connection.sendall(data)
            found = b""
            while more := connection.recv(65536):
                found += more
            return found

    def ask(
        self,
        target: str = "/",
        *,
        context: ssl.SSLContext | None = None,
        method: str = "GET",
        host: str = "orders",
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes = b"",
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.sock = connected(self.port, context)
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in (("host", host), *headers, *((("content-length", str(len(body))),) if body else ())):
                connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()


def connected(port: int, context: ssl.SSLContext | None) -> socket.socket:
    plain = socket.create_connection(("127.0.0.1", port), 10)
    if context is None:
        return plain
    try:
        return context.wrap_socket(plain)
    except OSError:
        plain.close()
        raise


Serving = Callable[..., Served]


@contextmanager
def serving(certificates: Certificates, app: App = echo, **how: str) -> Iterator[Served]:
    running = Served(app, certificates, **how)
    try:
        yield running
    finally:
        running.close()
