"""Choosing by what instances say of themselves with their answers."""

from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.testing.check_balancer import check_balancer
from masche.traffic.balancer import Balancer
from masche.traffic.membership import Endpoint, Membership
from masche.traffic.orca import LoadReport
from masche.traffic.outcome import Outcome
from masche.traffic.pickers.told import Told

NAMES = ("a", "b", "c", "d")


class Last:
    """Chance that draws the last one each time."""

    def random(self) -> float:
        return 0.999999

    def getrandbits(self, k: int, /) -> int:
        return 2**k - 1


def a_balancer(told: Told | None = None, weights: tuple[float, ...] = (1, 1, 1, 1)) -> Balancer:
    endpoints = (Endpoint(id=n, weight=w) for n, w in zip(NAMES, weights, strict=True))
    balancer = Balancer(Membership.of(endpoints), picker=told or Told())
    picked(balancer, now=0.0)
    return balancer


def picked(balancer: Balancer, *, now: float, exclude: frozenset[str] = frozenset()) -> str:
    claim = balancer.claim(now=now, rng=Last(), exclude=exclude)
    assert claim is not None
    claim.settle(Outcome.SUCCESS, now=now, latency=0.01)
    return claim.endpoint.id


def say(balancer: Balancer, now: float, **under_way: float) -> None:
    for name, many in under_way.items():
        balancer.told(name, LoadReport(many), now=now)


def made(balancer: Balancer, count: int, *, fails: str = "") -> Iterator[tuple[float, str]]:
    """Calls that have ended, one every hundredth of a second: when, and whose."""
    rng = Random(1)
    for number in range(count):
        now = number / 100
        claim = balancer.claim(now=now, rng=rng)
        assert claim is not None
        name = claim.endpoint.id
        claim.settle(Outcome.FAILURE if name == fails else Outcome.SUCCESS, now=now, latency=0.001)
        yield now, name


def test_the_next_call_goes_to_who_has_least_to_do():
    balancer = a_balancer()
    say(balancer, 1.0, a=5, b=2, c=0, d=9)
    assert picked(balancer, now=1.01) == "c"


def test_a_word_serves_for_many_calls_each_of_which_is_one_more():
    balancer = a_balancer()
    say(balancer, 1.0, a=4, b=2, c=0, d=9)
    assert [picked(balancer, now=1.0 + each / 100) for each in range(7)] == ["c", "c", "b", "c", "b", "c", "a"]


def test_a_later_word_takes_the_place_of_an_earlier_one():
    balancer = a_balancer()
    say(balancer, 1.0, a=0, b=2, d=9)
    say(balancer, 1.1, a=7)
    assert picked(balancer, now=1.1) == "b"


def test_an_instance_with_thrice_the_capacity_bears_thrice_the_line():
    balancer = a_balancer(weights=(1, 3, 1, 1))
    say(balancer, 1.0, a=2, b=3, d=9)
    assert picked(balancer, now=1.0) == "b"


def test_one_by_chance_of_whom_nothing_is_known_is_thought_to_be_as_busy_as_the_mean():
    balancer = a_balancer()
    for _ in range(100):
        say(balancer, 1.0, a=5, b=6)
    assert picked(balancer, now=1.0) == "a"
    say(balancer, 1.0, a=40, b=60)
    assert picked(balancer, now=1.0) == "d"


def test_words_that_are_old_or_of_others_do_not_count():
    balancer = a_balancer(told := Told(max_age=1.0))
    say(balancer, 1.0, d=1, a=0, b=0, gone=0)
    assert repr(told) == "<Told 3 words at hand>"
    assert picked(balancer, now=1.1, exclude=frozenset("a")) == "b"
    picked(balancer, now=2.0)
    assert repr(told) == "<Told 0 words at hand>"


def test_words_of_those_who_stay_survive_a_change_of_instances():
    balancer = a_balancer(told := Told())
    say(balancer, 1.0, d=9, a=0, b=4, c=1)
    balancer.membership = Membership.of([Endpoint(id=each) for each in ("b", "c", "d", "e")])
    picked(balancer, now=1.1)
    assert repr(told) == "<Told 3 words at hand>"
    assert [picked(balancer, now=1.1) for _ in range(2)] == ["c", "c"]


def test_whom_a_caller_knows_to_fail_attracts_nobody_by_having_nothing_to_do():
    balancer = a_balancer()
    calls: Counter[str] = Counter()
    for now, name in made(balancer, 1000, fails="c"):
        calls[name] += 1
        say(balancer, now, **{name: 0 if name == "c" else 1})
    assert calls["c"] <= 20
    assert all(calls[each] >= 200 for each in "abd")


def test_nobody_is_forgotten_because_others_have_always_less_to_do():
    balancer = a_balancer()
    calls: Counter[str] = Counter()
    for now, name in made(balancer, 2000):
        calls[name] += 1
        busy = 3 if name == "d" and now < 10 else 1
        say(balancer, now, **{name: busy})
        if now == 10:
            calls.clear()
    assert min(calls.values()) >= 150, calls


def test_without_words_it_is_what_its_fallback_is():
    check_balancer(lambda group: Balancer(group, picker=Told()))


def test_who_says_how_much_it_bears_gets_so_much():
    balancer = a_balancer()
    calls: Counter[str] = Counter()
    for now, name in made(balancer, 4000):
        calls[name] += 1
        balancer.told(name, LoadReport(weight=300.0 if name == "a" else 100.0), now=now)
        if now == 20:
            calls.clear()
    assert 0.4 <= calls["a"] / calls.total() <= 0.6, calls


@given(
    words=st.lists(st.tuples(st.sampled_from((*NAMES, "gone")), st.floats(-5, 1e6), st.floats(0, 1)), max_size=30),
    exclude=st.frozensets(st.sampled_from(NAMES)),
    weights=st.tuples(*(st.floats(0.1, 10) for _ in NAMES)),
)
def test_whatever_is_said_it_picks_one_that_may_be_picked(
    words: list[tuple[str, float, float]], exclude: frozenset[str], weights: tuple[float, ...]
):
    balancer = a_balancer(Told(pool=3), weights)
    for name, under_way, at in words:
        balancer.told(name, LoadReport(under_way), now=at)
    claim = balancer.claim(now=1.0, rng=Random(1), exclude=exclude)
    assert (claim is None) == (exclude == frozenset(NAMES))
    assert claim is None or claim.endpoint.id not in exclude


@pytest.mark.parametrize(("pool", "max_age"), [(0, 1.0), (1, 0.0)])
def test_without_room_or_time_there_are_no_words(pool: int, max_age: float):
    with pytest.raises(ValueError, match="room for one word"):
        Told(pool=pool, max_age=max_age)
