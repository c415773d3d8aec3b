"""A second try, in time, within its limit, and settled."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from masche.model.calling import Hedging
from masche.traffic.hedging import Hedger, HedgeRules, Race, Step
from masche.traffic.outcome import Outcome


def a_hedger(latencies: list[float], **rules: float) -> Hedger:
    hedger = Hedger(HedgeRules(**rules))  # type: ignore[arg-type]  # counts are whole floats
    for number, latency in enumerate(latencies):
        hedger.call(now=number * 0.001)
        hedger.settle(Outcome.SUCCESS, latency, now=number * 0.001)
    return hedger


def test_a_second_try_is_due_after_the_observed_quantile():
    latencies = [0.010] * 94 + [0.050] * 4 + [0.9] * 2
    hedger = a_hedger(latencies, max_extra_percent=10.0)
    assert hedger.delay(method="GET", now=0.2) == pytest.approx(0.050, rel=0.04)
    assert "after 50" in repr(hedger) or "after 51" in repr(hedger)


def test_with_a_small_limit_it_is_due_later_so_that_half_of_the_limit_is_left_for_a_stall():
    latencies = [0.010] * 94 + [0.050] * 4 + [0.9] * 2
    assert a_hedger(latencies, max_extra_percent=2.0).delay(method="GET", now=0.2) == pytest.approx(0.9, rel=0.04)
    assert HedgeRules(max_extra_percent=2.0).waits_for == pytest.approx(0.99)


def test_only_idempotent_calls_are_hedged_and_only_when_enough_is_known():
    hedger = a_hedger([0.01] * 50)
    assert hedger.delay(method="POST", now=0.1) is None
    assert hedger.delay(method="PUT", now=0.1) is not None
    assert a_hedger([0.01] * 19).delay(method="GET", now=0.1) is None
    assert a_hedger([0.01] * 50, max_extra_percent=0.0).delay(method="GET", now=0.1) is None


def test_what_fails_fast_does_not_make_hedges_come_earlier():
    hedger = a_hedger([0.1] * 50)
    for _ in range(1000):
        hedger.settle(Outcome.FAILURE, 0.0001, now=0.1)
    assert hedger.delay(method="GET", now=0.1) == pytest.approx(0.1, rel=0.04)


def test_a_policy_may_fix_the_delay_or_switch_it_off():
    fixed = Hedger(HedgeRules.of(Hedging(enabled=True, after=0.07, max_percent=5.0)))
    assert fixed.delay(method="GET", now=0.0) == 0.07
    off = Hedger(HedgeRules.of(Hedging(enabled=False, after=0.07)))
    assert off.delay(method="GET", now=0.0) is None
    with pytest.raises(ValueError, match="quantile"):
        HedgeRules(quantile=1.0)


def test_usual_slowness_leaves_half_of_the_limit_to_a_stall():
    rng, hedger, hedged = Random(7), Hedger(), 0
    for number in range(20_000):
        now = number * 0.001
        hedger.call(now=now)
        latency = rng.gauss(0.167, 0.005)
        delay = hedger.delay(method="GET", now=now)
        if delay is not None and latency > delay and hedger.take(now=now):
            hedged += 1
        hedger.settle(Outcome.SUCCESS, latency, now=now)
    assert hedged <= 0.015 * 20_000
    assert sum(hedger.take(now=20.0) for _ in range(1000)) >= 50


class AnyHedging(RuleBasedStateMachine):
    """However calls come and whatever they take: never more hedges than the limit, over the window and in all."""

    @initialize(percent=st.sampled_from([0.0, 2.0, 10.0, 50.0]))
    def begin(self, percent: float) -> None:
        self.percent = percent
        self.hedger = Hedger(HedgeRules(max_extra_percent=percent, min_volume=1))
        self.now = 3.0
        self.calls = self.hedges = 0

    @rule(step=st.floats(0, 12))
    def time_passes(self, step: float) -> None:
        self.now += step

    @rule(calls=st.integers(1, 200), latency=st.floats(0.0001, 3), outcome=st.sampled_from(Outcome))
    def calls_are_made(self, calls: int, latency: float, outcome: Outcome) -> None:
        for _ in range(calls):
            self.hedger.call(now=self.now)
            self.hedger.settle(outcome, latency, now=self.now)
            self.calls += 1

    @rule(tries=st.integers(1, 50))
    def hedges_are_asked_for(self, tries: int) -> None:
        self.hedges += sum(self.hedger.take(now=self.now) for _ in range(tries))

    @invariant()
    def the_limit_holds(self) -> None:
        assert self.hedges <= self.calls * self.percent / 100
        delay = self.hedger.delay(method="GET", now=self.now)
        assert delay is None or 0.001 <= delay <= 3.2


TestAnyHedging = AnyHedging.TestCase
TestAnyHedging.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)


def test_the_first_good_answer_wins_and_the_loser_is_cancelled():
    race = Race()
    first = race.start()
    assert race.can_hedge
    second = race.start()
    assert not race.can_hedge
    assert race.settle(second, Outcome.SUCCESS) == Step(winner=second, cancel=(first,), is_over=True)
    assert race.settle(first, Outcome.CANCELLED) == Step(winner=second, is_over=True)
    assert repr(race) == "<Race of 2: 0 running, winner 1>"
    with pytest.raises(RuntimeError, match="decided"):
        race.start()


def test_a_bad_answer_waits_for_the_one_still_running():
    race = Race()
    first, second = race.start(), race.start()
    assert race.settle(first, Outcome.FAILURE) == Step()
    assert race.settle(second, Outcome.TIMEOUT) == Step(is_over=True)
    assert race.winner is None


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(Outcome)), max_size=12))
def test_every_try_of_a_race_ends_exactly_once(steps: list[tuple[bool, Outcome]]):
    race, running, ended = Race(), list[int](), list[int]()
    for starts, outcome in steps:
        if starts and race.winner is None:
            running.append(race.start())
        elif running:
            number = running.pop(0)
            step = race.settle(number, outcome)
            ended += [number, *step.cancel]
            running = [each for each in running if each not in step.cancel]
            assert step.is_over is (not running)
    assert len(ended) == len(set(ended))
    assert sorted([*ended, *running]) == list(range(len(ended) + len(running)))
