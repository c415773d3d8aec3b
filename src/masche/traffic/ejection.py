"""The words of cutting off: the states of an instance, why it changes state, the rules, and what is told about it.

Values only; ``breaker`` decides. States are named after the traffic: ADMITTED -> EJECTED -> PROBING -> ADMITTED.
"""

from enum import Enum, unique

from masche.model.calling import OutlierEjection
from masche.model.frozen import frozen


@unique
class State(Enum):
    """What becomes of calls to an instance."""

    ADMITTED = "admitted"
    """It is called. (It is held, without leaving this state, while one of its calls is overdue.)"""
    EJECTED = "ejected"
    """It gets no call until its time is served, but copies of calls show whether it has recovered."""
    PROBING = "probing"
    """It gets one trial at a time; enough good ones readmit it, a bad one ejects it for longer."""


@unique
class Cause(Enum):
    """Why the state changed."""

    FAILURES = "failures in a row"
    ERROR_RATE = "error rate"
    SLOW = "slower than the others"
    STALLED = "calls outstanding for too long"
    HEARD = "other callers ejected it"
    TRIAL = "a trial"
    SERVED = "its time is served"
    ROOM = "the allowed share of ejected instances"
    EXPIRED = "what other callers said has expired"


@frozen
class EjectionRules:
    """When an instance is cut off and let back. Durations in seconds, shares in percent, counts in calls.

    ``failures``: so many in a row eject; ``failures_alone``: so few do when the others had none lately. 0 switches
    each off. ``error_percent`` of at least ``min_volume`` calls in ``window`` eject, too. An instance is slow when its
    median (of ``min_volume`` calls) or its p95 (of five times as many) exceeds ``slow_ratio`` times the others' and
    lies ``slow_difference`` and six deviations (MAD) above it; it is stalled with ``stalled_calls`` calls out for over
    ``stalled_ratio`` times the others' p99.
    A single call out longer than the others' p99 (and ``hold_difference`` more than their p50) holds it. With
    ``slow_ratio`` 0 nothing is judged by latency.
    """

    failures: int = 5
    failures_alone: int = 3
    error_percent: float = 50.0
    min_volume: int = 20
    window: float = 5.0
    slow_ratio: float = 3.0
    slow_difference: float = 0.050
    stalled_calls: int = 3
    stalled_ratio: float = 2.0
    hold_difference: float = 0.005
    max_hold: float = 1.0
    base_ejection: float = 1.0
    max_ejection: float = 30.0
    memory: float = 60.0
    max_ejected_percent: float = 50.0
    max_heard_percent: float = 25.0
    max_verdict: float = 10.0
    good_trials: int = 2
    trial_interval: float = 0.25
    max_copy_percent: float = 10.0
    copy_patience: float = 1.0
    interval: float = 0.25

    @classmethod
    def of(cls, outlier: OutlierEjection) -> "EjectionRules":
        """The rules that a TrafficPolicy asks for; 0 switches a reason off there, too."""
        usual = cls()
        return cls(
            failures=outlier.consecutive_errors,
            failures_alone=min(usual.failures_alone, outlier.consecutive_errors),
            error_percent=outlier.error_percent,
            slow_ratio=outlier.latency_factor,
            base_ejection=outlier.base_ejection,
            max_ejection=max(outlier.base_ejection, usual.max_ejection),
            max_ejected_percent=outlier.max_ejected_percent,
        )

    def allowed(self, members: int) -> int:
        """How many of so many instances may be out at once: the share, rounded down, and never all."""
        return max(0, min(members - 1, int(members * self.max_ejected_percent / 100)))

    def allowed_heard(self, members: int) -> int:
        """How many may be out on the word of others alone: a smaller share, but one where any may be."""
        return min(self.allowed(members), max(1, int(members * self.max_heard_percent / 100)))

    def ejection(self, repeats: int) -> float:
        """How long the ``repeats``-th ejection (1 is the first) lasts: doubled each time, up to the maximum."""
        return min(self.max_ejection, self.base_ejection * 2.0 ** min(repeats - 1, 32))


@frozen
class Event:
    """An instance changed its state at ``at``; ``until`` (monotonic) when EJECTED, else 0. ``sentence`` says why."""

    endpoint: str
    state: State
    cause: Cause
    sentence: str
    at: float
    until: float = 0.0

    def __str__(self) -> str:
        until = f" until {self.until:.1f}" if self.until else ""
        return f"{self.endpoint} {self.state.name}{until}: {self.sentence}"


@frozen
class SharedVerdict:
    """``caller`` has ejected ``endpoint`` on its own evidence and offers that to others for ``lifetime`` seconds; or,
    with ``faults`` above 0, it has not, but saw its last calls fail, so many in a row.
    """

    endpoint: str
    caller: str
    sentence: str
    lifetime: float
    faults: int = 0


@frozen
class Trial:
    """Try ``endpoint``: with a copy of a call whose own answer comes from elsewhere, or with the call itself."""

    endpoint: str
    is_copy: bool
