"""Nobody locks others out by holding connections open or by asking slowly."""

import contextlib
import socket
import time

import pytest
from raw_http import request

from masche.api import connections
from masche.api.server import MAX_CONNECTIONS
from masche.testing.api import RunningApi

HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def connect(api: RunningApi) -> socket.socket:
    return socket.create_connection((api.listening.host, api.listening.port), timeout=10)


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(5)
    try:
        return not connection.recv(65536)
    except ConnectionResetError:
        return True


def ask(connection: socket.socket) -> None:
    """Ask, and read the whole answer."""
    connection.sendall(HEAD + b"\r\n")
    received = b""
    while not received.endswith(b"\r\n\r\nok\n"):
        part = connection.recv(65536)
        assert part, received
        received += part


def test_many_idle_connections_lock_nobody_out(api: RunningApi) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(MAX_CONNECTIONS + 50):
            held.enter_context(connect(api))
        assert request(api, "GET", "/v1/status").status == 200


def test_a_connection_with_a_request_in_it_never_makes_room(api: RunningApi) -> None:
    with contextlib.ExitStack() as held:
        stream = held.enter_context(connect(api))
        token = api.listening.credentials.token.encode()
        stream.sendall(HEAD.replace(b"/healthz", b"/v1/live") + b"Authorization: Bearer " + token + b"\r\n\r\n")
        assert stream.recv(1)
        for _ in range(MAX_CONNECTIONS + 50):
            held.enter_context(connect(api))
        stream.settimeout(10)
        began = stream.recv(65536)
        assert began
        assert not began.startswith(b"HTTP/1.1 503")


def test_a_connection_that_says_nothing_is_cut_off(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    with connect(api) as silent:
        assert is_closed(silent)


@pytest.mark.parametrize("has_asked", [False, True], ids=["at once", "after an answer"])
def test_bytes_now_and_then_buy_no_time(api: RunningApi, monkeypatch: pytest.MonkeyPatch, has_asked: bool) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    with connect(api) as slow:
        if has_asked:
            ask(slow)
        slow.sendall(HEAD)
        slow.settimeout(0.1)
        began, is_open = time.monotonic(), True
        while is_open and time.monotonic() < began + 30:
            try:
                slow.sendall(b"X")
                is_open = bool(slow.recv(65536))
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                is_open = False
        assert not is_open
        assert time.monotonic() - began > 0.3


def test_a_connection_that_asks_again_and_again_stays(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 1.0)
    with connect(api) as steady:
        began = time.monotonic()
        while time.monotonic() < began + 2.0:
            ask(steady)
            time.sleep(0.05)
