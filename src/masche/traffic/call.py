"""One logical call, from its deadline to its answer: when to start an attempt, a hedge, a repeat, and when to give up.

A state machine without I/O. ``begin``, ``answered``, ``wake`` and ``cancel`` return steps, which the edge carries out:
it starts what it is told to start and tells what each came to, and calls ``wake`` when ``wake_at`` has come. What it
tells of an attempt that is over already changes nothing, so races between an answer and a timeout need no care.
Invariants, whatever the edge does: every attempt is settled exactly once, there is exactly one Finish (none after
``cancel``), and nothing is started after it. Steps are never changed; they are not frozen because freezing would treble
what it costs to make one, and every call makes two.

The order: the *deadline* stands outside, since all below have only what is left of it; then *repeats*, which cost a
token; then the *hedge*, a race within one round; then *breaker and balancer*, anew for each attempt (``callee``).
"""

from dataclasses import dataclass
from math import inf

from masche.traffic.balancer import Claim
from masche.traffic.callee import Callee, CallRules
from masche.traffic.chance import Chance
from masche.traffic.deadline import NO_DEADLINE, Deadline
from masche.traffic.hedging import Race
from masche.traffic.membership import Endpoint
from masche.traffic.outcome import Outcome
from masche.traffic.retry import Again, Attempted, GiveUp, Why, again


@dataclass(slots=True, kw_only=True)
class Start:
    """Send the request to ``endpoint`` and tell by ``answered`` what came of attempt ``number``, which has ``timeout``
    seconds (infinite: no limit). ``is_copy``: only to see how the instance is; its answer is thrown away.
    """

    number: int
    endpoint: Endpoint
    timeout: float
    is_hedge: bool = False
    is_copy: bool = False


@dataclass(slots=True, kw_only=True)
class Abandon:
    """Cancel attempt ``number``: it has lost, or is out of time. It is settled already."""

    number: int


@dataclass(slots=True, kw_only=True)
class Finish:
    """Give the client the answer of attempt ``number``; None: there is none, and ``outcome`` says what to make of it.

    ``why`` says why it was not repeated; ``forbids_repeats``: say so to the client (``pushback.spoken``).
    """

    number: int | None
    outcome: Outcome
    why: str = ""
    forbids_repeats: bool = False


Step = Start | Abandon | Finish
Steps = tuple[Step, ...]

NO_INSTANCE = "the service has no instance"

_FIRST = 0
"""The place of a first attempt in its race, which begins only with a second one."""


class _Running:
    """One attempt of a call."""

    __slots__ = ("due_at", "made", "number", "place")

    def __init__(self, number: int, made: Claim, *, due_at: float, place: int | None) -> None:
        self.number, self.made, self.due_at, self.place = number, made, due_at, place


