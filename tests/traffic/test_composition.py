"""How the parts make one call, and what they reach together: deadline, budget, hedge, breaker, balance.

``Caller.call`` is the order in which they stand, with the reason of each place. The tests below it are small forms of
the benchmarks 7 (slow replica), 10 (brown-out) and 11 (retry storm); the whole ones are with the benchmarks.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from random import Random

import pytest

from masche.model.view import Retry
from masche.traffic.balancer import Balancer, Claim
from masche.traffic.breaker import Breaker
from masche.traffic.budget import RetryBudget
from masche.traffic.deadline import Deadline
from masche.traffic.ejection import EjectionRules, Event, State
from masche.traffic.hedging import Hedger, HedgeRules, Race
from masche.traffic.membership import Endpoint, Membership
from masche.traffic.outcome import Outcome
from masche.traffic.pushback import Pushback
from masche.traffic.retry import Again, Attempted, again
from masche.traffic.standing import Attempt

Answer = Callable[[Outcome, Pushback | None], None]


class World:
    """Virtual time: what is due is done in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, when: float, action: Callable[[], None]) -> None:
        heappush(self._due, (max(when, self.now), next(self._order), action))

    def run(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            self.now, _, action = heappop(self._due)
            action()
        self.now = until


@dataclass
class Try:
    """One attempt of a call, as the edge holds it."""

    number: int
    claim: Claim
    attempt: Attempt


@dataclass
class Call:
    """One call under way."""

    method: str
    deadline: Deadline
    done: Answer
    sent_at: float
    race: Race = field(default_factory=Race)
    repeats: int = 0
    running: dict[int, Try] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)


