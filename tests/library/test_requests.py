"""requests through the mesh: what a user of it sees, and what the services behind see."""

import gc
import io
import pickle
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from library.answering import Answering, hang_up, who
from library.issuing import bare_server
from library.town import Town, changing, never_idle, never_repeating, repeating, settled, within
from masche.library.requests import Adapter
from masche.model.calling import UNSAID, Hedging

HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"


def silence(_head: bytes) -> bytes:
    return b""


def test_a_name_of_the_mesh_is_called_over_mutual_tls(town: Town, session: requests.Session) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    answer = session.get("http://orders/items?q=a%20b")
    assert (answer.status_code, answer.text, answer.url) == (200, "orders", "http://orders/items?q=a%20b")
    assert answer.request.url == "http://orders/items?q=a%20b"
    assert orders.peers == [town.identity.spiffe_id]
    assert b"GET /items?q=a%20b HTTP/1.1\r\n" in orders.received[0]
    assert b"Host: orders\r\n" in orders.received[0]
    assert settled(town)


def test_connections_are_used_again(town: Town, session: requests.Session) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    for _ in range(5):
        assert session.get("http://orders/").text == "orders"
    assert orders.accepted == 1


def test_a_session_that_is_closed_leaves_no_connection_until_the_collector_comes(
    town: Town, session: requests.Session
) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    gc.disable()
    try:
        assert session.get("http://orders/").text == "orders"
        assert orders.open
        session.close()
        deadline = time.monotonic() + 10
        while orders.open and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not orders.open
    finally:
        gc.enable()
    assert session.get("http://orders/").text == "orders", "as with any other adapter, a session goes on when it must"


def test_another_service_at_the_same_address_is_connected_to_anew(town: Town, session: requests.Session) -> None:
    """The instance of one service has ended and its address is another's; the old connection is still open."""
    orders = town.instance("orders")
    town.serve("orders", orders)
    assert session.get("http://orders/").text == "orders"
    orders.stop_listening()
    town.serve("carts", town.instance("carts", port=orders.port))
    assert session.get("http://carts/").text == "carts"
    assert len(orders.received) == 1


def test_one_address_expected_as_two_services_lets_only_the_right_one_be_called(
    town: Town, session: requests.Session
) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    town.serve("carts", orders)
    assert session.get("http://orders/").text == "orders"
    with pytest.raises(requests.exceptions.SSLError, match=r"carts; spiffe://.*/orders answered"):
        session.get("http://carts/")
    assert len(orders.received) == 1
    assert settled(town)


