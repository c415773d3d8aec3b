"""How much may be repeated."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from masche.model.calling import RetryBudget as Budget
from masche.traffic.budget import BudgetRules, RetryBudget
from masche.traffic.outcome import Outcome


def serve(budget: RetryBudget, *, calls: int, per_second: float, start: float, faults: float = 0.0) -> float:
    """Calls at a steady rate, of which the share ``faults`` fails, spread evenly; returns the time of the end."""
    failed = 0
    for number in range(calls):
        now = start + number / per_second
        budget.call(now=now)
        is_fault = failed < faults * (number + 1) - 1e-9
        failed += is_fault
        budget.settle(Outcome.FAILURE if is_fault else Outcome.SUCCESS, now=now)
    return start + calls / per_second


def test_a_fifth_of_the_calls_and_a_minimum_may_be_repeated():
    budget = RetryBudget(BudgetRules(min_per_second=1.0))
    now = serve(budget, calls=100, per_second=100, start=0.0)
    assert budget.balance(now=now) == 20 + 10
    assert sum(budget.take(now=now) for _ in range(100)) == 30
    assert "spent" in budget.why_not(now=now)


def test_what_was_earned_expires():
    budget = RetryBudget(BudgetRules(min_per_second=0.0))
    serve(budget, calls=100, per_second=100, start=0.0)
    assert budget.balance(now=5.0) == 20
    assert budget.balance(now=12.1) == 0


def test_the_failures_of_a_few_instances_are_repeated():
    """One of eleven instances fails: every failure may be repeated, for as long as it lasts."""
    budget = RetryBudget()
    failed = repeated = 0
    for number in range(11_000):
        now = number / 1000
        budget.call(now=now)
        if number % 11:
            budget.settle(Outcome.SUCCESS, now=now)
            continue
        failed += 1
        budget.settle(Outcome.FAILURE, now=now)
        if budget.take(now=now):
            repeated += 1
            budget.settle(Outcome.SUCCESS, now=now)
    assert repeated == failed == 1000


@pytest.mark.parametrize("callers", [1, 10])
def test_an_outage_of_all_costs_a_fraction_of_a_second_of_repeats(callers: int):
    """Benchmark 11: 800 calls a second, 5 s of outage, three repeats each: 1.03 times the calls at most."""
    repeats = 0
    for _ in range(callers):
        budget = RetryBudget()
        rate = 800 / callers
        start = serve(budget, calls=int(20 * rate), per_second=rate, start=0.0)
        for number in range(int(5 * rate)):
            now = start + number / rate
            budget.call(now=now)
            budget.settle(Outcome.FAILURE, now=now)
            for _ in range(3):
                if not budget.take(now=now):
                    break
                repeats += 1
                budget.settle(Outcome.FAILURE, now=now)
    assert repeats / 4000 <= 0.03


def test_after_an_outage_repeats_are_allowed_within_a_second():
    budget = RetryBudget()
    now = serve(budget, calls=2000, per_second=200, start=0.0)
    now = serve(budget, calls=1000, per_second=200, start=now, faults=1.0)
    assert budget.is_throttled(now=now)
    assert "too many calls fail" in budget.why_not(now=now)
    now = serve(budget, calls=200, per_second=200, start=now)
    assert budget.take(now=now)
    assert budget.why_not(now=now) == ""


def test_time_alone_makes_good_for_a_caller_of_few_calls():
    budget = RetryBudget()
    serve(budget, calls=140, per_second=140, start=0.0, faults=1.0)
    assert not budget.take(now=1.0)
    assert budget.take(now=8.0)


def test_who_tries_a_route_out_sees_all_the_repeats_that_it_asks_for():
    """As the Gateway API's own suite does (HTTPRouteRetry): one call after the other whose first tries all fail."""
    budget, now = RetryBudget(BudgetRules.of(Budget())), 0.0
    for repeats, is_in_vain in 3 * [(2, False), (3, True), (0, True)] + 12 * [(1, False), (2, True)]:
        budget.call(now=now)
        for _ in range(repeats):
            budget.settle(Outcome.FAILURE, now=now)
            assert budget.take(now=now), budget
        budget.settle(Outcome.FAILURE if is_in_vain else Outcome.SUCCESS, now=now)
        now += 0.02


