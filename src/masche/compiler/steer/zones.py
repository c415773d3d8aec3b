"""How the calls of one zone are spread over zones as their routes and instances get slow, and get well again.

A zone that costs clearly more than the best of the others keeps only a floor, so that its recovery is seen; its share
goes to the callers' own zone and then to the others, each up to the room it has. Shares move by bounded steps, and the
marks of bad zones do not flap. Invariant: shares are per mille, sum to 1000, and no zone with instances has none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from masche.compiler.locality import WHOLE, whole
from masche.compiler.steer.detours import STRIDE, WORTH, Passing
from masche.compiler.steer.hysteresis import STRONG, Mark
from masche.compiler.steer.moves import Move, MoveKind
from masche.compiler.steer.outlook import MARGIN_US, Outlook, ZoneCost, ratio
from masche.compiler.steer.words import duration, listed, percent, way
from masche.model.steering import Detour

FAST, SLOWLY = 500.0, 100.0
"""The share that moves at most in a step, per mille, with strong and with weak evidence."""

PROBES = 1.0
"""Calls per second that bad zones keep, so that its recovery is seen in seconds ..."""

FEWEST, MOST = 2.0, 5.0
"""... but so many per mille; much less than a hundredth, for whoever looks at the 99th percentile."""

SILENT = 20.0
"""A bad zone that nobody called of late keeps this, per mille."""

STRETCH, LONGEST_STRETCH, GROWTH = 1.5, 10.0, 1.25
"""A zone takes at first one and a half times the load that its instances would have if all were shared equally, and by
and by more, as long as they do not get slower."""

CROWDED = 2.0
"""Instances that take so many times their usual time have too much."""

QUIET = 5.0
"""A move of fewer per mille is not worth the publishing."""

LOSSY = 0.1
"""A link that loses more than this is said to lose, not to be slow."""

TOLD = 20.0
"""A move of fewer per mille is not worth a sentence."""


@dataclass(slots=True)
class Spread:
    """How the calls of one zone to one port are spread now."""

    shares: dict[str, float] = field(default_factory=dict[str, float])
    marks: dict[str, Mark] = field(default_factory=dict[str, Mark])
    passings: dict[str, Passing] = field(default_factory=dict[str, Passing])
    stretch: float = STRETCH
    _usual_us: dict[str, float] = field(default_factory=dict[str, float])
    _ratios: dict[str, float] = field(default_factory=dict[str, float])

    # -- what is asked ----------------------------------------------------------------------------------------------

    @property
    def is_neutral(self) -> bool:
        """Whether all is as it would be if nothing had been measured."""
        return not self.shares

    def zones(self) -> tuple[tuple[str, int], ...]:
        """The shares to publish, per mille; empty when they are as the preference of zones says."""
        return tuple(sorted(whole(self.shares).items()))

    def detours(self) -> tuple[Detour, ...]:
        """The detours to publish."""
        found = (passing.detour(zone) for zone, passing in sorted(self.passings.items()))
        return tuple(each for each in found if each)

    def is_detoured(self, zone: str) -> bool:
        """Whether most calls to a zone pass a gateway."""
        passing = self.passings.get(zone)
        return bool(passing and passing.share >= STRIDE)

    @property
    def bad(self) -> frozenset[str]:
        """The zones that are avoided."""
        return frozenset(zone for zone, mark in self.marks.items() if mark.is_bad)

    # -- what is decided --------------------------------------------------------------------------------------------

    def step(self, outlook: Outlook, *, now: float) -> tuple[Move, ...]:
        """Decide once, and return the moves."""
        self._forget(outlook)
        self._mark(outlook, now=now)
        wanted, unplaced = self._wanted(outlook)
        self._adapt(outlook, unplaced)
        moves = [*self._move(outlook, wanted, now=now)]
        for zone in sorted(outlook.base):
            if zone != outlook.zone:
                passing = self.passings.setdefault(zone, Passing())
                is_bad = zone in self.bad and wanted[zone] >= WORTH
                moves += passing.step(zone, outlook, share=wanted[zone], is_bad=is_bad, now=now)
        return tuple(moves)

    def _forget(self, outlook: Outlook) -> None:
        self.shares = {zone: share for zone, share in self.shares.items() if zone in outlook.base}
        self.marks = {zone: mark for zone, mark in self.marks.items() if zone in outlook.base}
        self.passings = {zone: each for zone, each in self.passings.items() if zone in outlook.base}
        self._usual_us = {zone: each for zone, each in self._usual_us.items() if zone in outlook.base}

    def _cost(self, outlook: Outlook, zone: str) -> float:
        cost = outlook.costs.get(zone, ZoneCost())
        passing = self.passings.get(zone)
        return passing.cost(cost) if passing else cost.direct_us

    def _reference(self, outlook: Outlook, zone: str) -> tuple[float, str]:
        """What a zone is compared with: the best other one; its callers' own zone only as far as itself is usual."""
        found: list[tuple[float, str]] = []
        for other in outlook.base:
            cost = self._cost(outlook, other)
            if other == outlook.zone:
                mine = outlook.costs.get(zone, ZoneCost())
                cost = max(cost, mine.usual_us + mine.service_us) if cost else 0.0
            if other != zone and cost:
                found.append((cost, other))
        return min(found, default=(0.0, ""))

    def _mark(self, outlook: Outlook, *, now: float) -> None:
        if not outlook.rules.spills:
            self.marks.clear()
            return
        for zone in outlook.base:
            found = ratio(self._cost(outlook, zone), self._reference(outlook, zone)[0])
            self._ratios[zone] = found
            self.marks.setdefault(zone, Mark()).heard(found, now=now)

    def _wanted(self, outlook: Outlook) -> tuple[dict[str, float], float]:
        """The shares to aim at, and how much of them nobody had room for."""
        bad = [zone for zone in outlook.base if zone in self.bad]
        wanted = {zone: float(share) for zone, share in outlook.base.items()}
        if not bad or len(bad) == len(wanted):
            return wanted, 0.0
        freed = {zone: max(0.0, wanted[zone] - self._floor(outlook, zone, len(bad))) for zone in bad}
        left = sum(freed.values())
        for group in _by_preference(outlook, self.bad):
            left -= _place(wanted, group, outlook.limits, left)
        placed = sum(freed.values()) - left
        for zone in bad:
            wanted[zone] -= freed[zone] * placed / sum(freed.values()) if placed else 0.0
        return wanted, left

    def _floor(self, outlook: Outlook, zone: str, count: int) -> float:
        if outlook.costs.get(zone, ZoneCost()).is_silent and not self.is_detoured(zone):
            return SILENT / count
        return min(max(PROBES * WHOLE / max(outlook.rate, 1.0), FEWEST), MOST) / count

    def _adapt(self, outlook: Outlook, unplaced: float) -> None:
        """Let the good zones take more while they do not get slower, and less when they do."""
        is_crowded = False
        for zone in outlook.base:
            service = outlook.costs.get(zone, ZoneCost()).service_us
            usual = self._usual_us.get(zone, 0.0)
            if service and not self.bad:
                self._usual_us[zone] = usual + 0.2 * (service - usual) if usual else service
            elif usual and zone not in self.bad and service > CROWDED * usual + MARGIN_US:
                is_crowded = True
        if is_crowded:
            self.stretch = max(1.0, self.stretch / GROWTH)
        elif not self.bad:
            self.stretch = STRETCH
        elif unplaced > TOLD:
            self.stretch = min(LONGEST_STRETCH, self.stretch * GROWTH)

    def _move(self, outlook: Outlook, wanted: Mapping[str, float], *, now: float) -> Iterator[Move]:
        """Go some of the way to what is wanted."""
        if not self.shares and not self.bad:
            return
        before = {zone: self.shares.get(zone, float(outlook.base[zone])) for zone in outlook.base}
        distance = sum(abs(wanted[zone] - before[zone]) for zone in wanted) / 2
        if distance < QUIET and self.bad:
            return
        is_strong = not self.bad or max(self._ratios.get(zone, 1.0) for zone in self.bad) >= STRONG
        bound = FAST if is_strong else SLOWLY
        part = min(1.0, bound / distance) if distance else 0.0
        self.shares = {zone: before[zone] + part * (wanted[zone] - before[zone]) for zone in wanted}
        moved = {zone: self.shares[zone] - before[zone] for zone in wanted}
        if part == 1.0 and not self.bad:
            self.shares = {}
        yield from self._told(outlook, moved, now=now)

    # -- what is said -----------------------------------------------------------------------------------------------

    def _told(self, outlook: Outlook, moved: Mapping[str, float], *, now: float) -> Iterator[Move]:
        gainers = [zone for zone, share in sorted(moved.items()) if share >= TOLD / 2]
        for zone, share in sorted(moved.items()):
            if share <= -TOLD and gainers:
                what = f"{percent(-share)} of zone {outlook.zone} moved from {zone} to {listed(gainers)}"
                is_bad = zone in self.bad
                why = self._why_bad(outlook, zone, now=now) if is_bad else self._why_good(outlook, gainers, now=now)
                yield Move(
                    kind=MoveKind.ZONE,
                    severity="warning" if is_bad else "info",
                    about=outlook.subject,
                    sentence=f"{outlook.subject}: {what}, {why}",
                )

    def _why_bad(self, outlook: Outlook, zone: str, *, now: float) -> str:
        cost, (best, other) = self._cost(outlook, zone), self._reference(outlook, zone)
        lost = outlook.costs.get(zone, ZoneCost()).lost
        seconds = f"for {max(1.0, now - self.marks[zone].since):.0f} s"
        if lost > LOSSY:
            return f"because {way(outlook.zone, zone)} loses {percent(lost * WHOLE)} of the calls, {seconds}"
        times = f"{cost / max(best, 1.0):.1f}x {self._thing(outlook, other)}"
        return f"because {self._thing(outlook, zone)} takes {duration(cost)}, {times}, {seconds}"

    def _why_good(self, outlook: Outlook, gainers: list[str], *, now: float) -> str:
        healed = [zone for zone in gainers if self.marks[zone].is_healed(now=now)] if self.marks else []
        if not healed:
            return "to share the load out"
        thing = f"zone {healed[0]}" if healed[0] == outlook.zone else way(outlook.zone, healed[0])
        return f"because {thing} takes {duration(self._cost(outlook, healed[0]))} again"

    def _thing(self, outlook: Outlook, zone: str) -> str:
        """The route to a zone, or its instances when it is they who take most of the time."""
        cost = outlook.costs.get(zone, ZoneCost())
        if zone == outlook.zone or cost.service_us > cost.direct_us / 2:
            return f"zone {zone}"
        return way(outlook.zone, zone)


def _by_preference(outlook: Outlook, bad: frozenset[str]) -> Iterator[list[str]]:
    """The callers' own zone first, then all others."""
    good = [zone for zone in outlook.base if zone not in bad]
    yield [zone for zone in good if zone == outlook.zone]
    yield [zone for zone in good if zone != outlook.zone]


def _place(wanted: dict[str, float], group: list[str], limits: Mapping[str, float], share: float) -> float:
    """Give a group what it has room for, in proportion to room; return how much that was."""
    room = {zone: max(0.0, limits.get(zone, 0.0) - wanted[zone]) for zone in group}
    total = sum(room.values())
    given = min(share, total)
    for zone in group:
        wanted[zone] += given * room[zone] / total if total else 0.0
    return given
