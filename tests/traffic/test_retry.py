"""What is repeated, and what a tier that gives up tells the tier above."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.model.view import Retry
from masche.traffic.budget import BudgetRules, RetryBudget
from masche.traffic.deadline import NO_DEADLINE, Deadline
from masche.traffic.outcome import Outcome
from masche.traffic.pushback import DO_NOT_REPEAT, Pushback, read, spoken
from masche.traffic.retry import Again, Attempted, GiveUp, Why, again, backoff, repeats_fine

RULES = Retry(attempts=2, codes=(502, 503), backoff=0.025)
UNREACHED = Attempted(outcome=Outcome.FAILURE, reached=False)
REFUSED = Attempted(outcome=Outcome.REFUSED, status=503)


def decide(
    attempted: Attempted,
    *,
    method: str = "GET",
    repeats: int = 0,
    deadline: Deadline = NO_DEADLINE,
    budget: RetryBudget | None = None,
    per_try_timeout: float = 0.0,
    rules: Retry = RULES,
) -> Again | GiveUp:
    return again(
        attempted,
        method=method,
        repeats=repeats,
        rules=rules,
        deadline=deadline,
        budget=budget or RetryBudget(),
        now=0.0,
        rng=Random(1),
        per_try_timeout=per_try_timeout,
    )


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_what_never_reached_an_application_is_repeated_at_once_whatever_the_method(method: str):
    assert decide(UNREACHED, method=method, per_try_timeout=1.0) == Again(after=0.0, timeout=1.0)


@pytest.mark.parametrize(("method", "is_repeated"), [("GET", True), ("PUT", True), ("POST", False), ("PATCH", False)])
def test_an_answer_is_repeated_only_when_the_method_is_idempotent(method: str, is_repeated: bool):
    for attempted in (REFUSED, Attempted(outcome=Outcome.TIMEOUT)):
        assert isinstance(decide(attempted, method=method), Again) is is_repeated


def test_only_listed_codes_are_repeated():
    given_up = decide(Attempted(outcome=Outcome.FAILURE, status=500))
    assert given_up == GiveUp(why=Why.NOT_LISTED, sentence=Why.NOT_LISTED.value)
    assert not given_up.forbids_repeats


@pytest.mark.parametrize(
    ("rules", "attempted"),
    [
        (Retry(codes=(409,)), Attempted(outcome=Outcome.SUCCESS, status=409)),
        (Retry(codes=(403,)), Attempted(outcome=Outcome.DENIED, status=403)),
        (Retry(grpc_codes=(1,)), Attempted(outcome=Outcome.SUCCESS, status=499, grpc_status=1)),
    ],
    ids=["conflict", "denied", "cancelled by the callee"],
)
def test_a_listed_answer_is_repeated_though_it_is_no_fault_of_the_instance(rules: Retry, attempted: Attempted):
    assert repeats_fine(rules)
    assert isinstance(decide(attempted, rules=rules), Again)
    assert isinstance(decide(attempted, rules=rules, method="POST"), GiveUp)
    given_up = decide(attempted, rules=rules, repeats=rules.attempts)
    assert given_up == GiveUp(why=Why.ATTEMPTS, sentence=Why.ATTEMPTS.value)


@pytest.mark.parametrize(
    ("rules", "attempted"),
    [
        (Retry(codes=(429, 503)), Attempted(outcome=Outcome.LIMITED, status=429)),
        (Retry(grpc_codes=(8, 14)), Attempted(outcome=Outcome.LIMITED, status=429, grpc_status=8)),
    ],
    ids=["HTTP", "gRPC"],
)
def test_who_asked_too_often_is_repeated_without_looking_at_every_good_answer(rules: Retry, attempted: Attempted):
    assert not repeats_fine(rules)
    assert isinstance(decide(attempted, rules=rules), Again)


def test_a_call_that_was_cancelled_is_not_repeated_whatever_is_listed():
    assert decide(Attempted(outcome=Outcome.CANCELLED, status=409), rules=Retry(codes=(409,))) == GiveUp(
        why=Why.FINE, sentence=Why.FINE.value
    )


def test_a_good_answer_needs_no_repeat():
    assert decide(Attempted(outcome=Outcome.SUCCESS, status=200)) == GiveUp(why=Why.FINE, sentence=Why.FINE.value)


def test_after_all_attempts_the_caller_is_told_not_to_repeat():
    given_up = decide(REFUSED, repeats=2)
    assert isinstance(given_up, GiveUp)
    assert (given_up.why, given_up.forbids_repeats) == (Why.ATTEMPTS, True)


def test_with_the_budget_spent_the_caller_is_told_not_to_repeat():
    given_up = decide(REFUSED, budget=RetryBudget(BudgetRules(min_per_second=0.0)))
    assert isinstance(given_up, GiveUp)
    assert (given_up.why, given_up.forbids_repeats) == (Why.BUDGET, True)
    assert given_up.sentence == "the budget is spent (20% of calls and 0 a second)"


def test_what_the_callee_forbids_is_not_repeated_and_that_is_passed_on():
    given_up = decide(Attempted(outcome=Outcome.REFUSED, status=503, pushback=DO_NOT_REPEAT))
    assert isinstance(given_up, GiveUp)
    assert (given_up.why, given_up.forbids_repeats) == (Why.FORBIDDEN, True)


def test_what_the_callee_asks_to_wait_is_waited():
    asked = Attempted(outcome=Outcome.REFUSED, status=503, pushback=Pushback(0.7))
    assert decide(asked) == Again(after=0.7, timeout=float("inf"))
    given_up = decide(asked, deadline=Deadline(0.5))
    assert isinstance(given_up, GiveUp)
    assert given_up.why is Why.DEADLINE


def test_nobody_is_held_for_as_long_as_a_callee_likes():
    def after(seconds: float) -> Again | GiveUp:
        return decide(Attempted(outcome=Outcome.REFUSED, status=503, pushback=Pushback(seconds)))

    assert isinstance(after(60.0), Again)
    given_up = after(2147483.0)
    assert isinstance(given_up, GiveUp)
    assert (given_up.sentence, given_up.forbids_repeats) == ("the callee asked not to repeat it for 2147483 s", True)


def test_nothing_is_taken_from_the_budget_when_nothing_is_repeated():
    budget = RetryBudget(BudgetRules(min_per_second=0.1))
    decide(REFUSED, method="POST", budget=budget)
    decide(REFUSED, repeats=2, budget=budget)
    decide(REFUSED, deadline=Deadline(0.0), budget=budget)
    assert budget.balance(now=0.0) == 1
    assert isinstance(decide(REFUSED, budget=budget), Again)
    assert budget.balance(now=0.0) == 0


@given(st.integers(0, 5), st.floats(0.0, 10), st.floats(0, 20), st.randoms(use_true_random=False))
def test_a_repeat_never_outlasts_the_deadline(repeats: int, left: float, per_try: float, rng: Random):
    decision = again(
        Attempted(outcome=Outcome.TIMEOUT),
        method="GET",
        repeats=repeats,
        rules=Retry(attempts=9, backoff=0.5),
        deadline=Deadline(100.0 + left),
        budget=RetryBudget(),
        now=100.0,
        rng=rng,
        per_try_timeout=per_try,
    )
    if isinstance(decision, Again):
        assert decision.timeout > 0
        assert decision.after + decision.timeout <= left + 1e-9


@given(st.integers(0, 2000), st.randoms(use_true_random=False))
def test_backoff_is_anything_up_to_a_bound_that_doubles(repeats: int, rng: Random):
    assert 0 <= backoff(repeats, base=0.025, rng=rng) <= 0.025 * min(10, 2 ** min(repeats, 10))


def test_the_word_of_a_tier_is_understood_by_the_next():
    for is_grpc in (True, False):
        assert read((("content-type", "x"), *spoken(is_grpc=is_grpc))) == DO_NOT_REPEAT
        assert ("x-envoy-ratelimited", "true") in spoken(is_grpc=is_grpc)
    assert read(spoken(is_grpc=True)[:1]) == DO_NOT_REPEAT, "gRPC's own clients know only its own word"
    assert read((("x-envoy-overloaded", "true"),)) == DO_NOT_REPEAT
    assert read((("content-type", "text/plain"),)) is None


@pytest.mark.parametrize(
    ("value", "after"),
    [
        *[("0", 0.0), ("250", 0.25), ("2147483647", 2147483.647), ("2147483648", None), ("-1", None), ("-0", None)],
        *[("", None), ("soon", None), ("007", None), ("1.5", None), ("9" * 400, None)],
    ],
)
def test_a_pushback_is_read_as_grpc_says(value: str, after: float | None):
    assert read((("grpc-retry-pushback-ms", value),)) == Pushback(after)


def test_of_two_pushbacks_the_one_that_forbids_wins():
    for headers in (
        (("grpc-retry-pushback-ms", "5"), ("grpc-retry-pushback-ms", "-1")),
        (("grpc-retry-pushback-ms", "5"), ("x-envoy-ratelimited", "true")),
    ):
        assert read(headers) == DO_NOT_REPEAT
