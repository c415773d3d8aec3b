"""Small applications: one that echoes what it received, in HTTP/1.1, WebSocket and h2c, and one that speaks TCP."""

import itertools
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import h2.config
import h2.connection
import h2.events


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        self.server.seen.append((self.command, self.path))
        status = int(self.headers.get("x-answer") or next(self.server.statuses))
        answer = json.dumps(
            {
                "name": self.server.name,
                "method": self.command,
                "path": self.path,
                "host": self.headers["host"],
                "headers": {name.lower(): value for name, value in self.headers.items()},
                "body": body,
            }
        ).encode()
        self.send_response(status)
        if extra := self.headers.get("x-answer-header"):
            self.send_header(*extra.split(": "))
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = _answer  # noqa: N815 - names of the base class

    def log_message(self, *_) -> None:
        pass


@contextmanager
def http_echo(name: str = "echo") -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    server.daemon_threads = True
    server.name, server.seen, server.statuses = name, [], itertools.repeat(200)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def serving(handle) -> Iterator[int]:
    """A TCP server that gives each connection to ``handle`` in a thread of its own."""
    listening = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=_guarded, args=(handle, connection), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def _guarded(handle, connection: socket.socket) -> None:
    with connection:
        try:
            handle(connection)
        except OSError:
            return


def tcp_echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data.upper())


def greeting(connection: socket.socket) -> None:
    """A protocol in which the server speaks first."""
    connection.sendall(b"220 welcome\r\n")
    connection.recv(1)


def h2c_echo(connection: socket.socket) -> None:
    """Prior-knowledge HTTP/2: answers each request with its headers as JSON."""
    state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
    state.initiate_connection()
    connection.sendall(state.data_to_send())
    while data := connection.recv(65536):
        for event in state.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                body = json.dumps(dict(event.headers)).encode()
                state.send_headers(event.stream_id, [(":status", "200")])
                state.send_data(event.stream_id, body, end_stream=True)
        connection.sendall(state.data_to_send())


def websocket_like(connection: socket.socket) -> None:
    """Accepts an upgrade and then returns every byte in capitals."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    assert b"upgrade: websocket" in head.lower()
    connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
    tcp_echo(connection)
