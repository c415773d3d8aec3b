"""What an answer says of the instance that gave it, and what becomes of the instance."""

from random import Random

import pytest

from masche.library.core.outcomes import of_answer
from masche.model.view import Retry
from masche.traffic.breaker import Breaker
from masche.traffic.budget import RetryBudget
from masche.traffic.deadline import NO_DEADLINE
from masche.traffic.outcome import Outcome
from masche.traffic.request import Headers
from masche.traffic.retry import GiveUp, Why, again

LIMITED: list[tuple[int, Headers]] = [
    (429, (("retry-after", "1"), ("x-masche-denied", "shop/a local[0]"))),
    (200, (("content-type", "application/grpc"), ("grpc-status", "8"), ("retry-after", "1"))),
]
"""How a limit refuses, and how it refuses a call of gRPC."""


DENIED: list[tuple[int, Headers]] = [
    (403, (("x-masche-denied", "shop/a rules[0]"),)),
    (200, (("content-type", "application/grpc"), ("grpc-status", "7"), ("x-masche-denied", "shop/a rules[0]"))),
]
"""How a policy refuses, and how it refuses a call of gRPC."""


@pytest.mark.parametrize(("status", "headers"), DENIED)
def test_what_a_policy_refuses_is_told_from_what_an_application_does(status: int, headers: Headers):
    attempted = of_answer(status, headers, dict(headers))
    assert (attempted.outcome, attempted.reached, attempted.status) == (Outcome.DENIED, True, 403)
    assert of_answer(status, headers[:-1], dict(headers[:-1])).outcome is Outcome.SUCCESS
    decided = again(
        attempted,
        method="GET",
        repeats=0,
        rules=Retry(codes=(503,)),
        deadline=NO_DEADLINE,
        budget=RetryBudget(),
        now=0.0,
        rng=Random(1),
    )
    assert isinstance(decided, GiveUp)
    assert decided.why is Why.FINE


@pytest.mark.parametrize(("status", "headers"), LIMITED)
def test_who_is_beyond_a_limit_does_not_come_again(status: int, headers: Headers):
    attempted = of_answer(status, headers, dict(headers))
    assert (attempted.outcome, attempted.reached, attempted.status) == (Outcome.LIMITED, True, 429)
    decided = again(
        attempted,
        method="GET",
        repeats=0,
        rules=Retry(),
        deadline=NO_DEADLINE,
        budget=RetryBudget(),
        now=0.0,
        rng=Random(1),
    )
    assert decided == GiveUp(why=Why.NOT_LISTED, sentence=Why.NOT_LISTED.value)


def test_whose_limit_is_reached_is_not_cut_off_from_others() -> None:
    """One client that asks too much would else have every instance ejected, and tell the others to do the same."""
    breaker = Breaker(name="orders")
    breaker.members(["a", "b"], now=0.0)
    for now in range(1, 60):
        assert breaker.settle(breaker.start("a", now=now / 10), Outcome.LIMITED, now=now / 10 + 0.001) == ()
    assert not breaker.verdicts(caller="web-1", now=6.0)
    for now in range(61, 120):
        breaker.settle(breaker.start("b", now=now / 10), Outcome.REFUSED, now=now / 10 + 0.001)
    assert [each.endpoint for each in breaker.verdicts(caller="web-1", now=12.0)] == ["b"]
