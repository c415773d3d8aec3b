"""When a call gets a second try before the first has answered, and which of the two is the answer.

"The tail at scale" (Dean and Barroso, CACM 2013): "defer sending a secondary request until the first request has been
outstanding for more than the 95th-percentile expected latency ... limits the additional load to approximately 5%".
Here the extra load has a hard limit besides (``max_extra_percent``), and the delay rises with the latency until usual
slowness uses half of that limit, so that the other half is there when an instance stalls.
Invariants: hedges <= max_extra_percent of the calls; only idempotent calls are hedged; the first good answer wins, and
whoever has not answered by then is cancelled, and settled as cancelled.
"""

from masche.model.calling import Hedging
from masche.model.frozen import frozen
from masche.traffic.budget import Allowance
from masche.traffic.outcome import Outcome
from masche.traffic.retry import is_idempotent
from masche.traffic.window import Sketch

_FAST = frozenset({Outcome.FAILURE, Outcome.REFUSED, Outcome.LIMITED})
"""Ends of attempts that say nothing of how long an answer takes."""


@frozen
class HedgeRules:
    """``quantile`` (0 to 1) of the observed latency is waited for, at least ``min_delay`` seconds; measured over
    ``window`` seconds and at least ``min_volume`` calls; or, if it is not 0, ``after`` seconds whatever was observed.
    """

    quantile: float = 0.95
    max_extra_percent: float = 2.0
    min_delay: float = 0.001
    min_volume: int = 20
    window: float = 10.0
    after: float = 0.0

    @classmethod
    def of(cls, hedging: Hedging) -> "HedgeRules":
        """The rules that a TrafficPolicy asks for; none of them hedges when it is not enabled."""
        return cls(after=hedging.after, max_extra_percent=hedging.max_percent if hedging.enabled else 0.0)

    def __post_init__(self) -> None:
        if not (0 < self.quantile < 1 and 0 <= self.max_extra_percent <= 100):
            raise ValueError("hedging needs a quantile between 0 and 1 and a share of 0 to 100 percent")

    @property
    def waits_for(self) -> float:
        """The quantile after which at most half of the extra load is used by calls that are merely a bit slow."""
        return max(self.quantile, 1.0 - self.max_extra_percent / 200.0)


class Hedger:
    """The hedges of one caller to one callee: ``call`` each first try, ``settle`` each attempt, ``take`` to hedge."""

    __slots__ = ("_allowance", "_delay", "_delay_until", "_sketch", "is_on", "rules")

    _REFRESH = 0.1

    def __init__(self, rules: HedgeRules | None = None) -> None:
        self.rules = rules or HedgeRules()
        self.is_on = self.rules.max_extra_percent > 0
        self._allowance = Allowance(ratio=self.rules.max_extra_percent / 100, ttl=self.rules.window)
        self._sketch = Sketch(self.rules.window)
        self._delay: float | None = None
        self._delay_until = float("-inf")

    def __repr__(self) -> str:
        after = "not yet" if self._delay is None else f"after {self._delay * 1e3:.3g} ms"
        return f"<Hedger {after}, {self._allowance!r}>"

    def call(self, *, now: float) -> None:
        """Count a first try."""
        if self.rules.max_extra_percent:
            self._allowance.earn(now=now)

    def settle(self, outcome: Outcome, latency: float, *, now: float) -> None:
        """Count how long an attempt took: answers, and what a cancelled or timed out one took at the least."""
        if self.rules.max_extra_percent and outcome not in _FAST:
            self._sketch.record(latency, now=now)

    def delay(self, *, method: str, now: float) -> float | None:
        """After how many seconds a second try is due; None when there should be none, or too little is known."""
        if not self.rules.max_extra_percent or not is_idempotent(method):
            return None
        if self.rules.after:
            return self.rules.after
        if now >= self._delay_until:
            self._measure(now)
        return self._delay

    def take(self, *, now: float) -> bool:
        """Take the right to one hedge, if the limit leaves one."""
        return self._allowance.take(now=now)

    def _measure(self, now: float) -> None:
        self._sketch.slide(now=now)
        self._delay_until = now + self._REFRESH
        enough = self._sketch.count >= self.rules.min_volume
        self._delay = max(self.rules.min_delay, self._sketch.quantile(self.rules.waits_for)) if enough else None


@frozen
class Step:
    """What an answer means to the race: who has won (None: nobody yet), whom to cancel, and whether all is over."""

    winner: int | None = None
    cancel: tuple[int, ...] = ()
    is_over: bool = False


class Race:
    """The tries of one call, numbered from 0. The first good answer wins; a bad one waits for those still running."""

    __slots__ = ("_running", "_tries", "winner")

    def __init__(self) -> None:
        self._running: set[int] = set()
        self._tries = 0
        self.winner: int | None = None

    def __repr__(self) -> str:
        return f"<Race of {self._tries}: {len(self._running)} running, winner {self.winner}>"

    @property
    def can_hedge(self) -> bool:
        """Is exactly the first try under way, and nothing decided?"""
        return self._tries == 1 and bool(self._running)

    def start(self) -> int:
        """Begin a try; returns its number. Raises RuntimeError when the race is decided."""
        if self.winner is not None:
            raise RuntimeError("the race is decided; no try may begin")
        number = self._tries
        self._tries += 1
        self._running.add(number)
        return number

    def settle(self, number: int, outcome: Outcome) -> Step:
        """A try has ended. What it returns in ``cancel`` must be cancelled, and is settled with that."""
        if number not in self._running:
            return Step(winner=self.winner, is_over=not self._running)
        self._running.discard(number)
        if not outcome.is_success:
            return Step(winner=None, is_over=not self._running)
        self.winner = number
        losers = tuple(sorted(self._running))
        self._running.clear()
        return Step(winner=number, cancel=losers, is_over=True)
