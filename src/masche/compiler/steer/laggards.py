"""Instances whose own time, without the network's, is many times the median of the others: found from all callers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from masche.compiler.steer.costs import Costs
from masche.compiler.steer.terrain import Ground
from masche.compiler.steer.window import SPAN, median
from masche.compiler.steer.words import duration

MARGIN_US = 50_000.0
"""Nobody is taken off for less time than this; weights are enough for the rest."""

FEWEST = 10
"""Answers without which nothing is said of an instance."""

FOR = 2.0
"""Seconds for which it must hold."""


@dataclass(slots=True)
class Laggards:
    """Since when each instance of one port lags."""

    _since: dict[str, float] = field(default_factory=dict[str, float])

    def found(self, ground: Ground, desks: Iterable[tuple[str, Costs]], *, now: float) -> Mapping[str, str]:
        """Return who lags for long enough, and how, as a clause. ``desks`` pairs caller zones with costs."""
        factor = ground.traffic.outlier.latency_factor
        own = _own_times(ground, list(desks), now=now) if factor > 0 else {}
        lagging = {
            name: f"in {duration(own[name])}, {own[name] / max(usual, 1.0):.0f}x the median of the others"
            for name, usual in _others(own).items()
            if own[name] >= factor * usual and own[name] - usual >= MARGIN_US
        }
        self._since = {name: self._since.get(name, now) for name in lagging}
        return {name: why for name, why in lagging.items() if now - self._since[name] >= FOR}


def _own_times(ground: Ground, desks: list[tuple[str, Costs]], *, now: float) -> dict[str, float]:
    """The instances' own times in microseconds, as they or callers of their own zone measured them."""
    found: dict[str, float] = {}
    for site in ground.sites:
        timed: list[tuple[float, int]] = []
        for zone, costs in desks:
            for via, track in costs.tracks.get(site.workload, {}).items():
                window = track.service if track.service.count else track.latency
                is_own = track.service.count > 0 or (zone == site.zone and not via)
                if is_own and now - window.heard_at <= SPAN:
                    timed.append((window.mean, window.count))
        if sum(count for _, count in timed) >= FEWEST:
            found[site.workload] = median(timed)
    return found


def _others(own: Mapping[str, float]) -> dict[str, float]:
    """For each instance the median of the others; nothing for one that is alone."""
    ordered = sorted((value, name) for name, value in own.items())
    if len(ordered) < 2:
        return {}
    middle = (len(ordered) - 2) // 2
    return {name: ordered[middle + (at <= middle)][0] for at, (_, name) in enumerate(ordered)}
