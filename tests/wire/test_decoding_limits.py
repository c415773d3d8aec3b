"""What the library reads of limits is what was written for it, and what it would count otherwise it refuses."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.compiler.envoy import limits as encoder
from masche.model.limits import KeyKind, Limit, LimitKey
from masche.model.matching import PathKind, RequestMatch, ValueKind, ValueMatch
from masche.traffic.limit import Limiter
from masche.traffic.request import Connection, Request
from masche.wire.decode.limits import limit as decoded
from masche.wire.decode.reading import message_of
from masche.wire.framing import WireError
from masche.wire.messages import encode

LIMIT = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"

PATHS = ["/", "/a", "/a/", "/a/b", "/ab", "/a.b"]
VALUES = ["1", "2", ""]
HEADERS = st.builds(
    ValueMatch,
    name=st.sampled_from(["x", "y"]),
    kind=st.sampled_from([ValueKind.EXACT, ValueKind.REGEX]),
    value=st.just("1"),
)
MATCHES = st.builds(
    RequestMatch,
    path_kind=st.sampled_from([PathKind.EXACT, PathKind.PREFIX]),
    path=st.sampled_from(PATHS),
    method=st.sampled_from(["", "GET", "POST"]),
    headers=st.lists(HEADERS, max_size=2).map(tuple),
)
KEYS = st.sampled_from(
    [
        None,
        LimitKey(kind=KeyKind.CLIENT),
        LimitKey(kind=KeyKind.HEADER, name="x"),
        LimitKey(kind=KeyKind.HEADER, name="o'x"),
    ]
)
LIMITS = st.builds(
    Limit,
    name=st.just("100 % shop/a local[0]"),
    requests=st.integers(1, 3),
    per=st.sampled_from([0.05, 1.0, 60.0, 86_400.0]),
    burst=st.integers(1, 3),
    matches=st.lists(MATCHES, max_size=3).map(tuple),
    key=KEYS,
)
REQUESTS = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST"]),
    target=st.sampled_from([path + query for path in PATHS for query in ("", "?", "?a=/a")]),
    authority=st.just("orders"),
    headers=st.lists(st.tuples(st.sampled_from(["x", "y"]), st.sampled_from(VALUES)), max_size=3).map(tuple),
    connection=st.sampled_from([Connection(), Connection(peer="td/ns/a/sa/b")]),
)


def read(body: dict[str, Any]) -> Limit | None:
    return decoded(message_of(LIMIT, encode(LIMIT, body)), "a server")


def written(**more: Any) -> dict[str, Any]:
    found = dict(encoder.limit(Limit(name="a", requests=1, per=1.0, burst=1, **more)))
    assert isinstance(found, dict)
    return found


@given(source=LIMITS, requests=st.lists(REQUESTS, max_size=12))
def test_what_is_read_counts_as_what_was_written(source: Limit, requests: list[Request]):
    found = read(dict(encoder.limit(source)))
    assert found is not None
    assert (found.name, found.requests, found.per, found.burst) == (
        source.name,
        source.requests,
        source.per,
        source.burst,
    )
    ours, theirs = Limiter([source], now=0.0), Limiter([found], now=0.0)
    for request in requests:
        assert bool(ours.take(request, now=0.0)) == bool(theirs.take(request, now=0.0))


def test_a_filter_without_a_bucket_counts_nothing():
    assert read({"stat_prefix": "a"}) is None


EITHER = RequestMatch(path="/a"), RequestMatch(path="/b")


def both_ways(body: dict[str, Any]) -> None:
    """A request that both matches take would take two tokens."""
    for way in body["rate_limits"]:
        way["actions"] = [
            each for each in way["actions"] if each.get("header_value_match", {}).get("expect_match", True)
        ]


def another_entry(body: dict[str, Any]) -> None:
    body["descriptors"][0]["entries"][0]["value"] = "2"


def counted_rest(body: dict[str, Any]) -> None:
    body["token_bucket"] = body["descriptors"][0]["token_bucket"]


def another_key(body: dict[str, Any]) -> None:
    action = body["rate_limits"][0]["actions"][-1]
    action.clear()
    action["remote_address"] = {}


@pytest.mark.parametrize("change", [both_ways, another_entry, counted_rest, another_key])
def test_what_would_be_counted_otherwise_is_refused(change: Any):
    body = written(matches=EITHER, key=LimitKey(kind=KeyKind.CLIENT))
    change(body)
    with pytest.raises(WireError):
        read(body)


@pytest.mark.parametrize(
    "more",
    [
        {"enable_retry_after_header": False},
        {"rate_limited_as_resource_exhausted": False},
        {"filter_enabled": {"default_value": {"numerator": 50}}},
        {"status": {"code": "ServiceUnavailable"}},
        {"local_rate_limit_per_downstream_connection": True},
        {"response_headers_to_add": [{"header": {"key": "x-other", "value": "a"}}]},
        {
            "descriptors": [
                {"entries": [{"key": "a", "value": "b"}], "token_bucket": {"max_tokens": 1, "fill_interval": 1}}
            ]
        },
        {"max_dynamic_descriptors": 20, "key": LimitKey(kind=KeyKind.CLIENT)},
    ],
    ids=str,
)
def test_what_is_said_otherwise_is_refused(more: dict[str, Any]):
    key = more.pop("key", None)
    with pytest.raises(WireError):
        read({**written(key=key), **more})