class Caller:
    """One caller of one service: everything that it must remember between calls."""

    def __init__(
        self,
        world: World,
        names: list[str],
        serve: Callable[[str, Answer], None],
        *,
        retry: Retry | None = None,
        hedge_percent: float = 0.0,
        seed: int = 1,
    ) -> None:
        self.world, self.serve, self.retry, self.rng = world, serve, retry, Random(seed)
        self.breaker = Breaker(EjectionRules(), name="shop/orders")
        self.breaker.members(names, now=0.0)
        self.balancer = Balancer(Membership.of(Endpoint(id=name) for name in names))
        self.budget = RetryBudget()
        self.hedger = Hedger(HedgeRules(max_extra_percent=hedge_percent))
        self.events: list[Event] = []
        self.failed: list[tuple[float, str]] = []
        self.calls = self.attempts = self.hedges = self.copies = 0

    def call(self, done: Answer, *, method: str = "GET", deadline: Deadline | None = None) -> None:
        now = self.world.now
        self.calls += 1
        # The deadline comes first: everything below has only what is left of it.
        limit = (deadline or Deadline()).within(1.0, now=now)
        # The budgets count calls, not attempts, so they stand before anything that makes attempts.
        self.budget.call(now=now)
        self.hedger.call(now=now)
        call = Call(method=method, deadline=limit, done=done, sent_at=now)
        self._try(call)
        # A hedge is a second attempt at the same call, so it stands after the first.
        delay = self.hedger.delay(method=method, now=now)
        if delay is not None:
            self.world.at(now + delay, lambda: self._hedge(call))
        # A copy tries whom the breaker keeps out; nobody waits for its answer.
        self._copy(can_copy=method == "GET")

    def _try(self, call: Call) -> None:
        now = self.world.now
        # Time alone may have changed a state: the breaker is brought up to date before it is asked.
        if (due := self.breaker.next_deadline()) is not None and due <= now:
            self.events += self.breaker.check(now=now)
        # A call that may not be copied is now and then itself the trial of an instance that is out.
        is_risked = call.method != "GET" and not call.tried
        trial = self.breaker.trial(can_copy=False, now=now) if is_risked else None
        claim = self._claim(call, now) if trial is None else self._claim_only(trial.endpoint, now)
        assert claim is not None, "the breaker never keeps all of them out"
        attempt = self.breaker.start(claim.endpoint.id, now=now, trial=trial)
        made = Try(number=call.race.start(), claim=claim, attempt=attempt)
        call.running[made.number] = made
        call.tried.add(claim.endpoint.id)
        self.attempts += 1
        self.serve(claim.endpoint.id, lambda outcome, pushback: self._answered(call, made, outcome, pushback))
        self.world.at(now + call.deadline.left(now=now), lambda: self._answered(call, made, Outcome.TIMEOUT, None))

    def _claim(self, call: Call, now: float) -> Claim | None:
        """The breaker says who must not be picked, the balancer picks among the others, last those tried."""
        shunned = self.breaker.shunned(now=now)
        claim = self.balancer.claim(now=now, rng=self.rng, exclude=shunned | call.tried)
        return claim or self.balancer.claim(now=now, rng=self.rng, exclude=shunned)

    def _claim_only(self, name: str, now: float) -> Claim | None:
        others = {each.id for each in self.balancer.membership.endpoints if each.id != name}
        return self.balancer.claim(now=now, rng=self.rng, exclude=others)

    def _hedge(self, call: Call) -> None:
        if (
            call.race.can_hedge
            and not call.deadline.has_passed(now=self.world.now)
            and self.hedger.take(now=self.world.now)
        ):
            self.hedges += 1
            self._try(call)

    def _answered(self, call: Call, made: Try, outcome: Outcome, pushback: Pushback | None) -> None:
        if call.running.pop(made.number, None) is None:
            return
        self._settle(made, outcome)
        step = call.race.settle(made.number, outcome)
        for loser in step.cancel:
            self._settle(call.running.pop(loser), Outcome.CANCELLED)
        if step.is_over:
            self._over(call, made, outcome, pushback)

    def _settle(self, made: Try, outcome: Outcome) -> None:
        now = self.world.now
        made.claim.settle(outcome, now=now)
        self.events += self.breaker.settle(made.attempt, outcome, now=now)
        self.budget.settle(outcome, now=now)
        self.hedger.settle(outcome, now - made.attempt.started_at, now=now)

    def _over(self, call: Call, made: Try, outcome: Outcome, pushback: Pushback | None) -> None:
        """All tries have ended: answer, or repeat when everything allows it."""
        if outcome.is_success:
            call.done(outcome, None)
            return
        forbids = False
        if self.retry is not None:
            attempted = Attempted(outcome=outcome, status=0 if outcome is Outcome.TIMEOUT else 503, pushback=pushback)
            decision = again(
                attempted,
                method=call.method,
                repeats=call.repeats,
                rules=self.retry,
                deadline=call.deadline,
                budget=self.budget,
                now=self.world.now,
                rng=self.rng,
            )
            if isinstance(decision, Again):
                call.repeats += 1
                call.race = Race()
                self.world.at(self.world.now + decision.after, lambda: self._try(call))
                return
            forbids = decision.forbids_repeats
        self.failed.append((call.sent_at, made.claim.endpoint.id))
        call.done(outcome, Pushback() if forbids else pushback)

    def _copy(self, *, can_copy: bool) -> None:
        now = self.world.now
        trial = self.breaker.trial(can_copy=can_copy, now=now)
        if trial is None or not trial.is_copy:
            return
        self.copies += 1
        attempt = self.breaker.start(trial.endpoint, now=now, trial=trial)

        def ended(outcome: Outcome, _: Pushback | None) -> None:
            self.events += self.breaker.settle(attempt, outcome, now=self.world.now)

        self.serve(trial.endpoint, ended)
        self.world.at(now + 1.0, lambda: ended(Outcome.TIMEOUT, None))


def ignore(_: Outcome, __: Pushback | None) -> None:
    """A client that only counts; the Caller keeps what failed."""


def steadily(world: World, per_second: float, until: float, action: Callable[[], None]) -> None:
    for number in range(int(per_second * until)):
        world.at(number / per_second, action)


def a_slow_replica(*, hedge_percent: float) -> tuple[Caller, list[float]]:
    """11 instances at 167 +- 5 ms, 1000 calls a second; from 5 s to 15 s one takes 2 s; clients give up after 1 s."""
    world, rng, names = World(), Random(11), [f"i{number:02}" for number in range(11)]
    to_the_slow_one: list[float] = []

    def serve(name: str, answer: Answer) -> None:
        is_slow = name == "i03" and 5.0 <= world.now < 15.0
        if is_slow:
            to_the_slow_one.append(world.now)
        latency = 2.0 if is_slow else rng.uniform(0.162, 0.172)
        world.at(world.now + latency, lambda: answer(Outcome.SUCCESS, None))

    caller = Caller(world, names, serve, hedge_percent=hedge_percent)
    steadily(world, 1000, 20.0, lambda: caller.call(ignore))
    world.run(25.0)
    return caller, to_the_slow_one


