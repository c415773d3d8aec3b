"""How many calls at once, learnt from latency; a queue in virtual time stands for the callee."""

from heapq import heappop, heappush
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from masche.model.calling import AdaptiveConcurrency
from masche.traffic.admission import Admission
from masche.traffic.concurrency import Concurrency, ConcurrencyRules, Slot
from masche.traffic.outcome import Outcome


class Callee:
    """``workers`` serve one call each at a time, in ``service`` seconds; the others queue."""

    def __init__(self, *, workers: int, service: float) -> None:
        self.service = service
        self.free = [0.0] * workers

    def ends(self, now: float) -> float:
        earliest = min(range(len(self.free)), key=lambda index: self.free[index])
        end = max(now, self.free[earliest]) + self.service
        self.free[earliest] = end
        return end


def drive(
    limiter: Concurrency, callee: Callee, *, per_second: float, start: float, seconds: float, rng: Random
) -> tuple[int, int, float]:
    """Open loop; returns how many were served, how many shed, and the worst latency in the second half."""
    under_way: list[tuple[float, int, Slot]] = []
    served = shed = 0
    worst = 0.0
    for number in range(int(seconds * per_second)):
        now = start + number / per_second
        while under_way and under_way[0][0] <= now:
            end, _, slot = heappop(under_way)
            limiter.settle(slot, Outcome.SUCCESS, now=end, rng=rng)
            served += 1
            worst = max(worst, end - slot.started_at) if end > start + seconds / 2 else worst
        slot = limiter.start(now=now)
        if slot is None:
            shed += 1
        else:
            heappush(under_way, (callee.ends(now), number, slot))
    for end, _, slot in sorted(under_way):
        limiter.settle(slot, Outcome.SUCCESS, now=end, rng=rng)
    return served, shed, worst


def test_below_its_capacity_nothing_is_shed():
    limiter, callee = Concurrency(), Callee(workers=20, service=0.01)
    _, shed, _ = drive(limiter, callee, per_second=1000, start=0.0, seconds=10, rng=Random(1))
    assert shed == 0
    assert limiter.min_rtt == pytest.approx(0.01, rel=0.05)
    assert repr(limiter).startswith("<Concurrency 0 of ")


def test_at_twice_its_capacity_it_keeps_its_goodput_and_its_latency():
    """Benchmark 11: goodput >= 95 % at twice the load."""
    limiter, callee, rng = Concurrency(), Callee(workers=20, service=0.01), Random(1)
    drive(limiter, callee, per_second=1000, start=0.0, seconds=5, rng=rng)
    served, shed, worst = drive(limiter, callee, per_second=4000, start=6.0, seconds=20, rng=rng)
    assert served >= 0.95 * 2000 * 20
    assert shed >= 0.95 * 2000 * 20
    assert worst <= 0.030


def test_when_the_load_is_gone_the_limit_is_as_free_as_before():
    limiter, callee, rng = Concurrency(), Callee(workers=20, service=0.01), Random(1)
    drive(limiter, callee, per_second=4000, start=0.0, seconds=5, rng=rng)
    _, shed, _ = drive(limiter, callee, per_second=1500, start=6.0, seconds=10, rng=rng)
    assert shed <= 0.01 * 15_000


def test_a_service_that_became_slower_for_good_is_measured_anew():
    limiter, rng = Concurrency(), Random(1)
    callee = Callee(workers=1000, service=0.01)
    drive(limiter, callee, per_second=1000, start=0.0, seconds=3, rng=rng)
    callee.service = 0.1
    drive(limiter, callee, per_second=1000, start=4.0, seconds=20, rng=rng)
    assert limiter.min_rtt == pytest.approx(0.1, rel=0.05)
    _, shed, _ = drive(limiter, callee, per_second=1000, start=30.0, seconds=10, rng=rng)
    assert shed <= 0.02 * 10_000


def test_what_fails_fast_does_not_raise_the_limit():
    limiter, rng = Concurrency(), Random(1)
    for number in range(2000):
        slot = limiter.start(now=number * 0.01)
        assert slot is not None
        limiter.settle(slot, Outcome.FAILURE, now=number * 0.01 + 0.001, rng=rng)
    assert limiter.limit == ConcurrencyRules().initial_limit
    assert limiter.min_rtt == 0.0


