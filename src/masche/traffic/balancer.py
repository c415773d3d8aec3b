"""Which instance gets this call, and what was learnt from it: membership, metric and picker, and the calls under way.

Every claim is settled exactly once, also when it is cancelled; what is under way at an instance that has left is still
counted to its end.
"""

from collections.abc import Container

from masche.traffic.chance import Chance
from masche.traffic.load import Gauge, Metric
from masche.traffic.membership import Candidates, Endpoint, Health, Membership, Rules
from masche.traffic.orca import LoadReport
from masche.traffic.outcome import Outcome
from masche.traffic.peak_ewma import PeakEwma
from masche.traffic.pickers.picker import NOBODY, Picker, Ready
from masche.traffic.pickers.told import Told
from masche.traffic.pickers.two_choices import TwoChoices


class SettledTwiceError(RuntimeError):
    """A claim was settled a second time: a mistake of the program, not of an instance."""


class Claim:
    """One attempt at one endpoint, from now to its end. Settle it in a ``finally``; one that a Callee gave, by that.

    The breaker keeps the same object: ``is_trial`` and ``is_copy`` are what it was begun as there. One object for all
    who keep an attempt saves a call the making of two others.
    """

    __slots__ = ("_gauge", "endpoint", "is_copy", "is_panicking", "is_settled", "is_trial", "started_at")

    def __init__(self, endpoint: Endpoint, gauge: Gauge, *, now: float, is_panicking: bool) -> None:
        self.endpoint = endpoint
        self.started_at = now
        self.is_panicking = is_panicking
        self.is_settled = self.is_trial = self.is_copy = False
        self._gauge = gauge
        gauge.start(self, now=now)

    def __repr__(self) -> str:
        state = "settled" if self.is_settled else "under way"
        return f"<Claim {self.endpoint.id} {state} since {self.started_at:.3f}{', panic' if self.is_panicking else ''}>"

    def settle(self, outcome: Outcome, *, now: float, latency: float | None = None) -> None:
        """End it. ``latency`` in seconds, 0 or more; by default all the time since the start.

        Raises SettledTwiceError when it has ended before.
        """
        if self.is_settled:
            raise SettledTwiceError(f"{self!r} was settled before; it cannot become {outcome.name} now")
        self.is_settled = True
        self._gauge.settle(outcome, now - self.started_at if latency is None else latency, now=now)

    def cancel(self, *, now: float) -> None:
        """End it without an outcome, unless it has one: safe to call in a ``finally``."""
        if not self.is_settled:
            self.settle(Outcome.CANCELLED, now=now)


class Balancer:
    """The balancer of one caller for one service. By default: two choices by peak EWMA."""

    __slots__ = (
        "_candidates",
        "_gauges",
        "_membership",
        "_metric",
        "_picker",
        "_ready",
        "_rules",
        "_told",
        "_valid_until",
    )

    def __init__(
        self,
        membership: Membership,
        *,
        metric: Metric | None = None,
        picker: Picker | None = None,
        rules: Rules | None = None,
    ) -> None:
        self._metric: Metric = PeakEwma() if metric is None else metric
        self._picker: Picker = TwoChoices() if picker is None else picker
        self._told = picker if isinstance(picker, Told) else None
        self._rules = Rules() if rules is None else rules
        self._gauges: dict[str, Gauge] = {}
        self._candidates = Candidates(endpoints=(), shares=(), is_panicking=False, valid_until=0.0)
        self._ready = Ready((), (), ())
        self.membership = membership

    def __repr__(self) -> str:
        endpoints = self._membership.endpoints
        admitted = sum(each.health is Health.ADMITTED for each in endpoints)
        calls = sum(gauge.outstanding for gauge in self._gauges.values())
        panic = ", PANIC: too few are available, so all are called" if self._candidates.is_panicking else ""
        return f"<Balancer {self._picker!r}: {admitted} admitted of {len(endpoints)}, {calls} calls under way{panic}>"

    @property
    def membership(self) -> Membership:
        """Who there is. Setting it keeps what is known of those who stay."""
        return self._membership

    @membership.setter
    def membership(self, membership: Membership) -> None:
        self._membership = membership
        ids = {endpoint.id for endpoint in membership.endpoints}
        for gone in self._gauges.keys() - ids:
            self._metric.leave(self._gauges.pop(gone))
        for endpoint in membership.endpoints:
            if endpoint.id not in self._gauges:
                self._gauges[endpoint.id] = self._metric.join()
        self._valid_until = float("-inf")

    @property
    def is_panicking(self) -> bool:
        """As of the last claim: are so few available that everyone is called?"""
        return self._candidates.is_panicking

    def gauge(self, id: str) -> Gauge:  # noqa: A002 - the id of an endpoint is called id
        """Return what is known of the load of one endpoint; raises KeyError when there is no such endpoint."""
        return self._gauges[id]

    def candidates(self, *, now: float) -> Candidates:
        """Return who may be called ``now``, and with which shares."""
        if now >= self._valid_until:
            found = self._membership.candidates(self._rules, now=now)
            self._candidates, self._valid_until = found, found.valid_until
            self._ready = Ready(found.endpoints, found.shares, [self._gauges[each.id] for each in found.endpoints])
        return self._candidates

    def claim(
        self, *, now: float, rng: Chance, key: int | None = None, exclude: Container[str] = NOBODY
    ) -> Claim | None:
        """Choose an endpoint that is not in ``exclude`` (ids tried already) and count the call as started; None when
        nobody is left. ``key``: see ``Picker.pick``.
        """
        found = self._candidates if now < self._valid_until else self.candidates(now=now)
        endpoint = self._picker.pick(self._ready, now=now, rng=rng, key=key, exclude=exclude)
        if endpoint is None:
            return None
        return Claim(endpoint, self._gauges[endpoint.id], now=now, is_panicking=found.is_panicking)

    def told(self, id: str, report: LoadReport, *, now: float) -> None:  # noqa: A002 - the id of an endpoint is called id
        """Take note of what an instance says of its load, if the picker goes by that."""
        if self._told is not None:
            self._told.told(id, report, now=now)

    def claim_of(self, id: str, *, now: float) -> Claim | None:  # noqa: A002 - the id of an endpoint is called id
        """Count a call to this endpoint, which somebody else chose, as started; None when it may not be called now."""
        found = self.candidates(now=now)
        endpoint = next((each for each in found.endpoints if each.id == id), None)
        return endpoint and Claim(endpoint, self._gauges[id], now=now, is_panicking=found.is_panicking)
