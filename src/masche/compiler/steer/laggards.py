"""Instances whose own time, without the network's, is many times the median of the others: found from all callers.

Where there is much to do those with the longest queues lag, and to take one off makes the next one lag: so it must
last, unless it is plain, and when it made the others slow nobody is taken off for a while (``relief``).
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from masche.compiler.steer.costs import Costs
from masche.compiler.steer.relief import Relief
from masche.compiler.steer.terrain import Ground
from masche.compiler.steer.track import Track
from masche.compiler.steer.weights import typical
from masche.compiler.steer.window import SPAN, median
from masche.compiler.steer.words import duration

MARGIN_US = 50_000.0
"""Nobody is taken off for less time than this; weights are enough for the rest."""

FEWEST = 10
"""Answers without which nothing is said of an instance."""

FOR, PLAIN, PLAINLY_FOR = 15.0, 3.0, 2.0
"""Seconds for which it must hold; so many times the policy's factor is plain, and must hold for so many only."""


@dataclass(frozen=True, slots=True)
class Lag:
    """That an instance lags: ``why``, a clause, and ``limit_us``, the own time from which on it does (microseconds);
    ``is_plain`` when there is no doubt.
    """

    why: str
    limit_us: float
    is_plain: bool = False


NOBODY: Mapping[str, Lag] = {}


@dataclass(slots=True)
class Laggards:
    """Since when each instance of one port lags. ``limit_us`` is the own time from which on one lags now, 0.0 for none.

    It follows the others: where all of them take longer, who takes as long is no laggard.
    """

    limit_us: float = 0.0
    _relief: Relief = field(default_factory=Relief)
    _plain: Relief = field(default_factory=Relief)

    @property
    def is_still(self) -> bool:
        """Whether nobody lags."""
        return self._relief.is_still

    def found(
        self, ground: Ground, desks: Iterable[tuple[str, Costs]], *, off: Set[str], now: float
    ) -> Mapping[str, Lag]:
        """Return who lags for long enough, and how. ``desks`` pairs caller zones with costs; ``off`` are those that
        were taken off for it before, and take hardly any calls.
        """
        factor, heard = ground.traffic.outlier.latency_factor, list(desks)
        if factor <= 0 or not any(_is_late(track) for _, costs in heard for track in costs.every()):
            self._note(NOBODY, now=now)
            self.limit_us = 0.0
            return NOBODY
        own = _own_times(ground, heard, now=now)
        limits = {name: (usual, max(factor * usual, usual + MARGIN_US)) for name, usual in _others(own).items()}
        self.limit_us = median([(limit, 1) for _, limit in limits.values()]) if limits else 0.0
        lagging = {
            name: Lag(_why(own[name], usual), limit, own[name] >= PLAIN * factor * usual)
            for name, (usual, limit) in limits.items()
            if own[name] >= limit
        }
        self._note(lagging, now=now)
        return self._due(lagging, [each for name, each in own.items() if name not in (off or lagging)], off, now=now)

    def _note(self, lagging: Mapping[str, Lag], *, now: float) -> None:
        self._relief.note(lagging, now=now)
        self._plain.note([name for name, lag in lagging.items() if lag.is_plain], now=now)

    def _due(
        self, lagging: Mapping[str, Lag], others: Sequence[float], off: Set[str], *, now: float
    ) -> Mapping[str, Lag]:
        """Those of them that are to be taken off, unless the others suffered from that."""
        self._relief.look(typical(others), is_relieved=bool(off), now=now)
        if self._relief.is_held(now=now):
            return NOBODY
        due = self._relief.lasting(FOR, now=now) | self._plain.lasting(PLAINLY_FOR, now=now)
        return {name: lag for name, lag in lagging.items() if name in due}


def _why(own_us: float, usual_us: float) -> str:
    return f"in {duration(own_us)}, {own_us / max(usual_us, 1.0):.0f}x the median of the others"


def _is_late(track: Track) -> bool:
    """Whether it could lag at all."""
    return track.latency_sum >= MARGIN_US * track.timed > 0 or track.service_sum >= MARGIN_US * track.served > 0


def _own_times(ground: Ground, desks: list[tuple[str, Costs]], *, now: float) -> dict[str, float]:
    """The instances' own times in microseconds, as they or callers of their own zone measured them."""
    found: dict[str, float] = {}
    for site in ground.sites:
        timed: list[tuple[float, int]] = []
        for zone, costs in desks:
            for via, track in costs.tracks.get(site.workload, {}).items():
                is_own = track.served > 0 or (zone == site.zone and not via and track.timed > 0)
                if is_own and now - track.heard_at <= SPAN:
                    timed.append((track.service_us or track.latency_us, track.served or track.timed))
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