class Call:
    """One call of one service. ``key``: the hash of what it sticks to, if anything. ``rules``: those of its route,
    where they are not the callee's.
    """

    __slots__ = (
        "_callee", "_deadline", "_hedge_at", "_key", "_method", "_number", "_race", "_repeat_at", "_repeats", "_rng",
        "_rules", "_running", "_tried", "is_over",
    )  # fmt: skip

    def __init__(
        self,
        callee: Callee,
        *,
        method: str,
        now: float,
        rng: Chance,
        deadline: Deadline = NO_DEADLINE,
        key: int | None = None,
        rules: CallRules | None = None,
    ) -> None:
        self._callee, self._method, self._rng, self._key = callee, method, rng, key
        self._rules = callee.rules if rules is None else rules
        self._deadline = deadline.within(self._rules.timeout, now=now)
        self._race: Race | None = None
        self._running: dict[int, _Running] = {}
        self._tried: set[str] = set()
        self._number = self._repeats = 0
        self._hedge_at = self._repeat_at = inf
        self.is_over = False

    def __repr__(self) -> str:
        state = "over" if self.is_over else f"{self._repeats} repeats"
        return f"<Call {self._method} {state}, {len(self._running)} attempts under way, {self._deadline!r}>"

    @property
    def wake_at(self) -> float:
        """When ``wake`` has something to do, monotonic seconds; infinite when it has nothing."""
        first = min((each.due_at for each in self._running.values()), default=inf)
        return min(first, self._hedge_at, self._repeat_at)

    @property
    def under_way(self) -> tuple[int, ...]:
        """The attempts that are not settled."""
        return tuple(self._running)

    def is_under_way(self, number: int) -> bool:
        """Is this attempt not settled?"""
        return number in self._running

    @property
    def deadline(self) -> Deadline:
        """Until when it must have been answered."""
        return self._deadline

    @property
    def repeats(self) -> int:
        """How many repeats were begun, each of which has taken its token."""
        return self._repeats

    # What the edge tells

    def begin(self, *, now: float) -> Steps:
        """Start; to be called once, before everything else."""
        self._callee.count(now=now)
        steps = self._round(now)
        if self.is_over or not self._callee.breaker.has_out:
            return steps
        if (made := self._callee.copy(now=now, method=self._method, tried=self._tried)) is None:
            return steps
        return (*steps, self._run(made, now=now, place=None))

    def adopt(self, callee: Callee, made: Claim, *, now: float) -> Start:
        """Take over a call whose first attempt was begun elsewhere, by ``count`` and ``start`` of its ``callee`` at
        ``now``: as if ``begin`` had made it, where nothing is hedged or copied.
        """
        self._callee = callee
        return self._run(made, now=now, place=_FIRST)

    def answered(self, number: int, attempted: Attempted, *, now: float) -> Steps:
        """Attempt ``number`` came to its end; nothing happens when it was over already."""
        run = self._running.pop(number, None)
        return () if run is None else self._ended(run, attempted, now)

    def wake(self, *, now: float) -> Steps:
        """Do what is due by time: time attempts out, hedge, repeat."""
        steps: list[Step] = []
        for number in [each.number for each in self._running.values() if each.due_at <= now]:
            if (run := self._running.pop(number, None)) is not None:
                steps.append(Abandon(number=number))
                steps += self._ended(run, Attempted(outcome=Outcome.TIMEOUT), now)
        if self._hedge_at <= now:
            steps += self._hedge(now)
        if self._repeat_at <= now:
            self._repeat_at = inf
            steps += self._round(now)
        return tuple(steps)

    def cancel(self, *, now: float) -> Steps:
        """The client has gone: end everything. Safe in a ``finally``, also when all is over."""
        self.is_over = True
        self._hedge_at = self._repeat_at = inf
        return tuple(self._abandon(run, now) for run in self._take(list(self._running)))

    # What follows from it

    def _round(self, now: float) -> Steps:
        """A first attempt of a round, and when it is to be hedged."""
        if self._deadline.has_passed(now=now):
            return self._finish(None, Outcome.TIMEOUT, GiveUp(why=Why.DEADLINE, sentence=Why.DEADLINE.value))
        made = self._start(now)
        if made is None:
            return self._finish(None, Outcome.REFUSED, NO_INSTANCE)
        self._race = None
        hedger = self._callee.hedger
        delay = hedger.delay(method=self._method, now=now) if hedger.is_on else None
        self._hedge_at = inf if delay is None else now + delay
        return (self._run(made, now=now, place=_FIRST),)

    def _hedge(self, now: float) -> Steps:
        self._hedge_at = inf
        if self._race is not None or self._deadline.has_passed(now=now) or not self._callee.hedger.take(now=now):
            return ()
        made = self._start(now)
        if made is None:
            return ()
        self._race = Race()
        self._race.start()
        return (self._run(made, now=now, place=self._race.start()),)

    def _start(self, now: float) -> Claim | None:
        return self._callee.start(now=now, rng=self._rng, method=self._method, key=self._key, tried=self._tried)

    def _run(self, made: Claim, *, now: float, place: int | None) -> Start:
        """Note an attempt; ``place``: its number in the race, None when it is a copy and takes no part."""
        self._number += 1
        self._tried.add(made.endpoint.id)
        timeout = self._rules.per_try_timeout
        if self._deadline.at != inf or not timeout:
            timeout = self._deadline.per_try(timeout, now=now)
        self._running[self._number] = _Running(self._number, made, due_at=now + timeout, place=place)
        return Start(
            number=self._number, endpoint=made.endpoint, timeout=timeout, is_hedge=bool(place), is_copy=place is None
        )

    def _ended(self, run: _Running, attempted: Attempted, now: float) -> Steps:
        self._callee.settle(run.made, attempted.outcome, now=now, reached=attempted.reached)
        if run.place is None or self.is_over:
            return ()
        if self._race is None:  # the usual case: a race of one
            if not attempted.outcome.is_success or self._rules.repeats_fine:
                return self._failed(run, attempted, now)
            self.is_over = True
            self._hedge_at = inf
            return (Finish(number=run.number, outcome=attempted.outcome),)
        step = self._race.settle(run.place, attempted.outcome)
        losers = [number for number, each in self._running.items() if each.place in step.cancel]
        steps: Steps = tuple(self._abandon(each, now) for each in self._take(losers))
        if step.winner is not None:
            return (*steps, *self._finish(run.number, attempted.outcome))
        return (*steps, *self._failed(run, attempted, now)) if step.is_over else steps

    def _failed(self, run: _Running, attempted: Attempted, now: float) -> Steps:
        """Nobody is left in the race, or its winner is to be looked at: repeat when everything allows it, else answer
        with what there is.
        """
        self._hedge_at = inf
        number = None if attempted.outcome is Outcome.TIMEOUT else run.number
        rules = self._rules
        if rules.retry is None:
            forbids = attempted.pushback is not None and attempted.pushback.forbids
            return self._finish(number, attempted.outcome, GiveUp(why=Why.FORBIDDEN) if forbids else None)
        decision = again(
            attempted, method=self._method, repeats=self._repeats, rules=rules.retry, deadline=self._deadline,
            budget=self._callee.budget, now=now, rng=self._rng, per_try_timeout=rules.per_try_timeout,
        )  # fmt: skip
        if isinstance(decision, GiveUp):
            return self._finish(number, attempted.outcome, None if decision.why is Why.FINE else decision)
        return self._repeat(decision, now)

    def _repeat(self, decision: Again, now: float) -> Steps:
        self._repeats += 1
        if decision.after > 0:
            self._repeat_at = now + decision.after
            return ()
        return self._round(now)

    def _finish(self, number: int | None, outcome: Outcome, why: GiveUp | str | None = None) -> Steps:
        self.is_over = True
        self._hedge_at = self._repeat_at = inf
        sentence = why.sentence if isinstance(why, GiveUp) else why or ""
        forbids = isinstance(why, GiveUp) and why.forbids_repeats
        return (Finish(number=number, outcome=outcome, why=sentence, forbids_repeats=forbids),)

    def _take(self, numbers: list[int]) -> list[_Running]:
        return [self._running.pop(number) for number in numbers]

    def _abandon(self, run: _Running, now: float) -> Abandon:
        self._callee.settle(run.made, Outcome.CANCELLED, now=now)
        return Abandon(number=run.number)