def test_a_slow_replica_costs_only_the_calls_that_could_not_know():
    caller, to_the_slow_one = a_slow_replica(hedge_percent=0.0)
    knowable_at = to_the_slow_one[0] + 0.172
    avoidable = [at for at, name in caller.failed if at > knowable_at + 0.001]
    assert avoidable == []
    assert {name for _, name in caller.failed} == {"i03"}
    assert len(caller.failed) <= 20
    first, *_, last = caller.events
    assert (first.endpoint, first.state) == ("i03", State.EJECTED)
    assert first.at < 5.6
    assert last.state is State.ADMITTED
    assert last.at < 17.0
    assert {event.endpoint for event in caller.events} == {"i03"}, "nobody else was ejected"


def test_with_two_percent_of_hedges_a_slow_replica_costs_at_most_one_call():
    caller, _ = a_slow_replica(hedge_percent=2.0)
    assert caller.events[0].at < 6.0, "hedges do not hide the slow one from the breaker"
    assert len(caller.failed) <= 1
    assert caller.hedges <= 0.02 * caller.calls


def test_a_brown_out_costs_a_client_at_most_five_errors_and_is_over_within_a_second():
    world, names = World(), ["a", "b", "c", "d", "e"]

    def serve(name: str, answer: Answer) -> None:
        is_bad = name == "c" and int(world.now / 10) % 2 == 1
        world.at(world.now + 0.005, lambda: answer(Outcome.REFUSED if is_bad else Outcome.SUCCESS, None))

    caller = Caller(world, names, serve)
    steadily(world, 100, 45.0, lambda: caller.call(ignore))
    world.run(50.0)
    for flip in (10.0, 30.0):
        assert len([at for at, _ in caller.failed if flip <= at < flip + 10.0]) <= 5
    readmitted = [event.at for event in caller.events if event.state is State.ADMITTED]
    assert [int(at / 10) for at in readmitted] == [2, 4]
    assert all(at % 10 <= 1.0 for at in readmitted)


def test_calls_that_may_not_be_copied_are_risked_one_at_a_time_and_ever_less_often():
    """POST only, so that every trial is somebody's call: 30 s of brown-out cost five trials and the first errors."""
    world, names = World(), ["a", "b", "c", "d", "e"]

    def serve(name: str, answer: Answer) -> None:
        is_bad = name == "c" and 10.0 <= world.now < 40.0
        world.at(world.now + 0.005, lambda: answer(Outcome.REFUSED if is_bad else Outcome.SUCCESS, None))

    caller = Caller(world, names, serve)
    steadily(world, 100, 80.0, lambda: caller.call(ignore, method="POST"))
    world.run(81.0)
    assert caller.copies == 0
    assert 3 < len(caller.failed) <= 9
    assert caller.events[-1].state is State.ADMITTED
    assert caller.events[-1].at < 40.0 + 17.0


def test_equal_instances_with_a_heavy_tail_are_left_in_peace():
    """A long tail is no outlier: lognormal latencies (p99 ten times the median), a minute of 100 calls a second."""
    world, rng = World(), Random(3)

    def serve(_: str, answer: Answer) -> None:
        world.at(world.now + 0.02 * rng.lognormvariate(0, 1.0), lambda: answer(Outcome.SUCCESS, None))

    caller = Caller(world, [f"i{number:02}" for number in range(11)], serve)
    steadily(world, 100, 60.0, lambda: caller.call(ignore))
    world.run(65.0)
    assert [str(event) for event in caller.events] == []


@pytest.mark.parametrize("outage", [1.0, 5.0])
def test_over_three_tiers_an_outage_of_the_leaf_is_not_multiplied(outage: float):
    """Each tier repeats up to three times; a naive mesh would send 64 calls for one."""
    world, arrived = World(), list[float]()

    def leaf(_: str, answer: Answer) -> None:
        arrived.append(world.now)
        is_down = 5.0 <= world.now < 5.0 + outage
        world.at(world.now + 0.002, lambda: answer(Outcome.REFUSED if is_down else Outcome.SUCCESS, None))

    def tier(serve: Callable[[str, Answer], None], seed: int) -> Caller:
        retry = Retry(attempts=3, codes=(503,), backoff=0.01)
        return Caller(world, ["x", "y", "z"], serve, retry=retry, seed=seed)

    bottom = tier(leaf, 1)
    middle = tier(lambda _, answer: bottom.call(answer), 2)
    top = tier(lambda _, answer: middle.call(answer), 3)
    steadily(world, 400, 8.0 + outage, lambda: top.call(ignore))
    world.run(12.0 + outage)
    during = [at for at in arrived if 5.0 <= at < 5.0 + outage]
    assert len(during) <= (1.10 if outage >= 5.0 else 1.2) * 400 * outage
    late = [at for at, _ in top.failed if at >= 5.0 + outage]
    assert len(late) <= 0.05 * 400, "recovered at once"
