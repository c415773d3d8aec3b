"""Choosing by what instances say of themselves."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.testing.check_balancer import check_balancer
from masche.traffic.balancer import Balancer
from masche.traffic.membership import Endpoint, Membership
from masche.traffic.outcome import Outcome
from masche.traffic.pickers.told import Told

NAMES = ("a", "b", "c", "d")


def a_balancer(told: Told, weights: tuple[float, ...] = (1, 1, 1, 1)) -> Balancer:
    return Balancer(Membership.of(Endpoint(id=n, weight=w) for n, w in zip(NAMES, weights, strict=True)), picker=told)


def picked(balancer: Balancer, *, now: float, exclude: frozenset[str] = frozenset()) -> str:
    claim = balancer.claim(now=now, rng=Random(1), exclude=exclude)
    assert claim is not None
    claim.settle(Outcome.SUCCESS, now=now, latency=0.01)
    return claim.endpoint.id


def test_the_next_call_goes_to_who_has_least_to_do():
    told = Told()
    balancer = a_balancer(told)
    for name, under_way in zip(NAMES, (5, 2, 0, 7), strict=True):
        told.told(name, under_way, now=1.0)
    assert [picked(balancer, now=1.01) for _ in range(3)] == ["c", "b", "a"], "an answer serves for one call"


def test_an_instance_with_twice_the_capacity_bears_twice_the_line():
    told = Told()
    balancer = a_balancer(told, (1, 3, 1, 1))
    told.told("a", 2, now=1.0)
    told.told("b", 4, now=1.0)
    assert picked(balancer, now=1.0) == "b"


def test_answers_that_are_old_or_of_others_do_not_count():
    told = Told(max_age=0.5)
    balancer = a_balancer(told)
    for name in ("a", "b", "gone"):
        told.told(name, 0, now=1.0)
    assert picked(balancer, now=1.1, exclude=frozenset("a")) != "a"
    assert picked(balancer, now=2.0, exclude=frozenset("abc")) == "d", "the fallback picks"


def test_whom_a_caller_knows_to_fail_attracts_nobody_by_having_nothing_to_do():
    told, rng = Told(), Random(1)
    balancer = a_balancer(told)
    calls: Counter[str] = Counter()
    now = 0.0
    for _ in range(1000):
        now += 0.01
        claim = balancer.claim(now=now, rng=rng)
        assert claim is not None
        name = claim.endpoint.id
        calls[name] += 1
        claim.settle(Outcome.FAILURE if name == "c" else Outcome.SUCCESS, now=now, latency=0.001)
        for asked in told.ask(balancer.membership.endpoints, rng=rng):
            told.told(asked, 0 if asked == "c" else 1, now=now)
    assert calls["c"] <= 10


def test_without_answers_it_is_what_its_fallback_is():
    check_balancer(lambda group: Balancer(group, picker=Told()))


def test_as_many_are_asked_as_there_are_each_once():
    told, rng = Told(per_call=3), Random(1)
    endpoints = a_balancer(told).membership.endpoints
    met: Counter[str] = Counter()
    for _ in range(400):
        asked = told.ask(endpoints, rng=rng)
        assert len(set(asked)) == 3
        met.update(asked)
    assert all(250 <= count <= 350 for count in met.values())
    assert set(told.ask(endpoints[:2], rng=rng)) == {"a", "b"}
    assert told.ask((), rng=rng) == ()


@given(
    words=st.lists(st.tuples(st.sampled_from((*NAMES, "gone")), st.floats(-5, 1e6), st.floats(0, 1)), max_size=30),
    exclude=st.frozensets(st.sampled_from(NAMES)),
)
def test_whatever_is_said_it_picks_one_that_may_be_picked(
    words: list[tuple[str, float, float]], exclude: frozenset[str]
):
    told = Told()
    balancer = a_balancer(told)
    for name, under_way, at in words:
        told.told(name, under_way, now=at)
    claim = balancer.claim(now=1.0, rng=Random(1), exclude=exclude)
    assert (claim is None) == (exclude == frozenset(NAMES))
    assert claim is None or claim.endpoint.id not in exclude


def test_one_answer_is_no_choice():
    with pytest.raises(ValueError, match="at least two"):
        Told(per_call=1)
