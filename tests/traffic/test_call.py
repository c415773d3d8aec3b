"""One call as a state machine: whatever the edge tells it, everything is settled once and there is one answer."""

from dataclasses import replace
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masche.model.view import Retry
from masche.traffic.balancer import Balancer
from masche.traffic.breaker import Breaker
from masche.traffic.call import Abandon, Call, Finish, Start, Step
from masche.traffic.callee import Callee, CallRules
from masche.traffic.deadline import Deadline
from masche.traffic.hedging import Hedger, HedgeRules
from masche.traffic.membership import Endpoint, Health, Membership
from masche.traffic.outcome import Outcome
from masche.traffic.pushback import DO_NOT_REPEAT, Pushback
from masche.traffic.retry import Attempted

NAMES = ("a", "b", "c", "d")


def a_callee(
    *names: str, retry: Retry | None = None, timeout: float = 1.0, per_try: float = 0.0, hedge_after: float = 0.0
) -> Callee:
    rules = CallRules(timeout=timeout, per_try_timeout=per_try, retry=retry)
    percent = 100.0 if hedge_after else 0.0
    return Callee(
        Balancer(Membership.of(Endpoint(id=name) for name in names or NAMES)),
        rules=rules,
        breaker=Breaker(name="shop/orders"),
        hedger=Hedger(HedgeRules(after=hedge_after, max_extra_percent=percent)),
    )


def a_call(callee: Callee, *, method: str = "GET", now: float = 0.0, deadline: float = inf) -> Call:
    return Call(callee, method=method, now=now, rng=Random(1), deadline=Deadline(deadline))


def refused(pushback: Pushback | None = None) -> Attempted:
    return Attempted(outcome=Outcome.REFUSED, status=503, pushback=pushback)


WELL = Attempted(outcome=Outcome.SUCCESS, status=200)


def started(steps: tuple[Step, ...]) -> list[Start]:
    return [step for step in steps if isinstance(step, Start)]


def finished(steps: tuple[Step, ...]) -> list[Finish]:
    return [step for step in steps if isinstance(step, Finish)]


def outstanding(callee: Callee) -> dict[str, int]:
    return {each.id: callee.balancer.gauge(each.id).outstanding for each in callee.balancer.membership.endpoints}


def test_a_good_answer_ends_the_call():
    callee = a_callee()
    call = a_call(callee)
    (start,) = call.begin(now=0.0)
    assert isinstance(start, Start)
    assert start.timeout == 1.0
    assert call.wake_at == 1.0
    assert call.answered(start.number, WELL, now=0.1) == (Finish(number=start.number, outcome=Outcome.SUCCESS),)
    assert call.wake_at == inf
    assert set(outstanding(callee).values()) == {0}


def test_a_call_without_an_answer_is_given_up_at_its_deadline():
    callee = a_callee(timeout=5.0)
    call = a_call(callee, deadline=0.7)
    (start,) = started(call.begin(now=0.0))
    assert start.timeout == pytest.approx(0.7)
    abandon, finish = call.wake(now=0.7)
    assert abandon == Abandon(number=start.number)
    assert isinstance(finish, Finish)
    assert (finish.number, finish.outcome) == (None, Outcome.TIMEOUT)
    assert call.answered(start.number, WELL, now=0.8) == (), "it comes too late"


def test_a_call_whose_deadline_has_passed_is_not_sent():
    call = a_call(a_callee(), now=2.0, deadline=1.0)
    (finish,) = call.begin(now=2.0)
    assert isinstance(finish, Finish)
    assert finish.outcome is Outcome.TIMEOUT
    assert finish.forbids_repeats


def test_a_service_without_instances_answers_at_once_and_says_why():
    callee = Callee(Balancer(Membership()))
    (finish,) = a_call(callee).begin(now=0.0)
    assert finish == Finish(number=None, outcome=Outcome.REFUSED, why="the service has no instance")


