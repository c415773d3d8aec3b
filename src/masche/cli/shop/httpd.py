"""A small HTTP server and client on the standard library: what a service of the shop stands on.

Every service reads PORT and HOST, and finds the others through ``<SERVICE>_URL``: the mesh sets all of them.
"""

import http.client
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

Answer = tuple[int, dict[str, Any] | str]
Handler = Callable[[str, str, dict[str, Any]], Answer]

NAME = os.environ.get("REPLICA", os.environ.get("SERVICE", "shop"))
TRACE_HEADERS = ("traceparent", "tracestate", "x-request-id")


class Fault:
    """A lever for demonstrations: how long this replica makes its callers wait, and whether it fails."""

    delay = 0.0
    status = 0


class Upstream:
    """Another service, called over connections that are kept open, one per thread."""

    def __init__(self, service: str) -> None:
        url = urlsplit(os.environ.get(f"{service.upper()}_URL", f"http://{service}"))
        self._service = service
        self._address = (url.hostname or service, url.port or 80)
        self._local = threading.local()

    def call(self, method: str, path: str, body: dict[str, Any] | None, headers: dict[str, str]) -> Answer:
        """One request. A connection that was closed while it was idle is opened again once."""
        for attempt in (1, 2):
            connection = getattr(self._local, "connection", None)
            is_new = connection is None
            if connection is None:
                connection = http.client.HTTPConnection(*self._address, timeout=10)
                self._local.connection = connection
            try:
                payload = json.dumps(body).encode() if body is not None else None
                connection.request(method, path, payload, {"content-type": "application/json", **headers})
                response = connection.getresponse()
                text = response.read()
            except (ConnectionError, http.client.HTTPException, TimeoutError) as error:
                self._local.connection = None
                if is_new or attempt == 2:
                    return 502, {"error": f"{self._service}: {error!r}"}
                continue
            return response.status, _decode(text)
        raise AssertionError


def _decode(text: bytes) -> dict[str, Any] | str:
    try:
        return json.loads(text)
    except ValueError:
        return text.decode(errors="replace")


def _encoded(answer: dict[str, Any] | str) -> tuple[bytes, str]:
    """The body, and what it is."""
    if isinstance(answer, str):
        return answer.encode(), "text/html; charset=utf-8"
    return json.dumps(answer).encode(), "application/json"


def application(handler: Callable[..., Answer]) -> Callable[..., list[bytes]]:
    """The same service as a WSGI application, for a server that is in the mesh itself: `masche serve payment:app`."""

    def app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        if environ["PATH_INFO"] == "/healthz":
            status, answer = 200, {"ok": True}
        else:
            body = _decode(environ["wsgi.input"].read() or b"{}")
            passed_on = {
                name: environ[key]
                for name in TRACE_HEADERS
                if (key := f"HTTP_{name.upper().replace('-', '_')}") in environ
            }
            query = f"?{environ['QUERY_STRING']}" if environ["QUERY_STRING"] else ""
            target = environ["PATH_INFO"] + query
            status, answer = handler(
                environ["REQUEST_METHOD"], target, body if isinstance(body, dict) else {}, passed_on
            )
        data, kind = _encoded(answer)
        headers = [("content-type", kind), ("content-length", str(len(data))), ("x-served-by", NAME)]
        start_response(f"{status} {http.client.responses[status]}", headers)
        return [data]

    return app


class _Request(BaseHTTPRequestHandler):
    """One connection; its server knows who answers."""

    protocol_version = "HTTP/1.1"
    server_version = "shop"
    disable_nagle_algorithm = True
    server: "_Server"

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = _decode(self.rfile.read(length)) if length else {}
        status, answer = self._said(body if isinstance(body, dict) else {})
        data, kind = _encoded(answer)
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.send_header("x-served-by", NAME)
        self.end_headers()
        self.wfile.write(data)

    def _said(self, body: dict[str, Any]) -> Answer:
        path = urlsplit(self.path).path
        if path == "/fault" and self.command == "POST":
            Fault.delay = float(body.get("delay_ms", 0)) / 1000
            Fault.status = int(body.get("status", 0))
            return 200, {"delay_ms": Fault.delay * 1000, "status": Fault.status}
        if path == "/healthz":
            return 200, {"ok": True}
        time.sleep(Fault.delay)
        if Fault.status:
            return Fault.status, {"error": "switched to fail"}
        passed_on = {name: self.headers[name] for name in TRACE_HEADERS if self.headers[name]}
        return self.server.handler(self.command, self.path, body, passed_on)

    do_GET = do_POST = do_PUT = do_DELETE = _answer

    def log_message(self, *_args: object) -> None:
        """The mesh logs requests."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, handler: Callable[..., Answer]) -> None:
        self.handler = handler
        super().__init__((os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8080"))), _Request)


def serve(handler: Callable[..., Answer]) -> None:
    """Serve until SIGTERM; open requests are answered first."""
    server = _Server(handler)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    sys.exit(0)
