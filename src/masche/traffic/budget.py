"""How much may be repeated towards one callee: a share of the calls, a minimum, and nothing while most calls fail.

One RetryBudget is shared by all calls of a caller to a callee. A repeat takes a token. The tokens are those of Finagle
(``RetryBudget``: "20% of requests to be retried on top of a minimum of 10 retries per second ... credits expire after
10 seconds"), which linkerd and tower share: over any ``ttl`` seconds, repeats <= ratio * calls + minimum * ttl.
Such a bucket alone would still repeat two seconds' worth of calls into an outage, so it also has the throttle of
gRFC A6: "preventing server overload due to retries": every failed attempt adds to a deficit, every success takes
``ratio / (1 - ratio)`` off, and from half of its capacity on nothing is repeated. So a fault of a few instances is
repaired, and an outage of all costs an eighth of a second's worth of repeats, or fifteen where that is less.
Who makes few calls at all (``few``) cannot storm anybody, and is repeated more of them before it is taken for an
outage: a person who tries a route out, or a test, sees what was written.
"""

from math import inf

from masche.model.calling import RetryBudget as Budget
from masche.model.frozen import frozen
from masche.traffic.outcome import Outcome
from masche.traffic.window import Sum


@frozen
class BudgetRules:
    """``ratio``: repeats per call (0.2 is 20 %). ``ttl``: seconds for which a call counts. ``min_per_second``: repeats
    that are there without any call. ``tolerance``: seconds of failing calls that close the throttle, or half of
    ``min_capacity`` failures where that is more: some that fail together are repeated, as proxies repeat them.
    ``few_capacity`` takes its place for a caller of less than ``few`` calls within ``ttl``.
    """

    ratio: float = 0.2
    ttl: float = 10.0
    min_per_second: float = 3.0
    tolerance: float = 0.125
    min_capacity: float = 30.0
    few: float = 150.0
    few_capacity: float = 160.0

    def __post_init__(self) -> None:
        if not (self.ratio >= 0 and self.ttl > 0 and self.min_per_second >= 0):
            raise ValueError("a budget needs ratio >= 0, ttl > 0 and min_per_second >= 0")

    @classmethod
    def of(cls, budget: Budget) -> "BudgetRules":
        """The rules that a TrafficPolicy asks for; a repeat that may always be active counts as one a second."""
        return cls(ratio=budget.percent / 100, min_per_second=float(budget.min_concurrent))

    @property
    def relief(self) -> float:
        """How many failures one success makes good: with the share ``ratio`` failing, the deficit stands still."""
        return self.ratio / (1.0 - self.ratio) if self.ratio < 1 else inf


class Allowance:
    """A share of what was earned lately, plus a minimum: what may be taken now. Both expire after ``ttl`` seconds."""

    __slots__ = ("_earned", "_ratio", "_reserve", "_taken")

    def __init__(self, *, ratio: float, ttl: float, min_per_second: float = 0.0) -> None:
        self._ratio = ratio
        self._reserve = min_per_second * ttl
        self._earned = Sum(ttl)
        self._taken = Sum(ttl)

    def __repr__(self) -> str:
        return f"<Allowance {self._ratio:.0%} and {self._reserve:g}: {self._earned} earned, {self._taken} taken>"

    def earn(self, calls: int = 1, *, now: float) -> None:
        """Count so many calls."""
        self._earned.add(calls, now=now)

    def earned(self, *, now: float) -> float:
        """How many calls count now."""
        return self._earned.total(now=now)

    def balance(self, *, now: float) -> float:
        """How much may be taken now, never negative."""
        room = self._ratio * self._earned.total(now=now) + self._reserve - self._taken.total(now=now)
        return max(0.0, room)

    def take(self, *, now: float) -> bool:
        """Take one if there is one."""
        if self.balance(now=now) < 1.0 - 1e-9:
            return False
        self._taken.add(1.0, now=now)
        return True


class RetryBudget:
    """The repeats of one caller to one callee: ``call`` each first try, ``settle`` each attempt, ``take`` to repeat."""

    __slots__ = ("_deficit", "_settled_at", "_tokens", "rules")

    def __init__(self, rules: BudgetRules | None = None) -> None:
        self.rules = rules or BudgetRules()
        self._tokens = Allowance(ratio=self.rules.ratio, ttl=self.rules.ttl, min_per_second=self.rules.min_per_second)
        self._deficit = 0.0
        self._settled_at = 0.0

    def __repr__(self) -> str:
        return f"<RetryBudget {self._tokens!r}, {self._deficit:.3g} failures to make good>"

    def call(self, *, now: float) -> None:
        """Count a first try."""
        self._tokens.earn(now=now)

    def settle(self, outcome: Outcome, *, now: float) -> None:
        """Count how an attempt, first or repeated, was answered. Attempts that never reached anybody are not for here:
        they "do not count as failures when deciding whether to throttle retry attempts" (gRFC A6).
        """
        if outcome.is_success and not self._deficit:
            return  # the usual case: nothing is to be made good
        deficit = self._deficit_at(now)
        if outcome.is_fault:
            deficit = min(deficit + 1.0, self._capacity(now))
        elif outcome.is_success:
            deficit = max(0.0, deficit - self.rules.relief)
        self._deficit, self._settled_at = deficit, now

    def is_throttled(self, *, now: float) -> bool:
        """Do so many calls fail that repeating them would only add to it?"""
        return self._deficit_at(now) >= self._capacity(now) / 2

    def balance(self, *, now: float) -> int:
        """How many calls may be repeated now."""
        return 0 if self.is_throttled(now=now) else int(self._tokens.balance(now=now) + 1e-9)

    def take(self, *, now: float) -> bool:
        """Take the token of one repeat, if there is one and the callee is not failing as a whole."""
        return not self.is_throttled(now=now) and self._tokens.take(now=now)

    def why_not(self, *, now: float) -> str:
        """Why nothing may be repeated, for people; empty when something may."""
        if self.is_throttled(now=now):
            return f"too many calls fail to repeat them ({self._deficit_at(now):.0f} more than successes make good)"
        if self._tokens.balance(now=now) < 1.0 - 1e-9:
            return f"the budget is spent ({self.rules.ratio:.0%} of calls and {self.rules.min_per_second:g} a second)"
        return ""

    def _capacity(self, now: float) -> float:
        """The deficit at which counting stops: twice the calls of ``tolerance`` seconds."""
        rules, calls = self.rules, self._tokens.earned(now=now)
        least = rules.few_capacity if calls < rules.few else rules.min_capacity
        return max(least, 2 * rules.tolerance * calls / rules.ttl)

    def _deficit_at(self, now: float) -> float:
        """What is left of the deficit: time makes good, too, lest a caller of few calls be throttled for long."""
        if not self._deficit:
            return 0.0
        return max(0.0, self._deficit - self._capacity(now) * (now - self._settled_at) / self.rules.ttl)
