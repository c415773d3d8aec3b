"""How one instance stands with one caller: its state, and the evidence of its calls, answered and still under way.

Evidence only; whether it is enough, and whether there is room to eject, ``breaker`` decides. Invariant: an attempt is
in ``waiting`` until it settles or is overtaken, that is, until a call which started later was answered in time: then
it is a long call of a live instance and no longer speaks against it.
"""

from math import inf

from masche.traffic.ejection import Cause, EjectionRules, State
from masche.traffic.load import Ticket
from masche.traffic.outcome import Outcome
from masche.traffic.outlier import NO_LIMITS, NOTHING, Limits, Measured
from masche.traffic.window import Sketch, Sum

_MOST_SUSPICIONS = 32
"""So many callers' suspicions of one instance are kept; fewer add up to what ejects."""


class Attempt:
    """One call under way at one instance. Settle it in a ``finally``; a trial decides about readmission."""

    __slots__ = ("endpoint", "is_copy", "is_settled", "is_trial", "started_at")

    def __init__(self, endpoint: str, *, now: float, is_trial: bool, is_copy: bool) -> None:
        self.endpoint = endpoint
        self.started_at = now
        self.is_trial = is_trial
        self.is_copy = is_copy
        self.is_settled = False

    def __repr__(self) -> str:
        kind = "copy" if self.is_copy else "trial" if self.is_trial else "call"
        return (
            f"<Attempt {kind} at {self.endpoint} since {self.started_at:.3f}{', settled' if self.is_settled else ''}>"
        )


class Standing:
    """One instance, as one caller sees it."""

    __slots__ = (
        "_abandoned",
        "_calls",
        "_faults",
        "_rules",
        "_sketch",
        "_suspected",
        "cause",
        "copied_at",
        "deaf_until",
        "good_trials",
        "heard",
        "in_row",
        "last",
        "limits",
        "name",
        "readmitted_at",
        "refusing_since",
        "repeats",
        "sentence",
        "state",
        "trial",
        "trial_after",
        "trial_at",
        "until",
        "waiting",
    )

    def __init__(self, name: str, rules: EjectionRules) -> None:
        self.name = name
        self._rules = rules
        self.state = State.ADMITTED
        self.cause = Cause.TRIAL
        self.sentence = ""
        self.until = 0.0
        self.repeats = 0
        self.readmitted_at = -inf
        self.in_row = 0
        self.refusing_since = -inf
        self.limits: Limits = NO_LIMITS
        self.last: Measured = NOTHING
        self.waiting: dict[Ticket, None] = {}
        self._abandoned = 0
        self._sketch = Sketch(rules.window)
        self._suspected: dict[str, tuple[int, float]] = {}
        self._calls = Sum(rules.window)
        self._faults = Sum(rules.window)
        self.trial: Ticket | None = None
        self.trial_at = 0.0
        self.trial_after = 0
        self.copied_at = -inf
        self.good_trials = 0
        self.heard: dict[str, float] = {}
        self.deaf_until = -inf

    def __repr__(self) -> str:
        until = f" until {self.until:.1f}" if self.state is State.EJECTED else ""
        why = f" ({self.sentence})" if self.state is not State.ADMITTED else ""
        return f"<{self.name} {self.state.name}{until}{why}, {len(self.waiting)} waiting>"

    def settle(self, attempt: Ticket, outcome: Outcome, *, now: float) -> None:
        """Count how a call ended, unless it began before the last ejection ended: it tells nothing of what is now.

        Nor does a cancelled one, unless it was overdue: a hedge that lost to another instance, for instance.
        """
        if attempt.started_at < self.readmitted_at:
            return
        latency = now - attempt.started_at
        was_waiting = self.waiting.pop(attempt, attempt) is None
        if outcome.is_cancelled:
            self._abandoned += was_waiting and latency > self.limits.overdue
            return
        self._calls.add(1.0, now=now)
        if outcome.is_fault:
            self._faults.add(1.0, now=now)
            if outcome is not Outcome.REFUSED:
                self.refusing_since = -inf
            elif not self.in_row:
                self.refusing_since = now
            self.in_row += 1
        else:
            self.in_row = 0
            if self._suspected:
                self._suspected.clear()
        if outcome.is_success or outcome is Outcome.TIMEOUT:
            self._sketch.record(latency, now=now)
        if outcome.is_success and latency <= self.limits.overdue:
            self._abandoned = 0
            if self.waiting:
                self._overtake(attempt.started_at)

    def suspect(self, caller: str, faults: int, *, until: float) -> None:
        """Note how many failures in a row another caller saw; a good answer here makes that void."""
        if len(self._suspected) < _MOST_SUSPICIONS or caller in self._suspected:
            self._suspected[caller] = (faults, until)

    def suspected(self, *, now: float) -> int:
        """How many failures other callers saw, each in a row, since the last good answer here."""
        self._suspected = {caller: each for caller, each in self._suspected.items() if each[1] > now}
        return sum(faults for faults, _ in self._suspected.values())

    def oldest(self) -> float:
        """When the oldest call that still speaks started; infinite without any."""
        for attempt in self.waiting:
            return attempt.started_at
        return inf

    def stalled(self, *, now: float) -> int:
        """How many calls are, or were when they were given up, out for too long: counted up to what ejects."""
        count = self._abandoned
        for attempt in self.waiting:
            if count >= self._rules.stalled_calls or now - attempt.started_at < self.limits.stalled:
                break
            count += 1
        return count

    def measured(self, *, now: float) -> Measured:
        """What its answered calls took lately; nothing but their number while that is too small to say more."""
        self._sketch.slide(now=now)
        count = self._sketch.count
        if count < self._rules.min_volume:
            return Measured(count=count, p50=0.0, p95=0.0, p99=0.0)
        p50, p95, p99 = self._sketch.quantiles(0.5, 0.95, 0.99)
        return Measured(count=count, p50=p50, p95=p95, p99=p99)

    def calls(self, *, now: float) -> float:
        """How many calls ended lately."""
        return self._calls.total(now=now)

    def faults(self, *, now: float) -> float:
        """How many of them were its fault."""
        return self._faults.total(now=now)

    def forget(self) -> None:
        """Begin anew, as after readmission: what led to an ejection must not lead to the next one."""
        self.in_row = self._abandoned = self.good_trials = 0
        self._suspected.clear()
        self.last = NOTHING
        self.waiting.clear()
        self._sketch.clear()
        self._calls.clear()
        self._faults.clear()

    def _overtake(self, started_at: float) -> None:
        waiting = self.waiting
        while waiting and (oldest := next(iter(waiting))).started_at < started_at:
            del waiting[oldest]
