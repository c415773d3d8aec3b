"""Links between zones: slow, silent or dead as they are told, while nothing of what they carry is touched."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from masche.cli.links import Link, Links, in_a_thread, obey
from taken_ports import NETWORK

DELAY = 0.08


class Echo:
    """Something that listens inside a zone and says everything again."""

    def __init__(self, address: str) -> None:
        self._server = socket.create_server((address, 0))
        self.port = self._server.getsockname()[1]
        self.callers: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        if self._server.fileno() >= 0:
            self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()


@pytest.fixture
def links() -> Iterator[Links]:
    with in_a_thread(Links(["a", "b", "c"], block=NETWORK)) as running:
        yield running


@pytest.fixture
def echo(links: Links) -> Iterator[Echo]:
    with closing(Echo(links.inside("b"))) as found:
        yield found


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def dial(links: Links, zone: str, echo: Echo) -> socket.socket:
    """Call b from a zone, as a proxy does that is bound inside it; what has just come is waited for."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(
                (links.outside("b"), echo.port), timeout=5, source_address=(links.inside(zone), 0)
            )
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, links
            time.sleep(0.01)


def took(connection: socket.socket, data: bytes = b"x") -> float:
    """Seconds from asking to the whole answer."""
    began = time.monotonic()
    connection.sendall(data)
    missing = len(data)
    while missing:
        missing -= len(connection.recv(65536))
    return time.monotonic() - began


def test_what_listens_inside_a_zone_is_reached_outside_on_its_port(links: Links, echo: Echo):
    with dial(links, "a", echo) as connection:
        until(lambda: took(connection) < DELAY / 2)


def test_what_no_longer_listens_is_no_longer_reached(links: Links, echo: Echo):
    dial(links, "a", echo).close()
    echo.close()

    def is_refused() -> bool:
        try:
            socket.create_connection((links.outside("b"), echo.port), timeout=5).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:  # the relay closed while the connection stood in its queue
            return False
        return False

    until(is_refused)


def test_a_link_is_slow_for_the_callers_of_one_zone_and_at_once(links: Links, echo: Echo):
    with dial(links, "a", echo) as far, dial(links, "c", echo) as near:
        until(lambda: took(far) < DELAY / 2)
        links.set_both("a", "b", Link(delay=DELAY / 2))
        until(lambda: took(far) > DELAY)
        until(lambda: took(near) < DELAY / 2)
        links.set_both("a", "b", Link())
        until(lambda: took(far) < DELAY / 2)


def test_each_direction_of_a_link_is_its_own(links: Links, echo: Echo):
    links.set("b", "a", Link(delay=DELAY))
    with dial(links, "a", echo) as connection:
        took(connection)
        assert took(connection) >= DELAY
        until(lambda: took(connection) < DELAY * 1.9)


def test_a_new_connection_over_a_slow_link_costs_a_round_trip_more(links: Links, echo: Echo):
    links.set_both("a", "b", Link(delay=DELAY))
    with dial(links, "a", echo) as connection:
        assert took(connection) >= 4 * DELAY
        assert took(connection) >= 2 * DELAY
        until(lambda: took(connection) < 3.5 * DELAY)


def test_a_stalled_link_moves_nothing_and_loses_nothing(links: Links, echo: Echo):
    with dial(links, "a", echo) as connection:
        took(connection)
        links.set("a", "b", Link(is_stalled=True))
        until(lambda: links.link("a", "b").is_stalled)
        connection.sendall(b"held")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(100)
        links.set("a", "b", Link())
        connection.settimeout(5)
        assert connection.recv(100) == b"held"


def test_a_link_that_is_down_resets_what_is_open_and_lets_nobody_in(links: Links, echo: Echo):
    with dial(links, "a", echo) as connection:
        took(connection)
        links.set_both("a", "b", Link(is_down=True))
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
        with dial(links, "a", echo) as another, pytest.raises(ConnectionResetError):
            another.recv(100)
        with dial(links, "c", echo) as untouched:
            took(untouched)


def test_much_arrives_whole_and_in_order_over_a_slow_link(links: Links, echo: Echo):
    links.set_both("a", "b", Link(delay=0.01))
    sent = os.urandom(6_000_000)
    with dial(links, "a", echo) as connection:
        threading.Thread(target=lambda: (connection.sendall(sent), connection.shutdown(socket.SHUT_WR))).start()
        received = b"".join(iter(lambda: connection.recv(1 << 20), b""))
    assert received == sent


@pytest.mark.parametrize("line", ["a-b", "a-b 40", "a-x 40ms", "a 40ms", "a-b-c 40ms", "a-b sideways"])
def test_a_line_that_cannot_be_obeyed_is_answered_in_words(line: str):
    assert "is not like `a-b 40ms`" in obey(Links(["a", "b"]), line)


def test_a_line_says_how_a_link_is(links: Links):
    assert [obey(links, line) for line in ("a-b 40ms", "a>c down", "c>a stalled")] == ["", "", ""]
    assert links.link("a", "b") == links.link("b", "a") == Link(delay=0.04)
    assert (links.link("a", "c"), links.link("c", "a")) == (Link(is_down=True), Link(is_stalled=True))


def test_it_is_a_program_that_obeys_its_standard_input():
    done = subprocess.run(
        [sys.executable, "-m", "masche.cli.links", "--block", NETWORK, "a", "b"],
        input="a-b 40ms\nnonsense\n",
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout.startswith("ok\n'nonsense' is not like")
