"""Whether calls to a zone pass a third zone's gateway: tried with a few calls, taken when clearly faster, and left
again soon after the direct way is well.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil

from masche.compiler.steer.hysteresis import STRONG, Mark
from masche.compiler.steer.moves import Move, MoveKind
from masche.compiler.steer.outlook import MARGIN_US, Outlook, ZoneCost, ratio
from masche.compiler.steer.words import duration, percent, way
from masche.model.steering import Detour

TRIAL, MOST_TRIAL, TRIAL_CALLS = 2, 10, 5.0
"""The share that measures a detour, in percent of the calls to the zone: at least the first and at most the second, and
between them so many calls a second, so that one report holds enough of them.
"""

STRIDE = 50
"""Points by which the share changes at most in a step; a detour that is better beyond doubt is taken at once."""

ALL = 100

FASTER, AS_FAST = 1.6, 1.2
"""A detour is taken when the direct way costs so many times more, and left when it costs no more than the second."""

PLAIN = 4.0
"""From here on the direct way was bad beyond doubt; a detour costs more than the direct way did, so it is less than
between zones.
"""

SUSPECT = 3.0
"""A direct way that costs so many times what it usually does makes a trial worth while."""

LONG_US = 20_000.0
"""So does one whose network takes longer than this, now and then."""

TRIED, PAUSE, RARELY = 4.0, 60.0, 300.0
"""Seconds that a trial lasts, until one that failed is tried again, and until one is tried without a suspicion."""

WORTH = 50
"""A zone that takes fewer per mille of the calls is not worth a detour."""


@dataclass(slots=True)
class Passing:
    """The way by which one zone is reached now: ``via`` "" is direct; ``share`` percent pass the detour."""

    via: str = ""
    share: int = 0
    since: float = 0.0
    mark: Mark = field(default_factory=lambda: Mark(enter=FASTER, leave=AS_FAST, plain=PLAIN))
    left: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """When each gateway was left, and what the direct way cost then in microseconds."""

    def cost(self, cost: ZoneCost) -> float:
        """What calls to the zone cost by the way that most of them take."""
        measured = cost.detours.get(self.via, 0.0)
        return measured if self.share >= STRIDE and measured else cost.direct_us

    def detour(self, zone: str) -> Detour | None:
        """The detour in force."""
        return Detour(zone=zone, via=self.via, share=self.share) if self.share else None

    def step(
        self, zone: str, outlook: Outlook, *, share: float, other_us: float, is_bad: bool, now: float
    ) -> Iterator[Move]:
        """Decide once.

        ``share`` per mille of the calls go to the zone, which is bad for other reasons or not; ``other_us`` is what the
        best other zone costs.
        """
        cost = outlook.costs.get(zone, ZoneCost())
        if self.share and self.via not in outlook.gateways:
            gone = self.via
            yield self._left(zone, outlook, cost, f"zone {gone} has no gateway any more", now=now)
            del self.left[gone]  # it may be tried as soon as it is back
        if not self.share:
            if share >= WORTH:
                yield from self._tried(zone, outlook, cost, calls=outlook.rate * share / 1000, is_bad=is_bad, now=now)
        elif self.share <= MOST_TRIAL:
            is_needed = share >= WORTH or ratio(other_us, cost.detours.get(self.via, 0.0)) >= FASTER
            yield from self._judged(zone, outlook, cost, is_needed=is_needed, now=now)
        else:
            yield from self._held(zone, outlook, cost, now=now)

    def _tried(
        self, zone: str, outlook: Outlook, cost: ZoneCost, *, calls: float, is_bad: bool, now: float
    ) -> Iterator[Move]:
        """Start a trial if there is a reason to; ``calls`` a second go to the zone."""
        candidates = outlook.gateways - {zone, outlook.zone} if outlook.rules.detours else frozenset[str]()
        open_ = [each for each in candidates if self._is_open(each, cost, is_bad=is_bad, now=now)]
        if not open_ or not self._is_suspect(cost, open_, is_bad=is_bad):
            return
        known = {**cost.predicted, **cost.detours}
        self.via = min(open_, key=lambda each: (known.get(each) or float("inf"), each))
        self.share, self.since = min(MOST_TRIAL, max(TRIAL, ceil(100 * TRIAL_CALLS / max(calls, 1.0)))), now
        if not self.mark.is_bad:
            self.mark.heard(1.0, now=now)  # an earlier trial says nothing about this one
        direct = duration(max(cost.direct_us, cost.latest_us))
        yield _move(
            outlook,
            f"{self.share} % of the calls of zone {outlook.zone} to {zone} pass the gateway of {self.via}, to see "
            f"whether that is faster than {way(outlook.zone, zone)}, which takes {direct}",
        )

    def _is_open(self, via: str, cost: ZoneCost, *, is_bad: bool, now: float) -> bool:
        """Whether a gateway may be tried: after a pause, or at once where the direct way has got worse since."""
        if via not in self.left:
            return True
        at, direct_us = self.left[via]
        return now - at >= self._pause(cost, is_bad=is_bad) or ratio(cost.direct_us, direct_us) >= FASTER

    def _pause(self, cost: ZoneCost, *, is_bad: bool) -> float:
        return PAUSE if is_bad or is_unusual(cost) else RARELY

    def _is_suspect(self, cost: ZoneCost, candidates: list[str], *, is_bad: bool) -> bool:
        predicted = [cost.predicted[each] for each in candidates if cost.predicted.get(each)]
        if predicted and ratio(cost.direct_us, min(predicted)) >= FASTER:
            return True
        hopeful = len(predicted) < len(candidates)
        return hopeful and (is_bad or is_unusual(cost) or cost.network_us > LONG_US)

    def _judged(self, zone: str, outlook: Outlook, cost: ZoneCost, *, is_needed: bool, now: float) -> Iterator[Move]:
        """Take or leave what a trial showed; the calls may have left the zone meanwhile."""
        measured = cost.detours.get(self.via, 0.0)
        gain = ratio(cost.direct_us, measured)
        if measured and not is_needed:
            yield self._left(zone, outlook, cost, "other zones serve those calls", now=now)
        elif gain >= FASTER:
            self.mark.heard(gain, now=now)
            if self.mark.is_bad:
                self.share = ALL if gain >= STRONG else STRIDE
                yield self._taken(zone, outlook, cost, self.share)
        elif now - self.since >= TRIED:
            yield self._left(
                zone, outlook, cost, "that is not clearly faster" if measured else "nothing came back", now=now
            )

    def _held(self, zone: str, outlook: Outlook, cost: ZoneCost, *, now: float) -> Iterator[Move]:
        """Keep it, take more of it, or go back by steps."""
        measured = cost.detours.get(self.via, 0.0)
        gain = ratio(cost.direct_us, measured) if cost.direct_us else FASTER
        self.mark.heard(gain, now=now)
        if self.mark.is_bad and gain <= AS_FAST:
            return
        if self.mark.is_bad:
            limit = ALL if not cost.is_silent else max(ALL - 10, self.share - TRIAL)
            moved = min(limit, self.share + STRIDE) - self.share
            self.share += moved
            if moved >= TRIAL:
                yield self._taken(zone, outlook, cost, moved)
        elif self.share > STRIDE:
            self.share -= STRIDE
            yield _move(outlook, f"{STRIDE} % of the calls of zone {outlook.zone} to {zone} are back on the direct way")
        else:
            why = f"{way(outlook.zone, zone)} takes {duration(cost.direct_us)} again"
            yield self._left(zone, outlook, cost, why, now=now)

    def _taken(self, zone: str, outlook: Outlook, cost: ZoneCost, moved: int) -> Move:
        measured = cost.detours.get(self.via, cost.direct_us)
        times = cost.direct_us / max(measured, 1.0)
        direct, detour = way(outlook.zone, zone), way(outlook.zone, zone, self.via)
        return _move(
            outlook,
            f"{percent(moved * 10)} of the calls of zone {outlook.zone} to {zone} moved to the gateway of {self.via}, "
            f"because {direct} takes {duration(cost.direct_us)}, {times:.1f}x {detour}",
        )

    def _left(self, zone: str, outlook: Outlook, cost: ZoneCost, why: str, *, now: float) -> Move:
        sentence = f"calls of zone {outlook.zone} to {zone} no longer pass the gateway of {self.via}, because {why}"
        self.left[self.via] = (now, cost.direct_us)
        self.via, self.share = "", 0
        return _move(outlook, sentence)


def is_unusual(cost: ZoneCost) -> bool:
    """Whether the direct way loses calls, or takes far longer than it usually does."""
    is_more = cost.latest_us - cost.usual_us > MARGIN_US and cost.latest_us >= SUSPECT * cost.usual_us
    return cost.lost > 0.1 or is_more


def _move(outlook: Outlook, what: str) -> Move:
    return Move(kind=MoveKind.DETOUR, about=outlook.subject, sentence=f"{outlook.subject}: {what}")