@pytest.mark.parametrize("verify", [False, True, "bundle"])
def test_nothing_that_a_session_says_of_certificates_makes_the_mesh_trust_more(
    town: Town, session: requests.Session, verify: bool | str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither verify=False, nor a bundle, nor REQUESTS_CA_BUNDLE, which overrides Session.verify."""
    bundle = tmp_path / "roots.pem"
    bundle.write_text(town.issuing.roots)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    session.verify = str(bundle) if isinstance(verify, str) else verify
    thief = town.instance("thief")
    town.serve("orders", thief)
    with pytest.raises(requests.exceptions.SSLError, match="thief answered"):
        session.get("http://orders/", verify=session.verify)
    assert thief.received == []
    town.serve("orders", town.instance("orders"))
    assert session.get("http://orders/", verify=session.verify).text == "orders"


def test_a_new_certificate_is_shown_from_the_next_connection_on(town: Town, session: requests.Session) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    session.get("http://orders/")
    town.issuing.renew(town.identity, "web")
    session.get("http://orders/")
    assert orders.accepted == 2


def test_nobody_there_is_a_connection_error(town: Town, session: requests.Session) -> None:
    gone = town.instance("orders")
    town.serve("orders", gone)
    gone.stop_listening()
    with pytest.raises(requests.ConnectionError):
        session.post("http://orders/", data="x")
    assert settled(town)


def test_a_service_without_instances_is_answered_by_the_mesh(town: Town, session: requests.Session) -> None:
    town.serve("orders")
    answer = session.get("http://orders/")
    assert (answer.status_code, answer.url) == (503, "http://orders/")
    assert "no healthy upstream" in answer.text
    assert answer.headers["content-type"] == "text/plain"


def test_a_request_that_may_be_repeated_finds_another_instance(town: Town, session: requests.Session) -> None:
    bad, good = town.instance("orders", answer=hang_up), town.instance("orders")
    town.serve("orders", bad, good, route=repeating("orders"))
    assert [session.get("http://orders/").text for _ in range(6)] == ["orders"] * 6


def test_what_was_not_sent_is_repeated_whatever_it_is(town: Town, session: requests.Session) -> None:
    """Nothing is sent where nobody listens, nor where the handshake fails, whatever the reason."""
    gone, odd, good = town.instance("orders"), old(town), town.instance("orders")
    town.serve("orders", gone, odd, good, route=repeating("orders"))
    gone.stop_listening()
    assert [session.post("http://orders/", data="x").text for _ in range(6)] == ["orders"] * 6


def old(town: Town) -> Answering:
    """A server that speaks no TLS that is good enough."""
    context = bare_server(*town.issuing.pair("orders"), town.issuing.roots)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    made = Answering(context, who("old"))
    town.keep(made)
    return made


def test_what_may_have_been_seen_is_sent_once(town: Town, session: requests.Session) -> None:
    bad = town.instance("orders", answer=hang_up)
    town.serve("orders", bad, route=never_repeating("orders"))
    with pytest.raises(requests.ConnectionError):
        session.get("http://orders/")
    with pytest.raises(requests.ConnectionError):
        session.post("http://orders/", data="")
    assert len(bad.received) == 2
    assert settled(town)


def test_when_nothing_is_known_in_time_requests_says_so_and_nothing_is_sent(
    town: Town, session: requests.Session
) -> None:
    town.silent.add("orders")
    with pytest.raises(requests.ConnectionError, match=r"nothing is known of orders .* the control plane"):
        session.get("http://orders/")


def test_a_routes_timeout_and_the_clients_own_are_both_timeouts(town: Town, session: requests.Session) -> None:
    town.serve("orders", town.instance("orders", answer=silence), route=within("orders", 0.1))
    town.serve("carts", town.instance("carts", answer=silence))
    with pytest.raises(requests.Timeout):
        session.get("http://orders/")
    with pytest.raises(requests.Timeout):
        session.get("http://carts/", timeout=0.1)
    with pytest.raises(requests.Timeout):
        session.get("http://carts/", timeout=(1, 0.1))
    assert settled(town)


def test_a_routes_timeout_ends_a_body_that_does_not_end(town: Town, session: requests.Session) -> None:
    town.serve("orders", town.instance("orders", answer=lambda _head: HALF), route=within("orders", 0.2))
    with pytest.raises(requests.ConnectionError, match="timed out"):
        session.get("http://orders/")
    assert settled(town)


def test_a_body_in_which_nothing_moves_is_given_up(town: Town, session: requests.Session) -> None:
    town.serve("orders", town.instance("orders", answer=lambda _head: HALF), route=never_idle("orders", 0.1))
    with pytest.raises(requests.ConnectionError, match="timed out"):
        session.get("http://orders/")
    assert settled(town)


def test_headers_keep_their_bytes(town: Town, session: requests.Session) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-Name: Z\xc3\xbcrich\r\nX-Odd: \xff\r\nContent-Length: 0\r\n\r\n"
    orders = town.instance("orders", answer=lambda _head: head)
    town.serve("orders", orders, route=changing("orders"))
    answer = session.get("http://orders/", headers={"x-text": "Zürich", "x-bytes": "Zürich".encode()})
    assert b"x-text: Z\xfcrich\r\n" in orders.received[0], "as requests sends text: in Latin-1"
    assert b"x-bytes: Z\xc3\xbcrich\r\n" in orders.received[0]
    assert answer.headers["x-name"].encode("latin-1").decode() == "Zürich"
    assert answer.headers["x-odd"] == "ÿ"


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # that somebody forgets an answer is what is tested
def test_a_body_that_is_not_read_counts_as_under_way_until_it_is_closed_or_forgotten(
    town: Town, session: requests.Session
) -> None:
    town.serve("orders", town.instance("orders", answer=lambda _head: HALF))
    with session.get("http://orders/", stream=True) as answer:
        assert answer.raw.read(4) == b"half"
        assert not settled(town)
    assert settled(town)
    assert town.counted.calls[-1].bytes_received == 4
    forgotten = session.get("http://orders/", stream=True)
    assert not settled(town)
    del forgotten
    gc.collect()
    session.get("http://orders/", stream=True).close()  # a finalizer tells nobody; the next call finds it
    assert settled(town)


def test_streams_come_in_pieces_and_connections_come_back(town: Town, session: requests.Session) -> None:
    orders = town.instance("orders", answer=lambda _head: CHUNKED)
    town.serve("orders", orders)
    for _ in range(3):
        with session.get("http://orders/", stream=True) as answer:
            assert b"".join(answer.iter_content(3)) == b"onetwo"
    assert orders.accepted == 1
    assert settled(town)


def test_bodies_of_every_kind_arrive(town: Town, session: requests.Session) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    session.post("http://orders/", data=b"bytes")
    session.post("http://orders/", json={"a": 1})
    session.post("http://orders/", data=io.BytesIO(b"a file"))
    session.post("http://orders/", data=iter([b"pie", b"ces"]))
    ends = time.monotonic() + 10  # the server answers as soon as it has the head
    sent = (b"bytes", b'{"a": 1}', b"a file", b"pie", b"ces", b"Transfer-Encoding: chunked")
    while missing := [each for each in sent if each not in b"".join(orders.received)]:
        assert time.monotonic() < ends, missing
        time.sleep(0.005)
    assert settled(town)


def test_what_is_not_of_the_mesh_goes_out_as_ever(town: Town, session: requests.Session, tmp_path: Path) -> None:
    """By plain HTTP, and by requests' own TLS with what the session says of it."""
    plain = Answering(None, who("outside"))
    town.keep(plain)
    assert session.get(f"http://localhost:{plain.port}/").text == "outside"
    assert session.get(f"http://127.0.0.1:{plain.port}/").text == "outside"
    assert town.counted.calls == []


def test_a_redirect_of_a_service_leads_through_the_mesh_again(town: Town, session: requests.Session) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://carts/new\r\nContent-Length: 0\r\n\r\n"
    town.serve("orders", town.instance("orders", answer=lambda _head: moved))
    town.serve("carts", town.instance("carts"))
    answer = session.get("http://orders/old")
    assert (answer.text, answer.url, [each.status_code for each in answer.history]) == (
        "carts",
        "http://carts/new",
        [302],
    )
    assert session.get("http://orders/old", allow_redirects=False).status_code == 302


def test_a_routes_changes_are_what_the_application_sees_its_cookies_too(town: Town, session: requests.Session) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders, route=changing("orders"))
    answer = session.get("http://orders/")
    assert answer.headers["X-Added"] == "1"
    assert answer.cookies["stick"] == "here"
    session.get("http://orders/")
    assert b"stick=here" in orders.received[-1]
    assert b"x-sent: 2" in orders.received[-1]
    assert b"GET /v2/ HTTP/1.1\r\n" in orders.received[-1]
    assert b"Host: other\r\n" in orders.received[-1]


