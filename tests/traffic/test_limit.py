"""Buckets of tokens, in virtual time: never more than was promised, and as Envoy counts."""

import tracemalloc
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.model import limits
from masche.model.limits import KeyKind, Limit, LimitKey
from masche.model.matching import RequestMatch, ValueKind, ValueMatch
from masche.traffic import limit as counting
from masche.traffic.limit import Bucket, Exceeded, Limiter
from masche.traffic.request import Connection, Request

GAPS = st.lists(st.integers(min_value=0, max_value=3000), max_size=60)
"""Milliseconds between requests."""


def a_limit(requests: int = 1, per: float = 1.0, *, name: str = "a", burst: int = 0, **more: object) -> Limit:
    return Limit(name=name, requests=requests, per=per, burst=burst or requests, **more)


def asked(path: str = "/", *headers: tuple[str, str], peer: str | None = None) -> Request:
    return Request(target=path, headers=headers, connection=Connection(peer=peer))


class Exactly:
    """The same bucket as an accountant would keep it: without rounding, and with tokens instead of an instant."""

    def __init__(self, rate: Fraction, burst: int) -> None:
        self.rate, self.burst, self.tokens, self.at = rate, Fraction(burst), Fraction(burst), Fraction(0)

    def take(self, now: Fraction) -> bool:
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    @property
    def is_close_call(self) -> bool:
        return abs(self.tokens - round(self.tokens)) < Fraction(1, 10**6)


@given(requests=st.integers(1, 50), per=st.integers(50, 10_000), burst=st.integers(1, 60), gaps=GAPS)
def test_a_bucket_gives_what_one_without_rounding_would(requests: int, per: int, burst: int, gaps: list[int]):
    rate = requests / (per / 1000)
    bucket, exact = Bucket(rate=rate, burst=burst, now=0.0), Exactly(Fraction(requests * 1000, per), burst)
    milliseconds = 0
    for gap in gaps:
        milliseconds += gap
        took = bucket.take(now=milliseconds / 1000)
        if took != exact.take(Fraction(milliseconds, 1000)):
            assert exact.is_close_call
            return


@given(requests=st.integers(1, 50), per=st.integers(50, 10_000), burst=st.integers(1, 60), gaps=GAPS)
def test_in_no_time_more_pass_than_the_burst_and_what_was_filled_since(
    requests: int, per: int, burst: int, gaps: list[int]
):
    bucket, milliseconds, passed = Bucket(rate=requests * 1000 / per, burst=burst, now=0.0), 0, []
    for gap in gaps:
        milliseconds += gap
        passed += [milliseconds] if bucket.take(now=milliseconds / 1000) else []
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            filled = (passed[last] - passed[first]) * requests / per
            assert last - first + 1 <= burst + filled + 1e-6


@given(requests=st.integers(1, 50), per=st.floats(0.05, 86_400), burst=st.integers(1, 60))
def test_who_waits_as_long_as_it_is_told_gets_a_token(requests: int, per: float, burst: int):
    limiter = Limiter([a_limit(requests, per, burst=burst)], now=0.0)
    refusals = [found for _ in range(burst + 1) if (found := limiter.take(asked(), now=0.0))]
    assert len(refusals) == 1
    assert refusals[0].retry_after == pytest.approx(max(1, ceil(per / requests)), abs=1)
    assert limiter.take(asked(), now=float(refusals[0].retry_after)) is None


def test_a_bucket_fills_steadily_and_not_in_steps():
    bucket = Bucket(rate=4.0, burst=4, now=10.0)
    assert [bucket.take(now=10.0) for _ in range(5)] == [True] * 4 + [False]
    assert [bucket.take(now=10.0 + step / 8) for step in range(1, 9)] == [False, True] * 4
    assert repr(bucket) == "<Bucket of 4, 4/s>"


def test_requests_that_no_match_takes_are_not_counted():
    path = RequestMatch(path="/a", method="POST")
    light = RequestMatch(path="/b", headers=(ValueMatch(name="mode", kind=ValueKind.EXACT, value="light"),))
    limiter = Limiter([a_limit(matches=(path, light))], now=0.0)
    assert [limiter.take(asked("/a"), now=0.0) for _ in range(3)] == [None] * 3
    assert limiter.take(asked("/b/c", ("mode", "light")), now=0.0) is None
    assert limiter.take(asked("/b", ("mode", "light")), now=0.0) == Exceeded(limiter.limits[0], 1)
    assert limiter.take(asked("/b"), now=0.0) is None


def test_each_client_has_a_bucket_and_strangers_share_one():
    limiter = Limiter([a_limit(key=LimitKey(kind=KeyKind.CLIENT))], now=0.0)
    peers = ["td/ns/a/sa/b", "td/ns/a/sa/c", None]
    assert [limiter.take(asked(peer=peer), now=0.0) for peer in peers] == [None] * 3
    assert all(limiter.take(asked(peer=peer), now=0.0) for peer in peers)


def test_each_value_of_a_header_has_a_bucket_all_of_its_values_together():
    limiter = Limiter([a_limit(key=LimitKey(kind=KeyKind.HEADER, name="t"))], now=0.0)
    assert limiter.take(asked("/", ("t", "a"), ("t", "b")), now=0.0) is None
    assert limiter.take(asked("/", ("t", "a")), now=0.0) is None
    assert limiter.take(asked("/", ("t", "a,b")), now=0.0)


def test_of_too_many_keys_the_one_longest_unasked_is_lost(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(counting, "MOST_KEYS", 2)
    limiter = Limiter([a_limit(key=LimitKey(kind=KeyKind.HEADER, name="t"))], now=0.0)
    said = [bool(limiter.take(asked("/", ("t", value)), now=0.0)) for value in "abacab"]
    assert said == [False, False, True, False, True, False]
    assert limits.MOST_KEYS == 10_000


def test_a_long_value_has_a_bucket_of_its_own_of_which_little_is_kept():
    limiter = Limiter([a_limit(key=LimitKey(kind=KeyKind.HEADER, name="t"))], now=0.0)
    tracemalloc.start()
    try:
        said = [limiter.take(asked("/", ("t", f"{'x' * 20_000}{n % 100}")), now=0.0) is None for n in range(200)]
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert said == [True] * 100 + [False] * 100
    assert kept < 200_000, "100 values of 20 kB each would be ten times as much"


def test_limits_are_asked_in_order_and_what_the_first_gave_is_spent():
    wide, narrow = a_limit(3, 100.0, name="wide"), a_limit(1, 100.0, name="narrow")
    limiter = Limiter([wide, narrow], now=0.0)
    assert limiter.take(asked(), now=0.0) is None
    names = [found.limit.name for _ in range(3) if (found := limiter.take(asked(), now=0.0))]
    assert names == ["narrow", "narrow", "wide"]
    assert repr(limiter) == "<Limiter wide, narrow>"