def test_a_refused_call_is_repeated_elsewhere_after_a_while():
    call = a_call(a_callee(retry=Retry(attempts=2, codes=(503,), backoff=0.01)))
    (first,) = started(call.begin(now=0.0))
    assert call.answered(first.number, refused(), now=0.1) == ()
    assert 0.1 <= call.wake_at <= 0.11
    (second,) = started(call.wake(now=call.wake_at))
    assert second.endpoint != first.endpoint
    assert finished(call.answered(second.number, WELL, now=0.2))


def test_a_listed_answer_below_500_is_repeated_and_what_is_not_listed_ends_the_call():
    call = a_call(a_callee(retry=Retry(attempts=2, codes=(409,), backoff=0.0)))
    (first,) = started(call.begin(now=0.0))
    (second,) = started(call.answered(first.number, Attempted(outcome=Outcome.SUCCESS, status=409), now=0.1))
    assert second.endpoint != first.endpoint
    assert call.answered(second.number, WELL, now=0.2) == (Finish(number=second.number, outcome=Outcome.SUCCESS),)


def test_a_tier_that_may_not_repeat_says_so_to_its_caller():
    call = a_call(a_callee(retry=Retry(attempts=1, codes=(503,), backoff=0.0)))
    (first,) = started(call.begin(now=0.0))
    (second,) = started(call.answered(first.number, refused(), now=0.1))
    (finish,) = finished(call.answered(second.number, refused(), now=0.2))
    assert finish == Finish(
        number=second.number, outcome=Outcome.REFUSED, why="all attempts were made", forbids_repeats=True
    )


@pytest.mark.parametrize("retry", [None, Retry(attempts=3, codes=(503,))])
def test_what_the_callee_forbids_is_not_repeated_and_handed_on(retry: Retry | None):
    call = a_call(a_callee(retry=retry))
    (first,) = started(call.begin(now=0.0))
    (finish,) = finished(call.answered(first.number, refused(DO_NOT_REPEAT), now=0.1))
    assert finish.forbids_repeats


def test_a_slow_call_is_hedged_elsewhere_and_the_loser_is_abandoned():
    callee = a_callee(hedge_after=0.05)
    for _ in range(3):
        callee.count(now=0.0)
    call = a_call(callee)
    (first,) = started(call.begin(now=0.0))
    assert call.wake_at == pytest.approx(0.05)
    (hedge,) = started(call.wake(now=0.05))
    assert hedge.is_hedge
    assert hedge.endpoint != first.endpoint
    assert call.answered(hedge.number, WELL, now=0.07) == (
        Abandon(number=first.number),
        Finish(number=hedge.number, outcome=Outcome.SUCCESS),
    )
    assert set(outstanding(callee).values()) == {0}


def test_a_per_try_timeout_leaves_time_for_a_repeat():
    call = a_call(a_callee(per_try=0.2, retry=Retry(attempts=1, codes=(503,), backoff=0.0)))
    (first,) = started(call.begin(now=0.0))
    assert first.timeout == 0.2
    (second,) = started(call.wake(now=0.2))
    assert second.number != first.number
    assert finished(call.answered(second.number, WELL, now=0.3))


def test_an_ejected_instance_gets_copies_and_the_calls_go_elsewhere():
    callee = a_callee("a", "b", "c")
    now, copies, rng = 0.0, 0, Random(1)
    for _ in range(1200):
        now += 0.01
        call = Call(callee, method="GET", now=now, rng=rng)
        for start in started(call.begin(now=now)):
            copies += start.is_copy
            outcome = refused() if start.endpoint.id == "c" and now < 9.0 else WELL
            done = finished(call.answered(start.number, outcome, now=now + 0.001))
            assert not (start.is_copy and done), "nobody waits for a copy"
    assert copies >= 2
    events = [event.state.name for event in callee.take_events() if event.endpoint == "c"]
    assert (events[0], events[-1]) == ("EJECTED", "ADMITTED")


