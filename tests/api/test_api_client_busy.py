"""What the client says of an API that has no room for it, that is stopped, or that takes its time."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest

from masche.api import client
from masche.api.client import Client, UnreachableError, _refusal  # pyright: ignore[reportPrivateUsage] - its words
from masche.api.messages import EventPage

PAGE = EventPage(events=(), oldest=1, latest=0)


@contextmanager
def a_control_plane(*, is_stopped: bool, takes: float = 0.0) -> Iterator[Client]:
    """Takes connections, as the kernel does for it; unless it is stopped it answers, some questions only after long."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            waiting: list[threading.Timer] = []
            for _ in range(2):
                connection, _ = listener.accept()
                is_health = b"/healthz" in connection.recv(65536)
                waiting.append(threading.Timer(0.0 if is_health else takes, answer, [connection]))
                waiting[-1].start()
            for each in waiting:
                each.join()

        def answer(connection: socket.socket) -> None:
            with connection:
                body = msgspec.json.encode(PAGE)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        thread = threading.Thread(target=serve)
        if not is_stopped:
            thread.start()
        yield Client(host="127.0.0.1", port=listener.getsockname()[1], token="t")
        if not is_stopped:
            thread.join()


@pytest.mark.parametrize(
    ("ask", "is_change"),
    [
        (Client.events, False),
        (lambda asked: asked.diff(()), False),
        (lambda asked: asked.apply(()), True),
        (lambda asked: asked.revoke_token("t"), True),
    ],
    ids=["events", "diff", "apply", "revoke"],
)
def test_a_control_plane_that_is_stopped_is_not_waited_for_and_may_do_later_what_it_was_asked(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[Client], object], *, is_change: bool
) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.2)
    with a_control_plane(is_stopped=True) as asked:
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="did not answer in time") as told:
            ask(asked)
        assert time.monotonic() - began < client.TIMEOUT / 3
        assert "SIGCONT" in told.value.fix
        assert ("may still be carried out" in told.value.message) is is_change


@pytest.mark.parametrize("ask", [Client.events, lambda asked: asked._post("/v1/why", {}, EventPage)])
def test_a_control_plane_that_is_busy_is(monkeypatch: pytest.MonkeyPatch, ask: Callable[[Client], object]) -> None:
    monkeypatch.setattr(client, "PATIENCE", 0.2)
    with a_control_plane(is_stopped=False, takes=1.0) as asked:
        assert ask(asked) == PAGE


def test_a_control_plane_without_room_is_not_taken_for_something_else() -> None:
    error = _refusal(503, b"Service Unavailable")
    assert "too many connections" in str(error)


def test_what_is_no_control_plane_is_called_so() -> None:
    assert "not a masche control plane" in str(_refusal(502, b"<html>"))