def test_who_makes_many_calls_is_taken_for_a_storm_after_fifteen_failures():
    budget = RetryBudget()
    now = serve(budget, calls=200, per_second=100, start=0.0)
    serve(budget, calls=14, per_second=10_000, start=now, faults=1.0)
    assert not budget.is_throttled(now=now)
    serve(budget, calls=2, per_second=10_000, start=now, faults=1.0)
    assert budget.is_throttled(now=now)


def test_a_few_failures_together_are_repeated_however_few_calls_there_are():
    budget = RetryBudget()
    serve(budget, calls=15, per_second=15, start=0.0, faults=1.0)
    assert budget.take(now=1.0)


def test_cancelled_attempts_are_neither_here_nor_there():
    budget = RetryBudget()
    for _ in range(100):
        budget.settle(Outcome.CANCELLED, now=0.0)
    assert budget.take(now=0.0)


def test_an_operator_reads_what_is_left():
    budget = RetryBudget()
    budget.call(now=0.0)
    expected = "<RetryBudget <Allowance 20% and 30: <Sum 1> earned, <Sum 0> taken>, 0 failures to make good>"
    assert repr(budget) == expected


def test_a_budget_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="ratio"):
        BudgetRules(ratio=-0.1)


def test_the_rules_of_a_traffic_policy_are_taken_over():
    rules = BudgetRules.of(Budget(percent=100.0, min_concurrent=2))
    assert (rules.ratio, rules.min_per_second) == (1.0, 2.0)
    budget = RetryBudget(rules)
    serve(budget, calls=100, per_second=100, start=0.0, faults=0.9)
    assert budget.balance(now=1.0) == 120


class AnyBudget(RuleBasedStateMachine):
    """However calls, failures and repeats come: never more repeats than the ratio and the minimum allow."""

    @initialize(ratio=st.sampled_from([0.0, 0.1, 0.2, 0.5]), minimum=st.sampled_from([0.0, 0.5, 3.0]))
    def begin(self, ratio: float, minimum: float) -> None:
        self.rules = BudgetRules(ratio=ratio, min_per_second=minimum)
        self.budget = RetryBudget(self.rules)
        self.now = 7.0
        self.called: list[float] = []
        self.taken: list[float] = []

    @rule(step=st.floats(0, 8))
    def time_passes(self, step: float) -> None:
        self.now += step

    @rule(calls=st.integers(1, 60), outcome=st.sampled_from(Outcome))
    def calls_are_made(self, calls: int, outcome: Outcome) -> None:
        for _ in range(calls):
            self.budget.call(now=self.now)
            self.budget.settle(outcome, now=self.now)
            self.called.append(self.now)

    @rule(tries=st.integers(1, 60))
    def repeats_are_asked_for(self, tries: int) -> None:
        for _ in range(tries):
            balance = self.budget.balance(now=self.now)
            was_taken = self.budget.take(now=self.now)
            assert was_taken is (balance >= 1)
            if was_taken:
                self.taken.append(self.now)
                self.the_window_holds()

    def the_window_holds(self) -> None:
        """A slot of the window (a tenth) is the grain: calls count up to 1.1 ttl, repeats for at least one ttl."""
        ttl = self.rules.ttl
        taken = sum(at > self.now - ttl for at in self.taken)
        called = sum(at > self.now - 1.1 * ttl for at in self.called)
        assert taken <= self.rules.ratio * called + self.rules.min_per_second * ttl + 1e-6

    @invariant()
    def in_all_repeats_stay_within_ratio_and_minimum(self) -> None:
        elapsed = self.now - 7.0
        minimum = self.rules.min_per_second * (elapsed + self.rules.ttl)
        assert len(self.taken) <= self.rules.ratio * len(self.called) + minimum + 1e-6


TestAnyBudget = AnyBudget.TestCase
TestAnyBudget.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
