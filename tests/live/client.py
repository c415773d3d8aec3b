"""Callers: one request over HTTP/1.1 (directly, or in absolute form through a proxy), h2c, gRPC, TLS or bare TCP."""

import http.client
import json
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import h2.config
import h2.connection
import h2.events

TIMEOUT = 15.0
Pairs = Iterable[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back. ``status`` 0: nothing did."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    grpc_status: str = ""

    def header(self, name: str) -> str | None:
        """All values of a header, joined; None when there is none."""
        found = [value for key, value in self.headers if key.lower() == name.lower()]
        return ",".join(found) if found else None

    @property
    def echo(self) -> dict[str, Any]:
        """What the backend says that it received; empty when no backend answered."""
        try:
            return json.loads(self.body)
        except ValueError:
            return {}

    @property
    def backend(self) -> str:
        """``namespace/workload`` that answered, or nothing."""
        return f"{self.echo['namespace']}/{self.echo['workload']}" if self.echo else ""


def http1(
    to: tuple[str, int],
    method: str,
    target: str,
    host: str,
    headers: Pairs = (),
    *,
    server_name: str = "",
    context: ssl.SSLContext | None = None,
) -> Answer:
    """One request on a connection of its own; with ``server_name`` or ``context`` inside TLS."""
    connection = http.client.HTTPConnection(*to, timeout=TIMEOUT)
    try:
        connection.sock = _connected(to, server_name, context)
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("host", host)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return Answer(status=response.status, headers=tuple(response.getheaders()), body=response.read())
    except (ConnectionError, http.client.HTTPException):
        return Answer(status=0)
    finally:
        connection.close()


def _connected(to: tuple[str, int], server_name: str, context: ssl.SSLContext | None) -> socket.socket:
    connection = socket.create_connection(to, TIMEOUT)
    if not server_name and context is None:
        return connection
    return (context or _trusting()).wrap_socket(connection, server_hostname=server_name or None)


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def http2(to: tuple[str, int], method: str, target: str, host: str, headers: Pairs = ()) -> Answer:
    """One request with prior knowledge of HTTP/2."""
    state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    state.initiate_connection()
    pseudo = [(":method", method), (":scheme", "http"), (":authority", host), (":path", target)]
    found: list[tuple[str, str]] = []
    body, grpc_status = b"", ""
    with socket.create_connection(to, TIMEOUT) as connection:
        state.send_headers(1, [*pseudo, *((name.lower(), value) for name, value in headers)], end_stream=True)
        connection.sendall(state.data_to_send())
        while data := connection.recv(65536):
            for event in state.receive_data(data):
                match event:
                    case h2.events.ResponseReceived():
                        found += event.headers
                        grpc_status = grpc_status or dict(event.headers).get("grpc-status", "")
                    case h2.events.TrailersReceived():
                        grpc_status = dict(event.headers).get("grpc-status", "")
                    case h2.events.DataReceived():
                        body += event.data
                        state.acknowledge_received_data(event.flow_controlled_length, 1)
                    case h2.events.StreamEnded() | h2.events.StreamReset():
                        status = int(dict(found).get(":status", "0"))
                        plain = tuple(pair for pair in found if not pair[0].startswith(":"))
                        return Answer(status=status, headers=plain, body=body, grpc_status=grpc_status)
            connection.sendall(state.data_to_send())
    return Answer(status=0)


def grpc(to: tuple[str, int], path: str, host: str, headers: Pairs = ()) -> Answer:
    """One call without a message."""
    answer = http2(to, "POST", path, host, [("content-type", "application/grpc"), ("te", "trailers"), *headers])
    return Answer(status=answer.status, headers=answer.headers, body=answer.body[5:], grpc_status=answer.grpc_status)


def tcp(to: tuple[str, int], data: bytes = b"hello", *, context: ssl.SSLContext | None = None) -> Answer:
    """Send bytes and read until the other end closes; status 200 when it said something."""
    try:
        with _connected(to, "", context) as connection:
            connection.sendall(data)
            body = b""
            while more := connection.recv(65536):
                body += more
    except ConnectionError:
        return Answer(status=0)
    return Answer(status=200 if body else 0, body=body)
