"""How the calls of one zone are spread over zones as their routes and instances get slow, and get well again.

A zone whose route costs clearly more than the best of the others keeps only a floor, so that its recovery is seen. One
whose instances take clearly longer is eased by and by, because it may be the load that makes them slow, and a load that
moves all at once makes the next ones slow. What is freed goes to the callers' own zone and then to the others, each up
to the room it has. Shares move by bounded steps, and the marks of bad zones do not flap. Invariant: shares are per
mille, sum to 1000, and no zone with instances has none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from masche.compiler.locality import WHOLE, whole
from masche.compiler.steer.detours import STRIDE, WORTH, Passing
from masche.compiler.steer.hysteresis import STRONG, Mark
from masche.compiler.steer.moves import Move, MoveKind
from masche.compiler.steer.outlook import MARGIN_US, NOTHING_KNOWN, Outlook, ratio
from masche.compiler.steer.words import duration, listed, percent, way
from masche.model.steering import Detour

FAST, SLOWLY = 500.0, 100.0
"""The share that moves at most in a step, per mille, with strong and with weak evidence."""

PROBES = 1.0
"""Calls per second that bad zones keep, so that its recovery is seen in seconds ..."""

FEWEST, MOST = 2.0, 4.0
"""... but so many per mille; much less than a hundredth, for whoever looks at the 99th percentile."""

SILENT = 8.0
"""A bad zone that nobody called of late keeps this, per mille."""

EASE, PLAIN_EASE, RETURN, LEAST_EASE = 0.95, 0.9, 1.03, 0.02
"""A zone of slow instances keeps so much of its share in each step (the second when they are plainly slow), and gets it
back as slowly; it always keeps the last.
"""

PLAIN = 5.0
"""Instances that take so many times the quickest are plainly slow."""

STRETCH, LONGEST_STRETCH, GROWTH, RELIEF = 2.0, 10.0, 1.1, 0.87
"""A zone takes at first twice the load that its instances would have if all were shared equally, and by
and by more, as long as they do not get slower."""

CROWDED = 2.0
"""Instances that take so many times their usual time have too much."""

SETTLING = 0.2
"""The share of what instances took just now in what they usually take."""

QUIET = 5.0
"""A move of fewer per mille is not worth the publishing."""

LOSSY = 0.1
"""A link that loses more than this is said to lose, not to be slow."""

TOLD = 20.0
"""Moves are told when they have come to so many per mille."""


@dataclass(slots=True)
class Spread:
    """How the calls of one zone to one port are spread now."""

    shares: dict[str, float] = field(default_factory=dict[str, float])
    marks: dict[str, Mark] = field(default_factory=dict[str, Mark])
    passings: dict[str, Passing] = field(default_factory=dict[str, Passing])
    stretch: float = STRETCH
    eases: dict[str, float] = field(default_factory=dict[str, float])
    _ceiling: float = LONGEST_STRETCH
    _slow: dict[str, Mark] = field(default_factory=dict[str, Mark])
    _usual_us: dict[str, float] = field(default_factory=dict[str, float])
    _ratios: dict[str, float] = field(default_factory=dict[str, float])
    _zones: frozenset[str] = frozenset()
    _untold: dict[str, float] = field(default_factory=dict[str, float])

    # -- what is asked ----------------------------------------------------------------------------------------------

    @property
    def is_still(self) -> bool:
        """Whether all is as it would be if nothing had been measured, and nothing is about to move."""
        if self.shares or self.eases:
            return False
        marks = (*self.marks.values(), *self._slow.values())
        return all(mark.is_still for mark in marks) and not any(each.share for each in self.passings.values())

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

    def knows(self, zones: frozenset[str]) -> bool:
        """Whether it has looked at these zones, and at no others."""
        return self._zones == zones

    # -- what is decided --------------------------------------------------------------------------------------------

    def settle(self, taken_us: Mapping[str, float]) -> None:
        """Learn what instances usually take, while no zone is relieved, out of what they took just now."""
        for zone, service in taken_us.items():
            usual = self._usual_us.get(zone, 0.0)
            self._usual_us[zone] = usual + SETTLING * (service - usual) if usual else service

    def step(self, outlook: Outlook, *, now: float) -> tuple[Move, ...]:
        """Decide once, and return the moves."""
        self._forget(outlook)
        self._mark(outlook, now=now)
        wanted, unplaced = self._wanted(outlook)
        self._adapt(outlook, unplaced)
        moves = [*self._move(outlook, wanted, now=now)]
        if outlook.gateways or self.passings:
            moves += self._pass(outlook, wanted, now=now)
        return tuple(moves)

    def _pass(self, outlook: Outlook, wanted: Mapping[str, float], *, now: float) -> Iterator[Move]:
        """Go by a gateway, or go back."""
        for zone in sorted(outlook.base.keys() - {outlook.zone}):
            if (passing := self.passings.get(zone)) is None:
                passing = self.passings[zone] = Passing()
            is_bad = zone in self.bad and wanted[zone] >= WORTH
            other_us, _ = self._reference(outlook, zone)
            yield from passing.step(zone, outlook, share=wanted[zone], other_us=other_us, is_bad=is_bad, now=now)

    def _forget(self, outlook: Outlook) -> None:
        zones = frozenset(outlook.base)
        if self._zones == zones:
            return
        self._zones = zones
        self._slow = {zone: mark for zone, mark in self._slow.items() if zone in outlook.base}
        self._ratios = {zone: each for zone, each in self._ratios.items() if zone in outlook.base}
        self.shares = {zone: share for zone, share in self.shares.items() if zone in outlook.base}
        self.marks = {zone: mark for zone, mark in self.marks.items() if zone in outlook.base}
        self.passings = {zone: each for zone, each in self.passings.items() if zone in outlook.base}
        self.eases = {zone: ease for zone, ease in self.eases.items() if zone in outlook.base}
        self._usual_us = {zone: each for zone, each in self._usual_us.items() if zone in outlook.base}

    def _cost(self, outlook: Outlook, zone: str) -> float:
        cost = outlook.costs.get(zone, NOTHING_KNOWN)
        passing = self.passings.get(zone)
        return passing.cost(cost) if passing else cost.direct_us

    def _reference(self, outlook: Outlook, zone: str) -> tuple[float, str]:
        """What a zone is compared with: the best other one; its callers' own zone only as far as itself is usual."""
        found: list[tuple[float, str]] = []
        for other in outlook.base:
            cost = self._cost(outlook, other)
            if other == outlook.zone:
                mine = outlook.costs.get(zone, NOTHING_KNOWN)
                cost = max(cost, mine.usual_us + mine.service_us) if cost else 0.0
            if other != zone and cost:
                found.append((cost, other))
        return min(found, default=(0.0, ""))

    def _mark(self, outlook: Outlook, *, now: float) -> None:
        if not outlook.rules.spills:
            self.marks.clear()
            self.eases.clear()
            return
        quickest = self._quickest(outlook)
        totals = {zone: self._cost(outlook, zone) for zone in outlook.base}
        routes = {zone: self._route(outlook, zone, total, quickest) for zone, total in totals.items()}
        far = min((each.network_us for each in outlook.costs.values() if each.network_us), default=0.0)
        for zone in outlook.base:
            found = ratio(routes[zone], _best(outlook, zone, routes, quickest))
            self._ratios[zone] = found
            if (mark := self.marks.get(zone)) is None:
                mark = self.marks[zone] = Mark()
            mark.heard(found, now=now)
            own = ratio(far + outlook.costs.get(zone, NOTHING_KNOWN).service_us, far + quickest)
            self._ease(zone, min(own, ratio(totals[zone], _best(outlook, zone, totals, quickest))), now=now)

    def _quickest(self, outlook: Outlook) -> float:
        """The time of the quickest instances anywhere, which stands for all when only routes are compared."""
        return min((each.service_us for each in outlook.costs.values() if each.service_us), default=0.0)

    def _route(self, outlook: Outlook, zone: str, total: float, quickest: float) -> float:
        """What the route to a zone costs, with the failures there, and instances as quick as any."""
        cost = outlook.costs.get(zone, NOTHING_KNOWN)
        if zone == outlook.zone:
            return quickest + cost.failing_us if cost.direct_us else 0.0
        return max(total - cost.service_us, 0.0) + quickest if total else 0.0

    def _ease(self, zone: str, found: float, *, now: float) -> None:
        """Give a zone of slow instances less and less, and a zone that is well more and more.

        ``found`` is how many times the best its instances take, and its calls in all: who has the network to pay
        elsewhere is better off with slower instances at home.
        """
        if (mark := self._slow.get(zone)) is None:
            mark = self._slow[zone] = Mark(is_patient=True)
        mark.heard(found, now=now)
        ease = self.eases.get(zone, 1.0)
        if not mark.is_bad:
            ease *= RETURN
        elif found >= mark.enter and not self.bad:
            ease *= PLAIN_EASE if found >= PLAIN else EASE
        if ease < 1.0:
            self.eases[zone] = max(LEAST_EASE, ease)
        else:
            self.eases.pop(zone, None)

    def _wanted(self, outlook: Outlook) -> tuple[dict[str, float], float]:
        """The shares to aim at, and how much of them nobody had room for."""
        wanted = {zone: float(share) for zone, share in outlook.base.items()}
        avoided = self.bad | self.eases.keys()
        if not avoided or avoided >= wanted.keys():
            return wanted, 0.0
        freed = {zone: self._freed(outlook, zone, wanted[zone]) for zone in sorted(avoided)}
        left = sum(freed.values())
        limits = outlook.limits()
        for group in _by_preference(outlook, avoided):
            left -= _place(wanted, group, limits, left)
        placed = sum(freed.values()) - left
        for zone, share in freed.items():
            wanted[zone] -= share * placed / sum(freed.values()) if placed else 0.0
        return wanted, left

    def _freed(self, outlook: Outlook, zone: str, share: float) -> float:
        if zone in self.bad:
            return max(0.0, share - self._floor(outlook, zone, len(self.bad)))
        return share * (1.0 - self.eases.get(zone, 1.0))

    def _floor(self, outlook: Outlook, zone: str, count: int) -> float:
        if outlook.costs.get(zone, NOTHING_KNOWN).is_silent and not self.is_detoured(zone):
            return SILENT / count
        return min(max(PROBES * WHOLE / max(outlook.rate, 1.0), FEWEST), MOST) / count

    def _adapt(self, outlook: Outlook, unplaced: float) -> None:
        """Let the good zones take more while they do not get slower, and less when they do; never as much again.

        Nothing but crowding makes it less, and nothing makes it less than what all would have if it were shared
        equally: a limit that went up and down by itself sent the same calls there and back.
        """
        is_crowded = False
        if not self.bad and not self.eases:
            self.settle(outlook.taken_us)
        for zone in outlook.base:
            service = outlook.costs.get(zone, NOTHING_KNOWN).service_us
            usual = self._usual_us.get(zone, 0.0)
            if (
                (self.bad or self.eases)
                and usual
                and zone not in self.bad
                and zone not in self.eases
                and service > CROWDED * usual + MARGIN_US
            ):
                is_crowded = True
        if is_crowded:
            self._ceiling = self.stretch
            self.stretch = max(1.0, self.stretch * RELIEF)
        elif not self.bad and not self.eases:
            self.stretch, self._ceiling = STRETCH, LONGEST_STRETCH
        elif unplaced > TOLD:
            reach = min(LONGEST_STRETCH, self._ceiling * RELIEF, self.stretch * GROWTH)
            self.stretch = max(self.stretch, reach)

    def _move(self, outlook: Outlook, wanted: Mapping[str, float], *, now: float) -> Iterator[Move]:
        """Go some of the way to what is wanted."""
        if not self.shares and not self.bad and not self.eases:
            return
        before = {zone: self.shares.get(zone, float(outlook.base[zone])) for zone in outlook.base}
        distance = sum(abs(wanted[zone] - before[zone]) for zone in wanted) / 2
        if distance < QUIET and (self.bad or self.eases):
            return
        is_strong = bool(self.bad) and max(self._ratios[zone] for zone in self.bad) >= STRONG
        bound = FAST if is_strong or not (self.bad or self.eases) else SLOWLY
        part = min(1.0, bound / distance) if distance else 0.0
        self.shares = {zone: before[zone] + part * (wanted[zone] - before[zone]) for zone in wanted}
        moved = {zone: self.shares[zone] - before[zone] for zone in wanted}
        if part == 1.0 and not self.bad and not self.eases:
            self.shares = {}
        yield from self._told(outlook, moved, now=now)

    # -- what is said -----------------------------------------------------------------------------------------------

    def _told(self, outlook: Outlook, moved: Mapping[str, float], *, now: float) -> Iterator[Move]:
        """Tell what moved since the last sentence: small steps are told once they have come to something."""
        self._untold = {zone: self._untold.get(zone, 0.0) + share for zone, share in moved.items()}
        losers = {zone: -share for zone, share in sorted(self._untold.items()) if share <= -TOLD}
        if not losers:
            return
        gainers = [zone for zone, share in sorted(self._untold.items()) if share >= TOLD / 2]
        self._untold = {}
        for zone, share in losers.items():
            what = f"{percent(share)} of zone {outlook.zone} moved from {zone} to {listed(gainers) or 'all others'}"
            is_bad = zone in self.bad or self._is_slow(zone)
            why = self._why_bad(outlook, zone, now=now) if is_bad else self._why_good(outlook, gainers, now=now)
            yield Move(
                kind=MoveKind.ZONE,
                severity="warning" if is_bad else "info",
                about=outlook.subject,
                sentence=f"{outlook.subject}: {what}, {why}",
            )

    def _is_slow(self, zone: str) -> bool:
        return zone in self._slow and self._slow[zone].is_bad

    def _why_bad(self, outlook: Outlook, zone: str, *, now: float) -> str:
        cost, (best, other) = self._cost(outlook, zone), self._reference(outlook, zone)
        lost = outlook.costs.get(zone, NOTHING_KNOWN).lost
        mark = self.marks[zone] if zone in self.bad else self._slow[zone]
        seconds = f"for {max(1.0, now - mark.since):.0f} s"
        if lost > LOSSY:
            return f"because {way(outlook.zone, zone)} loses {percent(lost * WHOLE)} of the calls, {seconds}"
        times = f"{cost / max(best, 1.0):.1f}x {self._thing(outlook, other)}"
        return f"because {self._thing(outlook, zone)} takes {duration(cost)}, {times}, {seconds}"

    def _why_good(self, outlook: Outlook, gainers: list[str], *, now: float) -> str:
        marks = [(zone, mark) for zone in gainers for mark in (self.marks.get(zone), self._slow.get(zone)) if mark]
        healed = [zone for zone, mark in marks if mark.is_healed(now=now)]
        if not healed:
            return "to share the load out"
        thing = f"zone {healed[0]}" if healed[0] == outlook.zone else way(outlook.zone, healed[0])
        return f"because {thing} takes {duration(self._cost(outlook, healed[0]))} again"

    def _thing(self, outlook: Outlook, zone: str) -> str:
        """The route to a zone, or its instances when it is they who take most of the time."""
        cost = outlook.costs.get(zone, NOTHING_KNOWN)
        if zone == outlook.zone or cost.service_us > cost.direct_us / 2:
            return f"zone {zone}"
        return way(outlook.zone, zone)


def _best(outlook: Outlook, zone: str, costs: Mapping[str, float], quickest: float) -> float:
    """The best of the others; the callers' own zone counts only as far as this one is usual."""
    usual = outlook.costs.get(zone, NOTHING_KNOWN).usual_us + quickest
    found = [max(cost, usual) if other == outlook.zone else cost for other, cost in costs.items() if cost]
    if costs.get(zone):
        found.remove(max(costs[zone], usual) if zone == outlook.zone else costs[zone])
    return min(found, default=0.0)


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