def test_the_rules_of_a_traffic_policy_are_taken_over():
    rules = ConcurrencyRules.of(AdaptiveConcurrency(enabled=True, max_concurrency=2, base_latency=0.004))
    assert (rules.min_limit, rules.initial_limit, rules.max_limit) == (2, 2, 2)
    assert Concurrency(rules).min_rtt == 0.004
    with pytest.raises(ValueError, match="min_limit"):
        ConcurrencyRules(min_limit=50)


class AnyLoad(RuleBasedStateMachine):
    """Whatever comes, the limit stays within its bounds and holds, and after good answers it rises again."""

    @initialize()
    def begin(self) -> None:
        self.rules = ConcurrencyRules(min_limit=2, initial_limit=8, max_limit=16)
        self.limiter = Concurrency(self.rules)
        self.rng = Random(3)
        self.now = 0.0
        self.slots: list[Slot] = []

    @rule(calls=st.integers(1, 60))
    def calls_begin(self, calls: int) -> None:
        for _ in range(calls):
            has_room = self.limiter.has_room()
            slot = self.limiter.start(now=self.now)
            assert (slot is not None) is has_room
            if slot is not None:
                self.slots.append(slot)
                assert self.limiter.under_way <= self.limiter.limit

    @precondition(lambda self: self.slots)
    @rule(calls=st.integers(1, 60), took=st.floats(0, 2), outcome=st.sampled_from(Outcome))
    def calls_end(self, calls: int, took: float, outcome: Outcome) -> None:
        self.now += took
        for slot in self.slots[:calls]:
            self.limiter.settle(slot, outcome, now=self.now, rng=self.rng)
            self.limiter.settle(slot, outcome, now=self.now, rng=self.rng)
        del self.slots[:calls]

    @rule()
    def all_is_well_for_a_while(self) -> None:
        for slot in self.slots:
            self.limiter.settle(slot, Outcome.CANCELLED, now=self.now, rng=self.rng)
        self.slots.clear()
        for _ in range(150):
            slots = [self.limiter.start(now=self.now) for _ in range(self.limiter.limit)]
            self.now += 0.05
            for slot in slots:
                assert slot is not None
                self.limiter.settle(slot, Outcome.SUCCESS, now=self.now, rng=self.rng)
        assert self.limiter.limit >= self.rules.max_limit - 2 or "measuring" in repr(self.limiter)

    @invariant()
    def the_limit_is_within_its_bounds(self) -> None:
        assert self.rules.min_limit <= self.limiter.limit <= self.rules.max_limit
        assert self.limiter.under_way == len(self.slots)


TestAnyLoad = AnyLoad.TestCase
TestAnyLoad.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_a_callee_that_refuses_everything_gets_a_fifth_and_one_that_recovers_soon_gets_all():
    """Benchmark 11: recovery <= 1 s."""
    admission, rng = Admission(), Random(2)
    sent = sum(admission.start(now=number * 0.001, rng=rng) for number in range(5000))
    assert 900 < sent < 1100
    after: list[bool] = []
    for number in range(3000):
        now = 5.0 + number * 0.001
        after.append(admission.start(now=now, rng=rng))
        if after[-1]:
            admission.accepted(now=now)
    assert sum(after[1000:2000]) >= 950
    assert all(after[2000:])
    assert repr(admission).endswith("K 2>")


def test_a_caller_of_few_calls_is_not_throttled_for_one_that_was_refused():
    admission = Admission()
    assert all(admission.start(now=float(number) / 5, rng=Random(number)) for number in range(100))


def test_while_half_of_the_calls_are_accepted_nothing_is_rejected():
    admission, rng = Admission(), Random(2)
    for number in range(2000):
        if number % 2 == 0:
            admission.accepted(now=number * 0.01)
        assert admission.start(now=number * 0.01, rng=rng)
    with pytest.raises(ValueError, match="above 1"):
        Admission(k=1.0)


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=80), st.randoms(use_true_random=False))
def test_a_rejection_is_never_certain(steps: list[tuple[float, bool]], rng: Random):
    admission, now = Admission(), 0.0
    for step, is_accepted in steps:
        now += step
        if admission.start(now=now, rng=rng) and is_accepted:
            admission.accepted(now=now)
        assert 0.0 <= admission.rejection(now=now) <= 0.8
