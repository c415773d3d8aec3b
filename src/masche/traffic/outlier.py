"""Who is slower than the others: each instance is compared with the median of all others, never with itself.

Robust on purpose: a median and the median absolute deviation (Hampel 1974; Iglewicz and Hoaglin 1993, "modified
z-score") are not moved by the outlier that they shall find, as a mean and a standard deviation are.
Invariant: with nobody to compare with, nobody is slow and no call is overdue.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from math import inf

from masche.model.frozen import frozen
from masche.traffic.ejection import EjectionRules

_NORMAL = 1.4826
"""Makes a MAD comparable to a standard deviation."""
_DEVIATIONS = 6.0
_ENOUGH = 5


@frozen
class Measured:
    """What one instance's answered calls took lately, in seconds."""

    count: int
    p50: float
    p95: float
    p99: float


@frozen
class Limits:
    """What the others make of one instance, in seconds: beyond ``overdue`` a call under way speaks against it, beyond
    ``stalled`` gravely; a median beyond ``slow_p50`` or a p95 beyond ``slow_p95`` makes it an outlier. ``p50``, ``p95``
    and ``p99`` are the medians of the others'.
    """

    overdue: float = inf
    stalled: float = inf
    slow_p50: float = inf
    slow_p95: float = inf
    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0


NO_LIMITS = Limits()
NOTHING = Measured(count=0, p50=0.0, p95=0.0, p99=0.0)


def limits(measured: Mapping[str, Measured], rules: EjectionRules, *, of: Iterable[str]) -> dict[str, Limits]:
    """Compare each instance named in ``of`` with all measured ones but itself; who was called too little is no peer."""
    peers = {name: each for name, each in measured.items() if each.count >= rules.min_volume}
    if not rules.slow_ratio or not peers:
        return dict.fromkeys(of, NO_LIMITS)
    p50s, p95s, p99s = (
        _Ordered(values) for values in zip(*((each.p50, each.p95, each.p99) for each in peers.values()), strict=True)
    )

    def without(own: Measured | None) -> Limits:
        p50 = p50s.median_without(own and own.p50)
        p95 = p95s.median_without(own and own.p95)
        p99 = p99s.median_without(own and own.p99)
        return Limits(
            overdue=max(p99, p50 + rules.hold_difference),
            stalled=max(rules.stalled_ratio * p99, p50 + rules.slow_difference),
            slow_p50=_outlying(p50, p50s.deviation, rules),
            slow_p95=_outlying(p95, p95s.deviation, rules),
            p50=p50,
            p95=p95,
            p99=p99,
        )

    stranger = without(None)
    alone = len(peers) == 1
    found = {name: peers.get(name) for name in of}
    return {name: stranger if own is None else NO_LIMITS if alone else without(own) for name, own in found.items()}


def outlier(measured: Measured, limits: Limits, rules: EjectionRules) -> str:
    """In what an instance is slower than the others, as a sentence; empty when it is not.

    A p95 is the word of one call in twenty, so it takes five times the calls of a median to judge by it. A median that
    the others' p95 reach, too, says nothing: when all get slower at once, their medians tip over one after the other.
    """
    if measured.count >= rules.min_volume and measured.p50 > max(limits.slow_p50, limits.p95):
        return _compared("median", measured.p50, limits.p50)
    if measured.count >= 5 * rules.min_volume and measured.p95 > limits.slow_p95:
        return _compared("p95", measured.p95, limits.p95)
    return ""


def milliseconds(seconds: float) -> str:
    """A duration for people."""
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _compared(what: str, own: float, others: float) -> str:
    return f"{what} {milliseconds(own)}, {own / others:.1f}x the median of the others ({milliseconds(others)})"


def _outlying(usual: float, deviation: float, rules: EjectionRules) -> float:
    return max(rules.slow_ratio * usual, usual + rules.slow_difference, usual + _DEVIATIONS * deviation)


class _Ordered:
    """The same quantile of all peers, in order."""

    __slots__ = ("_values", "deviation")

    def __init__(self, values: Iterable[float]) -> None:
        self._values = sorted(values)
        self.deviation = _deviation(self._values)

    def median_without(self, own: float | None) -> float:
        """The median of all but ``own``, without copying the list."""
        values = self._values
        if own is None:
            return _median(values)
        hole, rest = bisect_left(values, own), len(values) - 1
        low, high = (rest - 1) // 2, rest // 2
        return (values[low + (low >= hole)] + values[high + (high >= hole)]) / 2


def _deviation(ordered: Sequence[float]) -> float:
    """The median absolute deviation, scaled; 0 for so few values that one of them could be half of it."""
    if len(ordered) < _ENOUGH:
        return 0.0
    middle = _median(ordered)
    return _NORMAL * _median(sorted(abs(each - middle) for each in ordered))


def _median(ordered: Sequence[float]) -> float:
    """The median of values in order; ``statistics`` has one too, and loads fractions and decimals for it."""
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
