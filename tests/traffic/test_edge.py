"""What is done to a request at the door; that a real Envoy does the same is shown in ``tests/parity``."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.traffic.edge import JOINED, joined, received
from masche.traffic.request import Headers, Request
from masche.traffic.verdict import Verdict

PAIRS = st.lists(st.tuples(st.sampled_from(["x-a", "accept", "via"]), st.sampled_from("abc")), max_size=6).map(tuple)


def told(*headers: tuple[str, str]) -> Headers:
    """The headers of a request as routes and policies see them, but for the scheme."""
    found = received(Request(authority="orders", headers=headers))
    assert isinstance(found, Request), found
    assert found.headers[-1] == ("x-forwarded-proto", "http")
    return found.headers[:-1]


def refused(**asked: object) -> int:
    found = received(Request(**{"authority": "orders", **asked}))
    assert isinstance(found, Verdict)
    return found.status


def test_a_path_has_one_spelling_and_a_host_no_final_dot():
    found = received(Request(target="/a/../b//c?x=/../", authority="orders.:80"))
    assert isinstance(found, Request)
    assert (found.target, found.authority) == ("/b/c?x=/../", "orders:80")


@given(PAIRS)
def test_values_are_joined_in_order_where_they_are_one_and_nothing_is_lost(headers: Headers):
    found = joined(headers)
    for name in ("x-a", "accept", "via"):
        values = [value for key, value in headers if key == name]
        expected = [",".join(values)] if name in JOINED and values else values
        assert [value for key, value in found if key == name] == expected


def test_what_only_proxies_say_is_not_believed():
    assert told(("x-envoy-internal", "true"), ("x-masche-peer", "a"), ("x-forwarded-client-cert", "b")) == ()


def test_what_is_between_two_hops_ends_there():
    assert told(("connection", "x-a, close"), ("x-a", "1"), ("keep-alive", "5"), ("x-b", "2")) == (("x-b", "2"),)
    assert told(("te", "gzip, trailers;q=1")) == (("te", "trailers"),)
    assert told(("te", "gzip")) == ()


def test_a_request_for_another_protocol_keeps_its_words():
    asked = (("connection", "upgrade"), ("upgrade", "websocket"))
    assert told(*asked) == asked


@pytest.mark.parametrize("nominated", ["host", "x-forwarded-for", "X-Forwarded-Proto", ",".join(map(str, range(11)))])
def test_a_connection_header_may_not_take_away_what_others_need(nominated: str):
    assert refused(headers=(("connection", nominated),)) == 400


@pytest.mark.parametrize("name", ["a_b", "a b", "", "a(b"])
def test_a_name_that_servers_read_differently_is_refused(name: str):
    assert refused(headers=((name, "x"),)) == 400


def test_what_is_too_much_is_refused():
    assert refused(headers=tuple((f"x-{number}", "") for number in range(100))) == 431
    assert refused(headers=(("x-a", "a" * 61_440),)) == 431


@pytest.mark.parametrize("method", ["get", "FOO", "", "GET "])
def test_an_unknown_method_is_refused(method: str):
    assert refused(method=method) == 400


@pytest.mark.parametrize("authority", ["a b", "é", "orders/x", "orders?x"])
def test_an_authority_that_is_none_is_refused(authority: str):
    assert refused(authority=authority) == 400