def test_an_instance_that_is_unhealthy_is_not_tried_by_copies_either():
    callee = a_callee("a", "b", "c")
    for now in range(3):
        made = callee.start(now=float(now), rng=Random(1), method="GET", tried={"a", "b"})
        assert made is not None
        callee.settle(made, Outcome.FAILURE, now=now + 0.1)
    endpoints = callee.balancer.membership.endpoints
    unwell = (replace(each, health=Health.UNHEALTHY) if each.id == "c" else each for each in endpoints)
    callee.members(callee.balancer.membership.updated(unwell, now=3.0), now=3.0)
    assert callee.copy(now=10.0, method="GET") is None


OUTCOMES = st.sampled_from(list(Outcome))
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["answer", "answer", "late", "wake", "cancel", "members"]),
        st.integers(0, 7),
        OUTCOMES,
        st.booleans(),
        st.sampled_from([None, DO_NOT_REPEAT, Pushback(0.05)]),
        st.floats(0.0, 0.4),
    ),
    max_size=60,
)


class Watched:
    """One call, and all that it was told and said."""

    def __init__(self, callee: Callee, method: str, now: float) -> None:
        self.call = Call(callee, method=method, now=now, rng=Random(3))
        self.starts: dict[int, Start] = {}
        self.ended: list[int] = []
        self.finishes = 0
        self.is_cancelled = False
        self.take(self.call.begin(now=now))

    def take(self, steps: tuple[Step, ...]) -> None:
        for step in steps:
            match step:
                case Start():
                    assert not self.finishes or step.is_copy, "nothing starts after the answer"
                    assert not self.is_cancelled
                    self.starts[step.number] = step
                case Abandon():
                    self.ended.append(step.number)
                case Finish():
                    self.finishes += 1
                    assert step.number is None or step.number in self.starts
        assert len(self.ended) == len(set(self.ended)), "an attempt ends once"
        assert self.finishes <= 1


@settings(max_examples=300, deadline=None)
@given(events=EVENTS, method=st.sampled_from(["GET", "POST"]), hedged=st.booleans(), repeats=st.integers(0, 3))
def test_every_claim_is_settled_exactly_once_whatever_happens(
    events: list[tuple[str, int, Outcome, bool, Pushback | None, float]], method: str, hedged: bool, repeats: int
):
    callee = a_callee(
        retry=Retry(attempts=repeats, codes=(503,), backoff=0.02), per_try=0.3, hedge_after=0.05 if hedged else 0.0
    )
    gauges = {name: callee.balancer.gauge(name) for name in NAMES}
    now, calls = 0.0, list[Watched]()
    for what, which, outcome, reached, pushback, later in events:
        now += later
        if not calls or which > len(calls):
            calls.append(Watched(callee, method, now))
        watched = calls[which % len(calls)]
        under_way = watched.call.under_way
        match what:
            case "answer" if under_way:
                number = under_way[which % len(under_way)]
                watched.ended.append(number)
                attempted = Attempted(outcome=outcome, reached=reached, status=503, pushback=pushback)
                watched.take(watched.call.answered(number, attempted, now=now))
            case "late" if watched.ended:
                assert watched.call.answered(watched.ended[-1], WELL, now=now) == ()
            case "cancel":
                watched.take(watched.call.cancel(now=now))
                watched.is_cancelled = True
            case "members":
                gone = NAMES[which % 4] if reached else ""
                members = Membership.of(Endpoint(id=name) for name in NAMES if name != gone)
                callee.members(members, now=now)
                gauges |= {each.id: callee.balancer.gauge(each.id) for each in members.endpoints}
            case _:
                watched.take(watched.call.wake(now=now))
    for _ in range(20):
        for watched in calls:
            if watched.call.wake_at < inf:
                now = max(now, watched.call.wake_at)
                watched.take(watched.call.wake(now=now))
    for watched in calls:
        assert watched.call.wake_at == inf
        assert watched.finishes == 1 or watched.is_cancelled, "there is one answer"
        assert sorted(watched.ended) == sorted(watched.starts), "each attempt ended, and each once"
        assert len([each for each in watched.starts.values() if not each.is_copy]) <= 2 * (repeats + 1)
    assert {gauge.outstanding for gauge in gauges.values()} == {0}, "nothing is left under way"
