"""What the network alone costs between two zones, by each way: the caller's time minus the callee's own.

Taken over all services and instances of a zone as a median, so that one slow server is not mistaken for a slow route,
and over three intervals as a median again, so that one odd interval is not mistaken for a change.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from masche.compiler.steer.window import Window, median

Way = tuple[str, str, str]
"""The zone of the callers, the zone of the instances, and the zone of the gateway between ("" for none)."""

LOSS_US = 1_000_000.0
"""What a call that nobody answered costs, at least: a second."""

RISE = 0.002
"""How fast what is usual follows when the network stays slow, per interval: it doubles in six minutes."""

SURE = 3.0
"""When so many losses should have come and none came, a link loses no more (the rule of three)."""

HEAVIEST = 50
"""No single instance counts for more answers than this in an interval."""


class Passage(NamedTuple):
    """One instance's calls by one way in one interval; ``network_us`` below zero when it is unknown."""

    network_us: float
    answers: int
    calls: int
    lost: int


@dataclass(slots=True)
class Route:
    """One way. ``network_us`` is what is known of the network's part, 0.0 when nothing is, ``lost`` the share of calls
    that nobody answered, and ``cost_us`` what a call costs with a loss at its price. ``usual_us`` is 0.0 until
    something is known; ``latest_*`` are of the last interval.
    """

    network: Window = field(default_factory=lambda: Window(enough=2))
    loss: Window = field(default_factory=lambda: Window(enough=30))
    _unbroken: int = 0
    network_us: float = 0.0
    lost: float = 0.0
    cost_us: float = 0.0
    usual_us: float = 0.0
    latest_us: float = 0.0
    latest_lost: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether enough was heard to choose by it."""
        return self.network.count >= 2 or (self.loss.count >= 3 and self.lost > 0.5)

    def _know(self) -> None:
        self.network_us, self.lost = self.network.middle, self.loss.mean
        self.cost_us = self.network_us + self.lost * LOSS_US

    def trim(self, *, now: float) -> None:
        """Let go of what is old."""
        self.network.trim(now=now)
        self.loss.trim(now=now)
        self._know()

    def heard(self, passages: list[Passage], *, at: float) -> None:
        """Take an interval."""
        timed = [(network, min(answers, HEAVIEST)) for network, answers, _, _ in passages if network >= 0.0]
        if count := sum(weight for _, weight in timed):
            self.latest_us = median(timed)
            self.network.add(self.latest_us, count, at=at)
        self._lose(passages, at=at)
        self._know()
        if self.network.count:
            self.usual_us = min(self.cost_us, self.usual_us * (1 + RISE)) if self.usual_us else self.cost_us

    def _lose(self, passages: list[Passage], *, at: float) -> None:
        """One instance may be dead on a sound network: the worst of several does not count."""
        calls, lost = sum(each.calls for each in passages), sum(each.lost for each in passages)
        if lost and len(passages) > 1:
            worst = max(passages, key=lambda each: (each.lost / each.calls, each.calls))
            calls, lost = calls - worst.calls, lost - worst.lost
        self.latest_lost = lost / calls
        self._unbroken = 0 if self.latest_lost else self._unbroken + calls
        if self._unbroken * self.lost >= SURE:
            self.loss.clear()
        self.loss.add(self.latest_lost, calls, at=at)


@dataclass(slots=True)
class Links:
    """All ways that somebody used in the last minute."""

    routes: dict[Way, Route] = field(default_factory=dict[Way, Route])
    _noted: dict[Way, list[Passage]] = field(default_factory=dict[Way, list[Passage]])

    def note(self, passages: Mapping[Way, Sequence[Passage]]) -> None:
        """Take some of what happened in this interval, calls all of it; it counts when it is ``heard``."""
        for way, some in passages.items():
            self._noted.setdefault(way, []).extend(some)

    def heard(self, *, at: float) -> Iterator[None]:
        """Take the interval as noted, way by way; the caller may pause between two."""
        noted, self._noted = self._noted, {}
        for way, some in noted.items():
            if (route := self.routes.get(way)) is None:
                route = self.routes[way] = Route()
            route.heard(some, at=at)
            yield
        self._trim(now=at)

    def _trim(self, *, now: float) -> None:
        """Let go of what is old; what is usual on a way is kept while it is used at all."""
        for way, route in list(self.routes.items()):
            route.trim(now=now)
            if not route.loss.count:
                del self.routes[way]

    def get(self, way: Way) -> Route | None:
        """A way of which enough is known to choose by it, or None."""
        route = self.routes.get(way)
        return route if route and route.is_known else None

    def predicted(self, source: str, target: str, via: str) -> float:
        """What a detour should cost by what its two parts cost; 0.0 when one of them is unknown."""
        parts = [self.get((source, via, "")), self.get((via, target, ""))]
        known = [each.cost_us for each in parts if each]
        return sum(known) if len(known) == len(parts) else 0.0
