import socket
from pathlib import Path

import pytest

from agent.world import free_port
from masche.agent.seats import HIGHEST, LOWEST, NoPortError, PortBook


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ports.json"


def _listen(port: int, *, is_envoy: bool = False) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_envoy:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        one.bind(("127.0.0.1", port))
    except OSError:
        one.close()
        raise
    one.listen()
    return one


def test_the_first_proxy_gets_what_it_prefers_and_the_next_a_free_port(file: Path) -> None:
    book = PortBook(file)
    wanted = free_port()
    assert book.take("a#inbound/80", preferred=wanted) == wanted
    other = book.take("b#inbound/80", preferred=wanted)
    assert other != wanted
    assert LOWEST <= other < HIGHEST
    book.close()


def test_a_port_is_the_same_after_a_restart(file: Path) -> None:
    book = PortBook(file)
    ports = [book.take(f"a#{index}") for index in range(20)]
    book.save()
    book.close()
    again = PortBook(file)
    assert [again.take(f"a#{index}") for index in reversed(range(20))] == ports[::-1]
    assert len(set(ports)) == 20
    again.close()


def test_a_held_port_is_free_for_envoy_and_taken_for_strangers(file: Path) -> None:
    book = PortBook(file)
    port = book.take("a#proxy")
    with pytest.raises(OSError, match="in use"):
        _listen(port)
    with _listen(port, is_envoy=True) as envoy, socket.create_connection(("127.0.0.1", port)) as caller:
        accepted, _ = envoy.accept()
        assert accepted.getpeername() == caller.getsockname()
        accepted.close()
    book.close()


def test_a_port_that_another_process_took_meanwhile_is_replaced(file: Path) -> None:
    book = PortBook(file)
    port = book.take("a#proxy")
    book.save()
    book.close()
    with _listen(port):
        again = PortBook(file)
        assert again.take("a#proxy") != port
        again.close()


def test_a_port_on_which_our_own_envoy_listens_is_kept(file: Path) -> None:
    book = PortBook(file)
    port = book.take("a#proxy")
    book.save()
    with _listen(port, is_envoy=True):
        book.close()
        again = PortBook(file)
        assert again.take("a#proxy", is_in_use=True) == port
        again.close()


def test_two_books_never_hold_the_same_port(file: Path, tmp_path: Path) -> None:
    one, two = PortBook(file), PortBook(tmp_path / "other.json")
    assert {one.take(f"a#{n}") for n in range(30)}.isdisjoint({two.take(f"a#{n}") for n in range(30)})
    one.close()
    two.close()


def test_a_released_seat_forgets_its_ports_alone(file: Path) -> None:
    book = PortBook(file)
    book.take("a#1")
    kept = book.take("ab#1")
    book.release("a")
    book.close()
    again = PortBook(file)
    assert again.take("ab#1") == kept
    again.close()
    assert b'"a#1"' not in file.read_bytes()


def test_no_free_port_is_an_error_and_not_a_loop(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masche.agent.seats.HIGHEST", LOWEST + 2)
    book = PortBook(file)
    book.take("a#1")
    book.take("a#2")
    with pytest.raises(NoPortError):
        book.take("a#3")
    book.close()


def test_a_damaged_file_is_as_if_it_were_not_there(file: Path) -> None:
    file.write_bytes(b"{not json")
    book = PortBook(file)
    assert book.take("a#1") >= LOWEST
    book.close()
