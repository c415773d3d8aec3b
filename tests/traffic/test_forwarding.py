"""What a matched route does to a request."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.model.refs import PortRef
from masche.model.view import (
    Backend,
    Forward,
    HeaderChange,
    Mirror,
    PathKind,
    PathRewrite,
    Redirect,
    Refuse,
    RequestMatch,
    RewriteKind,
    Route,
)
from masche.traffic.forward import Answer, Sending, apply, choose, decide, draw, location, mirrored, rewritten
from masche.traffic.request import Request

A, B = PortRef("shop", "a", 80), PortRef("shop", "b", 80)
NAMES = st.sampled_from(["x", "y", "z"])
PAIRS = st.lists(st.tuples(NAMES, st.sampled_from(["1", "2"])), max_size=4).map(tuple)


def a_prefix(value: str) -> PathRewrite:
    return PathRewrite(kind=RewriteKind.PREFIX, value=value)


@pytest.mark.parametrize(
    ("path", "prefix", "replacement", "result"),
    [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/bar", "/", "/xyz", "/xyz/bar"),
    ],
)
def test_a_prefix_is_replaced_as_the_gateway_api_says(path: str, prefix: str, replacement: str, result: str):
    assert rewritten(a_prefix(replacement), RequestMatch(path=prefix), path) == result
    assert rewritten(a_prefix(replacement), RequestMatch(path=prefix), f"{path}?q=/foo") == f"{result}?q=/foo"


@given(st.sampled_from(["/a", "/a/b", "/a/"]), st.sampled_from(["", "/", "/x", "/x/y/"]))
def test_a_path_never_becomes_empty(path: str, replacement: str):
    assert rewritten(a_prefix(replacement), RequestMatch(path="/a"), path).startswith("/")


def test_a_route_that_matched_no_prefix_has_none_to_replace():
    assert rewritten(a_prefix("/x"), RequestMatch(path_kind=PathKind.EXACT, path="/a"), "/a") == "/a"


@pytest.mark.parametrize(
    ("redirect", "expected"),
    [
        (Redirect(), "http://orders:8080/a?b"),
        (Redirect(host="example.org"), "http://example.org/a?b"),
        (Redirect(host="example.org", port=8080), "http://example.org:8080/a?b"),
        (Redirect(port=80), "http://orders:80/a?b"),
        (Redirect(scheme="https"), "https://orders:443/a?b"),
        (Redirect(scheme="https", port=8443), "https://orders:8443/a?b"),
        (Redirect(scheme="https", port=80), "https://orders:80/a?b"),
        (Redirect(path=PathRewrite(kind=RewriteKind.FULL, value="/x")), "http://orders:8080/x?b"),
        (Redirect(path=a_prefix("/x")), "http://orders:8080/x?b"),
    ],
)
def test_a_location_keeps_what_the_redirect_does_not_say(redirect: Redirect, expected: str):
    request = Request(target="/a?b", authority="orders:8080")
    assert location(redirect, RequestMatch(path="/a"), request) == expected


@given(PAIRS, PAIRS, PAIRS, st.lists(NAMES, max_size=2).map(tuple))
def test_headers_are_removed_then_set_then_added(
    headers: tuple[tuple[str, str], ...],
    wanted: tuple[tuple[str, str], ...],
    added: tuple[tuple[str, str], ...],
    removed: tuple[str, ...],
):
    found = apply(HeaderChange(set=wanted, add=added, remove=removed), headers)
    for name in ("x", "y", "z"):
        old = [] if name in removed or name in dict(wanted) else [value for key, value in headers if key == name]
        new = [value for key, value in (*wanted, *added) if key == name]
        assert [value for key, value in found if key == name] == old + new


@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(0, 2**32))
def test_a_backend_without_weight_is_never_chosen(weights: list[int], seed: int):
    backends = [Backend(cluster=PortRef("s", str(index), 80), weight=weight) for index, weight in enumerate(weights)]
    chosen = choose(backends, drawn=seed)
    assert (chosen is None) == (sum(weights) == 0)
    assert chosen is None or chosen.weight > 0


def test_backends_are_chosen_by_weight():
    backends = (Backend(cluster=A, weight=90), Backend(cluster=B, weight=10))
    rng = Random(7)
    counts = Counter(choose(backends, drawn=draw(rng)) for _ in range(10_000))
    assert abs(counts[backends[0]] - 9_000) < 4 * (10_000 * 0.9 * 0.1) ** 0.5


def test_each_mirror_gets_its_share():
    rng = Random(3)
    half = Mirror(cluster=A, numerator=1, denominator=2)
    drawn = Counter(cluster for _ in range(4_000) for cluster in mirrored((half, Mirror(cluster=B)), drawn=draw(rng)))
    assert drawn[B] == 4_000
    assert abs(drawn[A] - 2_000) < 4 * (4_000 * 0.25) ** 0.5
    assert not list(mirrored((Mirror(cluster=A, numerator=0),), drawn=draw(rng)))


def test_a_request_is_sent_on_with_everything_changed():
    route = Route(
        name="r",
        match=RequestMatch(path="/a"),
        action=Forward(
            backends=(Backend(cluster=A, request_headers=HeaderChange(set=(("x", "backend"),))),),
            host_rewrite="inner",
            path_rewrite=a_prefix("/b"),
            timeout=3.0,
        ),
        request_headers=HeaderChange(add=(("x", "route"),)),
    )
    sent = decide(route, Request(target="/a/c?d", authority="outer"), rng=Random(1))
    assert isinstance(sent, Sending)
    assert (sent.cluster, sent.timeout) == (A, 3.0)
    assert (sent.request.target, sent.request.authority) == ("/b/c?d", "inner")
    assert sent.request.headers == (("x", "backend"), ("x", "route"))


def test_what_cannot_be_sent_is_answered():
    lost = Route(name="r", match=RequestMatch(), action=Forward(backends=(Backend(cluster=None),)))
    nobody = Route(name="r", match=RequestMatch(), action=Forward(backends=()))
    refused = Route(name="r", match=RequestMatch(), action=Refuse(status=501, why="no"))
    away = Route(name="r", match=RequestMatch(), action=Redirect(status=307, host="h"))
    answers = [decide(route, Request(authority="o"), rng=Random(1)) for route in (lost, nobody, refused, away)]
    assert [answer.status for answer in answers if isinstance(answer, Answer)] == [500, 500, 501, 307]
    assert answers[-1] == Answer(status=307, location="http://h/", rule="r", response_changes=(HeaderChange(),))
