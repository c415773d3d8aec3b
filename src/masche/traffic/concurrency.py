"""How many calls may be under way at once, learnt from latency: more while it stays low, fewer when calls queue.

The gradient of Netflix's concurrency-limits (``Gradient2Limit``) and of Envoy's adaptive concurrency filter ("gradient
controller"): every window of samples, gradient = (min RTT + buffer) / sample RTT, held within 0.5 and 2 as Envoy does;
new limit = gradient * limit + headroom, the headroom being the square root of the limit. As in Gradient2 the limit is
smoothed, and does not grow while less than half of it is used. Calls beyond it are shed: settle them as REFUSED.

The min RTT is the RTT of a window in which no more than ``min_limit`` calls were under way. If none came by itself for
``remeasure_every`` seconds (with jitter, so that callers do not do it together) the limit is lowered for one window, as
Envoy does; also after five windows at the lowest limit, which mean that the min RTT is not true any more.
Invariant: min_limit <= limit <= max_limit, and however low it fell, it rises again once calls are answered as before.
"""

from math import sqrt

from masche.model.calling import AdaptiveConcurrency
from masche.model.frozen import frozen
from masche.traffic.chance import Chance
from masche.traffic.outcome import Outcome
from masche.traffic.window import Sketch

_LOWEST_GRADIENT = 0.5
_HIGHEST_GRADIENT = 2.0
_FALLS_TO = 4.5
"""Where the limit ends with the lowest gradient: 0.5 * 4 + sqrt(4) is 4 again."""
_DESPERATE = 5


@frozen
class ConcurrencyRules:
    """Limits in calls, durations in seconds. ``buffer``: how much slower than the min RTT is still not queueing.

    ``base_latency``, if it is not 0, is the min RTT, which is then never measured.
    """

    min_limit: int = 3
    max_limit: int = 1000
    initial_limit: int = 20
    window: float = 0.1
    min_samples: int = 10
    quantile: float = 0.5
    buffer: float = 0.25
    smoothing: float = 0.5
    remeasure_every: float = 60.0
    remeasure_for: float = 0.5
    base_latency: float = 0.0

    @classmethod
    def of(cls, adaptive: AdaptiveConcurrency) -> "ConcurrencyRules":
        """The rules that a TrafficPolicy asks for."""
        usual = cls()
        most = adaptive.max_concurrency
        return cls(
            min_limit=min(usual.min_limit, most),
            initial_limit=min(usual.initial_limit, most),
            max_limit=most,
            base_latency=adaptive.base_latency,
        )

    def __post_init__(self) -> None:
        if not 1 <= self.min_limit <= self.initial_limit <= self.max_limit:
            raise ValueError("concurrency needs 1 <= min_limit <= initial_limit <= max_limit")


class Slot:
    """The right to one call under way. Settle it in a ``finally``."""

    __slots__ = ("is_settled", "started_at")

    def __init__(self, *, now: float) -> None:
        self.started_at = now
        self.is_settled = False


class Concurrency:
    """The limit of one caller towards one callee, or of a server towards all."""

    __slots__ = (
        "_at_lowest",
        "_busiest",
        "_estimate",
        "_measuring_until",
        "_min_rtt",
        "_remeasure_at",
        "_samples",
        "_since",
        "rules",
        "under_way",
    )

    def __init__(self, rules: ConcurrencyRules | None = None) -> None:
        self.rules = rules or ConcurrencyRules()
        self.under_way = 0
        self._estimate = float(self.rules.initial_limit)
        self._samples = Sketch(1e9)
        self._since: float | None = None
        self._busiest = 0
        self._min_rtt = self.rules.base_latency
        self._remeasure_at = 0.0
        self._measuring_until = 0.0
        self._at_lowest = 0

    def __repr__(self) -> str:
        measuring = ", measuring the min RTT" if self._measuring_until else ""
        rtt = f"{self.min_rtt * 1e3:.3g} ms" if self.min_rtt else "unknown"
        return f"<Concurrency {self.under_way} of {self.limit}, min RTT {rtt}{measuring}>"

    @property
    def limit(self) -> int:
        """How many may be under way at once."""
        return self.rules.min_limit if self._measuring_until else int(self._estimate)

    @property
    def min_rtt(self) -> float:
        """What a call takes when nothing queues, in seconds; 0 until it was measured."""
        return self._min_rtt

    def has_room(self) -> bool:
        """May one more call begin?"""
        return self.under_way < self.limit

    def start(self, *, now: float) -> Slot | None:
        """Begin a call; None means: shed it with REFUSED."""
        if not self.has_room():
            return None
        if self._since is None:
            self._since = now
        self.under_way += 1
        self._busiest = max(self._busiest, self.under_way)
        return Slot(now=now)

    def settle(self, slot: Slot, outcome: Outcome, *, now: float, rng: Chance) -> None:
        """End a call; only the first time counts. What failed fast or was given up tells nothing of the latency."""
        if slot.is_settled:
            return
        slot.is_settled = True
        self.under_way -= 1
        if outcome is Outcome.SUCCESS or outcome is Outcome.TIMEOUT:
            self._samples.record(now - slot.started_at, now=now)
        self._turn(now, rng)

    def _turn(self, now: float, rng: Chance) -> None:
        """Close the window when it is full."""
        if self._since is None or now - self._since < self.rules.window:
            return
        if self._samples.count < self.rules.min_samples and not self._is_measured(now):
            return
        if self._samples.count:
            self._learn(self._samples.quantile(self.rules.quantile), now, rng)
        self._samples.clear()
        self._since = now
        self._busiest = self.under_way

    def _is_measured(self, now: float) -> bool:
        """Has the limit been lowered for as long as may be, with whatever samples there were?"""
        return 0 < self._measuring_until <= now

    def _learn(self, rtt: float, now: float, rng: Chance) -> None:
        if self.rules.base_latency:
            self._adjust(rtt)
            return
        is_quiet = self._busiest <= self.rules.min_limit
        if is_quiet or not self._min_rtt or self._is_measured(now):
            self._min_rtt = rtt
            self._measuring_until = 0.0
            self._at_lowest = 0
            self._remeasure_at = now + self.rules.remeasure_every * (0.9 + 0.2 * rng.random())
        if self._measuring_until:
            return
        self._adjust(rtt)
        if now >= self._remeasure_at or self._at_lowest >= _DESPERATE:
            self._measuring_until = now + self.rules.remeasure_for

    def _adjust(self, rtt: float) -> None:
        gradient = self._min_rtt * (1.0 + self.rules.buffer) / max(rtt, 1e-9)
        gradient = max(_LOWEST_GRADIENT, min(_HIGHEST_GRADIENT, gradient))
        wanted = gradient * self._estimate + sqrt(self._estimate)
        if wanted > self._estimate and self._busiest < self._estimate / 2:
            return
        smoothed = self._estimate + self.rules.smoothing * (wanted - self._estimate)
        self._estimate = max(float(self.rules.min_limit), min(float(self.rules.max_limit), smoothed))
        self._at_lowest = self._at_lowest + 1 if self._estimate <= max(self.rules.min_limit, _FALLS_TO) else 0
