"""A deadline is handed on and never grows."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.traffic.deadline import (
    NO_DEADLINE,
    Deadline,
    grpc_timeout,
    incoming,
    outgoing,
    parse_expected_timeout,
    parse_grpc_timeout,
)

SECONDS = st.floats(1e-9, 1e9)


@given(SECONDS)
def test_a_grpc_timeout_comes_back_no_longer_and_hardly_shorter(seconds: float):
    text = grpc_timeout(seconds)
    assert 2 <= len(text) <= 9
    back = parse_grpc_timeout(text)
    assert back is not None
    assert back <= seconds
    assert back >= seconds * (1 - 1e-4) - 1e-9


@given(st.integers(1, 99_999_999), st.sampled_from("HMSmun"))
def test_every_timeout_of_the_format_is_read(value: int, unit: str):
    seconds = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}[unit]
    assert parse_grpc_timeout(f"{value}{unit}") == pytest.approx(value * seconds)


@pytest.mark.parametrize(
    "text", ["", "S", "1", "1 S", "-1S", "+1S", "1.5S", "123456789S", "1s", "1SS", "٣S", "1S\n", "0x1S"]
)
def test_what_is_not_of_the_format_says_nothing(text: str):
    assert parse_grpc_timeout(text) is None
    assert incoming((("grpc-timeout", text),), timeout=2.0, now=10.0) == Deadline(12.0)


@pytest.mark.parametrize("text", ["", "0", "000", "-5", "1.5", "1e3", "99999999999", " 5", "٣"])
def test_what_is_no_number_of_milliseconds_says_nothing(text: str):
    assert parse_expected_timeout(text) is None


def test_no_time_at_all_is_a_deadline_that_has_passed():
    assert incoming((("grpc-timeout", "0S"),), now=5.0).has_passed(now=5.0)


def test_the_earliest_of_all_that_is_said_holds():
    headers = (("grpc-timeout", "2S"), ("x-envoy-expected-rq-timeout-ms", "700"), ("grpc-timeout", "1S"))
    assert incoming(headers, timeout=15.0, now=100.0) == Deadline(100.7)
    assert incoming(headers, timeout=0.5, now=100.0) == Deadline(100.5)
    assert incoming((), now=100.0) == NO_DEADLINE
    assert incoming((), timeout=3.0, now=100.0) == Deadline(103.0)


@given(st.floats(0.0015, 1e6), st.lists(st.floats(0, 2), max_size=6), st.booleans())
def test_over_any_number_of_hops_a_deadline_never_grows(timeout: float, delays: list[float], is_grpc: bool):
    now = 1000.0
    deadline = Deadline(now + timeout)
    for delay in delays:
        now += delay
        if deadline.has_passed(now=now):
            with pytest.raises(ValueError, match="passed"):
                outgoing(deadline, is_grpc=is_grpc, now=now)
            return
        headers = outgoing(deadline, is_grpc=is_grpc, now=now)
        onward = incoming(headers, timeout=60.0, now=now)
        assert onward.left(now=now) <= deadline.left(now=now)
        assert onward.at <= deadline.at + 1e-9
        deadline = onward


def test_without_a_deadline_nothing_is_handed_on():
    assert outgoing(NO_DEADLINE, is_grpc=True, now=1.0) == ()
    assert NO_DEADLINE.left(now=5.0) == inf
    assert repr(NO_DEADLINE) == "<Deadline none>"


def test_a_try_never_has_more_than_what_is_left():
    deadline = Deadline(10.0)
    assert deadline.per_try(0.5, now=9.0) == 0.5
    assert deadline.per_try(5.0, now=9.0) == 1.0
    assert deadline.per_try(0.0, now=9.0) == 1.0
    assert deadline.per_try(5.0, now=99.0) == 0.0
    assert deadline.within(0.0, now=9.0) == deadline
    assert repr(deadline) == "<Deadline at 10.000>"


def test_both_protocols_get_their_header():
    assert outgoing(Deadline(2.5), is_grpc=True, now=0.0) == (("grpc-timeout", "2500000u"),)
    assert outgoing(Deadline(2.5), is_grpc=False, now=0.0) == (("x-envoy-expected-rq-timeout-ms", "2500"),)
