"""Who is slower than the others: each instance is compared with the median of all others, never with itself.

Robust on purpose: a median and the median absolute deviation (Hampel 1974; Iglewicz and Hoaglin 1993, "modified
z-score") are not moved by the outlier that they shall find, as a mean and a standard deviation are.
Invariant: with nobody to compare with, nobody is slow and no call is overdue.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median

from masche.traffic.ejection import EjectionRules

_NORMAL = 1.4826
"""Makes a MAD comparable to a standard deviation."""
_DEVIATIONS = 6.0
_ENOUGH = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one instance's answered calls took lately, in seconds."""

    count: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the others make of one instance, in seconds: beyond ``overdue`` a call under way speaks against it, beyond
    ``stalled`` gravely; a p95 beyond ``slow`` makes it an outlier. ``p95`` and ``p99`` are the others' medians.
    """

    overdue: float = inf
    stalled: float = inf
    slow: float = inf
    p95: float = 0.0
    p99: float = 0.0


NO_LIMITS = Limits()


def limits(measured: Mapping[str, Measured], rules: EjectionRules, *, of: Iterable[str]) -> dict[str, Limits]:
    """Compare each instance named in ``of`` with all measured ones but itself; who was called too little is no peer."""
    if not rules.slow_ratio:
        return dict.fromkeys(of, NO_LIMITS)
    peers = {name: each for name, each in measured.items() if each.count >= rules.min_volume}
    p50s = sorted(each.p50 for each in peers.values())
    p95s = sorted(each.p95 for each in peers.values())
    p99s = sorted(each.p99 for each in peers.values())
    spread = _deviation(p95s)
    found: dict[str, Limits] = {}
    for name in of:
        own = peers.get(name)
        if len(peers) - (own is not None) < 1:
            found[name] = NO_LIMITS
            continue
        found[name] = _limits(
            p50=_median_without(p50s, own and own.p50),
            p95=_median_without(p95s, own and own.p95),
            p99=_median_without(p99s, own and own.p99),
            spread=spread,
            rules=rules,
        )
    return found


def _limits(*, p50: float, p95: float, p99: float, spread: float, rules: EjectionRules) -> Limits:
    return Limits(
        overdue=max(p99, p50 + rules.hold_difference),
        stalled=max(rules.stalled_ratio * p99, p50 + rules.slow_difference),
        slow=max(rules.slow_ratio * p95, p95 + rules.slow_difference, p95 + _DEVIATIONS * spread),
        p95=p95,
        p99=p99,
    )


def _median_without(ordered: Sequence[float], own: float | None) -> float:
    """The median of an ordered list without one of its values, without copying it."""
    if own is None:
        return median(ordered)
    hole = bisect_left(ordered, own)
    rest = len(ordered) - 1

    def at(index: int) -> float:
        return ordered[index if index < hole else index + 1]

    return (at((rest - 1) // 2) + at(rest // 2)) / 2


def _deviation(ordered: Sequence[float]) -> float:
    """The median absolute deviation, scaled; 0 for so few values that one of them could be half of it."""
    if len(ordered) < _ENOUGH:
        return 0.0
    middle = median(ordered)
    return _NORMAL * median(abs(each - middle) for each in ordered)
