"""One service as one caller knows it between calls: whom to try, what was learnt from it, and what may be repeated.

The order of the parts, each with its reason: the *budgets* count calls, so they stand before whatever makes attempts;
the *breaker* says who must not be picked and the *balancer* picks among the others, since a balancer that knew of
ejections would have to forget them in time, too; the *hedger* learns from all attempts, but never picks.
Invariant: every Claim that is handed out is settled exactly once, at all of the parts, in one place: ``settle``.
"""

from collections.abc import Set as AbstractSet
from dataclasses import field

from masche.model.calling import Traffic
from masche.model.frozen import frozen
from masche.model.view import Retry
from masche.traffic.balancer import Balancer, Claim
from masche.traffic.breaker import Breaker
from masche.traffic.budget import BudgetRules, RetryBudget
from masche.traffic.chance import Chance
from masche.traffic.ejection import EjectionRules, Event, SharedVerdict, Trial
from masche.traffic.hedging import Hedger, HedgeRules
from masche.traffic.membership import Membership, Rules, SlowStart
from masche.traffic.outcome import Outcome
from masche.traffic.retry import is_idempotent, repeats_fine

NOBODY: frozenset[str] = frozenset()


@frozen
class CallRules:
    """``timeout`` of a whole call and of one try in seconds, 0: none; ``retry`` None: nothing is repeated.

    ``repeats_fine``: also answers may be repeated that are thought good, so each has to be looked at.
    """

    timeout: float = 0.0
    per_try_timeout: float = 0.0
    retry: Retry | None = None
    repeats_fine: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "repeats_fine", self.retry is not None and repeats_fine(self.retry))


class Callee:
    """What a caller remembers of one service; ``call.Call`` is one call of it."""

    __slots__ = ("_events", "balancer", "breaker", "budget", "hedger", "rules")

    def __init__(
        self,
        balancer: Balancer,
        *,
        rules: CallRules | None = None,
        breaker: Breaker | None = None,
        budget: RetryBudget | None = None,
        hedger: Hedger | None = None,
        now: float = 0.0,
    ) -> None:
        self.balancer = balancer
        self.rules = CallRules() if rules is None else rules
        self.breaker = Breaker() if breaker is None else breaker
        self.budget = RetryBudget() if budget is None else budget
        self.hedger = Hedger(HedgeRules(max_extra_percent=0.0)) if hedger is None else hedger
        self._events: list[Event] = []
        self.members(balancer.membership, now=now)

    @classmethod
    def of(cls, membership: Membership, traffic: Traffic, retry: Retry | None, *, name: str, now: float) -> "Callee":
        """The callee that a TrafficPolicy and a route ask for, balanced by peak EWMA and two choices."""
        return cls(
            Balancer(membership, rules=Rules(slow_start=SlowStart(window=traffic.slow_start))),
            rules=CallRules(timeout=traffic.request_timeout, per_try_timeout=traffic.per_try_timeout, retry=retry),
            breaker=Breaker(EjectionRules.of(traffic.outlier), name=name),
            budget=RetryBudget(BudgetRules.of(traffic.budget)),
            hedger=Hedger(HedgeRules.of(traffic.hedging)),
            now=now,
        )

    def __repr__(self) -> str:
        return f"<Callee {self.breaker!r} {self.balancer!r} {self.budget!r} {self.hedger!r}>"

    def members(self, membership: Membership, *, now: float) -> None:
        """Take over who belongs to the service; what is known of those who stay is kept."""
        if membership is not self.balancer.membership:
            self.balancer.membership = membership
        self._events += self.breaker.members((each.id for each in membership.endpoints), now=now)

    def take_events(self) -> tuple[Event, ...]:
        """Who was ejected, tried or readmitted since this was asked last."""
        if not self._events:
            return ()
        events, self._events = tuple(self._events), []
        return events

    def verdicts(self, *, caller: str, now: float) -> tuple[SharedVerdict, ...]:
        """Whom this caller ejected on its own evidence: what it may tell others."""
        self.check(now=now)
        return self.breaker.verdicts(caller=caller, now=now)

    def hear(self, verdict: SharedVerdict, *, now: float) -> None:
        """Take note of another caller's verdict."""
        self._events += self.breaker.hear(verdict, now=now)

    def check(self, *, now: float) -> None:
        """Do what is due by time alone, whether or not calls are made."""
        if self.breaker.is_due(now=now):
            self._events += self.breaker.check(now=now)

    # What a call asks for

    def count(self, *, now: float) -> None:
        """Count a call: repeats and hedges are a share of the calls."""
        self.budget.call(now=now)
        if self.hedger.is_on:
            self.hedger.call(now=now)

    def start(
        self, *, now: float, rng: Chance, method: str, key: int | None = None, tried: AbstractSet[str] = NOBODY
    ) -> Claim | None:
        """Choose an instance and begin an attempt; None when there is nobody at all.

        Who was tried already comes last, before those who are shunned; these are called rather than nobody.
        """
        breaker, shunned = self.breaker, NOBODY
        if not breaker.is_calm(now=now):
            if breaker.is_due(now=now):
                self._events += breaker.check(now=now)
            risk = breaker.trial(can_copy=is_idempotent(method), now=now) if breaker.has_out else None
            if risk is not None and not risk.is_copy and risk.endpoint not in tried:
                made = self._at(risk, now=now)
                if made is not None:
                    return made
            shunned = breaker.shunned(now=now)
        claim = (
            self.balancer.claim(now=now, rng=rng, key=key, exclude=shunned.union(tried) if tried else shunned)
            or self.balancer.claim(now=now, rng=rng, key=key, exclude=shunned)
            or self.balancer.claim(now=now, rng=rng, key=key)
        )
        if claim is not None:
            breaker.begin(claim, claim.endpoint.id, now=now)
        return claim

    def copy(self, *, now: float, method: str, tried: AbstractSet[str] = NOBODY) -> Claim | None:
        """Begin a copy of a call at an instance that is out, when that is due: nobody waits for its answer."""
        if not self.breaker.has_out or not is_idempotent(method):
            return None
        trial = self.breaker.trial(can_copy=True, now=now)
        if trial is None or not trial.is_copy or trial.endpoint in tried:
            return None
        return self._at(trial, now=now)

    def settle(self, made: Claim, outcome: Outcome, *, now: float, reached: bool = True) -> None:
        """End an attempt. ``reached``: may an application have seen it? Only then it counts against the budget.

        Raises SettledTwiceError when it has ended before.
        """
        made.settle(outcome, now=now)
        if events := self.breaker.end(made, made.endpoint.id, outcome, now=now, is_trial=made.is_trial):
            self._events += events
        if made.is_copy:
            return
        if reached:
            self.budget.settle(outcome, now=now)
        if self.hedger.is_on:
            self.hedger.settle(outcome, now - made.started_at, now=now)

    def _at(self, trial: Trial, *, now: float) -> Claim | None:
        """Begin a trial; None when its instance may not be called for another reason (its health check, it leaves)."""
        claim = self.balancer.claim_of(trial.endpoint, now=now)
        if claim is not None:
            claim.is_trial, claim.is_copy = True, trial.is_copy
            self.breaker.begin(claim, trial.endpoint, now=now, trial=trial)
        return claim
