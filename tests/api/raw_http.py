"""Says exactly the bytes that a test wants to the API, and reads the answer."""

import contextlib
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from masche.testing.api import RunningApi


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return self.json["error"]["code"]


def send(api: RunningApi, payload: bytes, *, timeout: float = 10.0) -> Answer:
    with socket.create_connection((api.listening.host, api.listening.port), timeout=timeout) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it answered before it had read everything
            connection.sendall(payload)
        return _answer(_read(connection))


def _read(connection: socket.socket) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):  # it closed with our bytes unread; what it said before counts
        while part := connection.recv(65536):
            received += part
    return received


def _answer(received: bytes) -> Answer:
    head, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    return Answer(int(status_line.split()[1]), headers, body)


def request(
    api: RunningApi,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    is_authenticated: bool = True,
) -> Answer:
    sent = {"Host": f"127.0.0.1:{api.listening.port}", "Connection": "close"}
    if is_authenticated:
        sent["Authorization"] = f"Bearer {api.listening.credentials.token}"
    if body:
        sent |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    sent |= headers or {}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items() if value)
    return send(api, f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body)
