"""A web server for tests of clients and protocols: it tells what reached it, and answers in every way there is.

Every path answers with a description of the request (method, target, headers, length and hash of the body), except
``/status/<code>``, ``/bytes/<n>``, ``/chunks/<n>``, ``/events/<n>/<ms between them>``, ``/slow/<ms>``, ``/raw`` (the
body as it came) and ``/early`` (an answer before the body has been read).
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = os.environ.get("NAME", "web")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def log_message(self, *_):
        pass

    def body(self):
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, body, status=200, **headers):
        self.send_response(status)
        self.send_header("server-name", NAME)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status not in (204, 304):
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status not in (204, 304):
            self.wfile.write(body)

    def linger(self):
        """Close as RFC 9112, 9.6 wants it: a reset might overtake the answer while something is left unread."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(1)
        with contextlib.suppress(OSError):
            while self.connection.recv(65_536):
                pass

    def chunks(self, pieces, kind):
        self.send_response(200)
        self.send_header("server-name", NAME)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def description(self, body):
        told = {
            "name": NAME,
            "method": self.command,
            "target": self.path,
            "version": self.request_version,
            "headers": [[name.lower(), value] for name, value in self.headers.items()],
            "length": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        return json.dumps(told).encode()

    def handle_one(self):
        match self.path.partition("?")[0].split("/")[1:]:
            case ["early"]:
                self.close_connection = True
                self.answer(b"too much", 413)
                self.linger()
                return
            case _:
                body = self.body()
        match self.path.partition("?")[0].split("/")[1:]:
            case ["status", code]:
                self.answer(b"", int(code))
            case ["bytes", size]:
                self.answer(b"x" * int(size))
            case ["chunks", count]:
                self.chunks((b"%05d" % number for number in range(int(count))), "text/plain")
            case ["events", count, every]:
                self.chunks(events(int(count), int(every) / 1000), "text/event-stream")
            case ["slow", ms]:
                time.sleep(int(ms) / 1000)
                self.answer(self.description(body))
            case ["raw"]:
                self.answer(body)
            case ["headers", count, size]:
                self.answer(b"", **{f"x-many-{number}": "v" * int(size) for number in range(int(count))})
            case _:
                self.answer(self.description(body), content_type="application/json")

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_OPTIONS = do_PATCH = handle_one  # noqa: N815 - the library's


def events(count, every):
    for number in range(count):
        if number:
            time.sleep(every)
        yield b"data: %d %.6f\n\n" % (number, time.time())


class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def main():
    server = Server((os.environ["HOST"], int(os.environ["PORT"])), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    if sheet := os.environ.get("SHEET"):
        new = Path(f"{sheet}.new")
        new.write_text(json.dumps(dict(os.environ)))
        new.rename(sheet)
    server.serve_forever(0.05)


main()