def test_the_slow_of_two_instances_is_hedged(town: Town, session: requests.Session) -> None:
    slow, fast = town.instance("orders", answer=silence), town.instance("orders")
    hedging = replace(UNSAID, hedging=Hedging(enabled=True, max_percent=100, after=0.05))
    town.serve("orders", slow, fast, traffic=hedging, route=within("orders", 5))
    assert [session.get("http://orders/").text for _ in range(3)] == ["orders"] * 3


def test_many_threads_share_an_adapter_and_its_connections(town: Town, session: requests.Session) -> None:
    orders, carts = town.instance("orders"), town.instance("carts")
    town.serve("orders", orders)
    town.serve("carts", carts)

    def call(number: int) -> str:
        return session.get(f"http://{('orders', 'carts')[number % 2]}/").text

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(call, range(200))) == ["orders", "carts"] * 100
    assert orders.accepted + carts.accepted <= 16
    assert settled(town)


def test_a_rotation_under_load_loses_nothing(town: Town, session: requests.Session) -> None:
    town.serve("orders", town.instance("orders"))
    over = threading.Event()

    def rotate() -> None:
        while not over.wait(0.002):
            town.issuing.renew(town.identity, "web")

    turning = threading.Thread(target=rotate)
    turning.start()
    try:
        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(lambda _: session.get("http://orders/").text, range(150))) == {"orders"}
    finally:
        over.set()
        turning.join()


def test_a_proxy_of_the_environment_is_not_asked_for_names_of_the_mesh(
    town: Town, session: requests.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    town.serve("orders", town.instance("orders"))
    assert session.get("http://orders/").text == "orders"


def test_a_session_that_was_pickled_has_an_adapter_of_its_process(town: Town, session: requests.Session) -> None:
    woken = pickle.loads(pickle.dumps(session))
    assert isinstance(woken.get_adapter("http://orders/"), Adapter)
    assert repr(session.get_adapter("http://orders/")) == "<Adapter for requests: <Pools: 0 of 0 sets of identities>>"


def test_the_time_that_an_answer_took_is_told_without_its_body(town: Town, session: requests.Session) -> None:
    town.serve("orders", town.instance("orders"))
    at = time.monotonic()
    session.get("http://orders/")
    [call] = town.counted.calls
    assert 0 < call.seconds <= time.monotonic() - at
    assert (call.status, call.rule, call.bytes_received, call.flag) == (200, "shop/orders", 6, "")
