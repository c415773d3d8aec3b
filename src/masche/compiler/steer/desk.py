"""What the callers of one zone know of one port, and what follows for them: weights, ejections, zones and detours."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from masche.compiler.steer.bands import Bounds
from masche.compiler.steer.costs import Costs
from masche.compiler.steer.links import Links
from masche.compiler.steer.moves import Move, MoveKind
from masche.compiler.steer.relief import Relief
from masche.compiler.steer.standing import Admission, Standing
from masche.compiler.steer.subsets import Subsets
from masche.compiler.steer.terrain import Ground
from masche.compiler.steer.track import MICROSECONDS
from masche.compiler.steer.verdicts import Bench
from masche.compiler.steer.weights import FAIR, IDLE, LASTING, LEAST, PROBE, Reading, typical, weights
from masche.compiler.steer.window import OLDEST
from masche.compiler.steer.words import duration, percent
from masche.compiler.steer.zones import Spread
from masche.model.refs import PortRef
from masche.model.steering import Steer
from masche.model.view import ZonePreference

NOTICED = FAIR // 2
"""A weight that falls below this is worth a sentence, and one that comes back above it as well."""

READMITTED = FAIR // 2
"""Who has shown by good answers that it is well again gets half of a fair share at once: failing, unlike being slow, is
seldom a matter of load."""

UNDER_WAY = 0.5
"""Calls that a caller has under way with an instance, on average, from which on their number tells it something."""

PROBES = 2.0
"""Calls a second that an instance gets while it is probed, if that is less than its weight would give it."""

NEUTRAL = Steer()
NOBODY = frozenset[str]()
UNHEARD = Reading(0.0, 0)
UNKNOWN = dict[str, Reading]()


@dataclass(slots=True)
class Desk:
    """One (Service, port) and one caller zone."""

    port: PortRef
    zone: str
    costs: Costs = field(default_factory=Costs)
    spread: Spread = field(default_factory=Spread)
    subsets: Subsets = field(default_factory=Subsets)
    weights: dict[str, int] = field(default_factory=dict[str, int])
    falling: frozenset[str] = frozenset()
    _reliefs: dict[str, Relief] = field(default_factory=dict[str, Relief])
    _readings: dict[str, dict[str, Reading]] = field(default_factory=dict[str, dict[str, Reading]])

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing left to remember."""
        return not (self.costs.tracks or self.weights or self.spread.shares or self.spread.detours())

    @property
    def remembers_until(self) -> float:
        """When the first thing it remembers counts no more; infinity when it remembers nothing."""
        return min((each.heard_at for each in self.costs.every()), default=float("inf")) + OLDEST

    @property
    def is_still(self) -> bool:
        """Whether everything is fair, and nothing is about to move."""
        return not self.weights and self.spread.is_still and all(each.is_still for each in self._reliefs.values())

    def has_choice(self, ground: Ground) -> bool:
        """Whether there is any zone but its own to call."""
        return bool(self.zone) and (len(ground.zones) > 1 or (bool(ground.zones) and self.zone not in ground.zones))

    # -- what is decided --------------------------------------------------------------------------------------------

    def settle(self, ground: Ground, *, now: float) -> None:
        """Do what a look does where nothing moves: learn what is usual."""
        if self.has_choice(ground) and not ground.traffic.algorithm.is_hash:
            self.spread.settle(self.costs.taken_us(now=now))

    def grouped(
        self,
        ground: Ground,
        network_us: Mapping[str, float],
        bounds: Mapping[str, Bounds],
        own_us: Mapping[str, tuple[float, float]],
    ) -> Iterable[tuple[float, float]]:
        """The bounds of the mean costs of all instances that are compared with each other; ``own_us`` are those of
        their own part, where they are known better.
        """
        found: dict[str, tuple[float, float]] = {}
        for zone, each in bounds.items():
            low, high = each.costs(network_us[zone], own_us.get(zone))
            least, most = found.get(group := self._group(ground, zone), (low, high))
            found[group] = min(low, least), max(high, most)
        return found.values()

    def _group(self, ground: Ground, zone: str) -> str:
        """With whom the instances of a zone are compared: with each other, or with all when zones are alike."""
        is_alike = not self.zone or ground.traffic.locality.preference is ZonePreference.NONE
        return "" if is_alike else zone

    def weigh(self, ground: Ground, bench: Bench, links: Links, *, now: float) -> Iterator[Move]:
        """Set the weights anew, and tell who was noticed. Where a hash chooses, another weight would move users."""
        before = self.weights
        made: dict[str, int] = {}
        self._readings = self._grouped(ground, bench, links, now=now)
        if not ground.traffic.algorithm.is_hash:
            made.update(dict.fromkeys(bench.ejected | bench.probing, self._probe(ground)) if bench.verdicts else {})
            for group, readings in self._readings.items():
                made.update(self._weighed(group, readings, now=now))
        self.weights = {name: weight for name, weight in made.items() if weight != FAIR and name in ground.names}
        self.falling = NOBODY
        if self.weights != before:
            self.falling = frozenset(name for name, each in self.weights.items() if each < before.get(name, FAIR))
            yield from self._told(before, bench)

    def _probe(self, ground: Ground) -> int:
        """The weight of who is probed: each probe may be lost, and more of them do not come back sooner.

        Who has no calls under way is chosen as if it had so much more weight as others have calls under way.
        """
        each = {name: reading for readings in self._readings.values() for name, reading in readings.items()}
        favoured = 1.0 + self._under_way(each) / max(1, len(each))
        enough = PROBES * FAIR * len(ground.sites) / max(self.costs.rate, 1.0) / favoured
        return max(LEAST, min(PROBE, round(enough)))

    def _weighed(self, group: str, readings: Mapping[str, Reading], *, now: float) -> Mapping[str, int]:
        """The next weights of those that are compared with each other."""
        if (relief := self._reliefs.get(group)) is None:
            relief = self._reliefs[group] = Relief()
        is_busy, lasting = self._is_busy(readings), relief.lasting(LASTING, now=now)
        while True:
            is_held = relief.is_held(now=now)
            weighed = weights(
                readings, self.weights, lasting=lasting, most=relief.stretch, is_held=is_held, is_busy=is_busy
            )
            is_relieved = not is_held and not weighed.slow.isdisjoint(self.weights)
            relief.note(weighed.slow, now=now)
            relief.look(weighed.others_us, is_relieved=is_relieved, now=now)
            if is_held or not relief.is_held(now=now):
                return weighed.weights

    def welcome(self, name: str, bench: Bench) -> None:
        """Give who is readmitted a share at once, before weights are set the next time: half of a fair one, for failing
        is seldom a matter of load; the whole to who answers its own agent after it had failed everybody once.
        """
        verdict = bench.verdicts[name]
        share = FAIR if verdict.suffers and verdict.times == 1 else READMITTED if verdict.has_answered else 0
        if self.weights.get(name, FAIR) < share:
            self.weights = {each: weight for each, weight in self.weights.items() if each != name}
            if share != FAIR:
                self.weights[name] = share

    def _grouped(self, ground: Ground, bench: Bench, links: Links, *, now: float) -> dict[str, dict[str, Reading]]:
        """The instances that are compared with each other: those of a zone, or all when zones are alike."""
        network = {zone: self.network_us(links, zone, "") for zone in ground.counts}
        tracks, steered = self.costs.tracks, self.weights
        made: dict[str, dict[str, Reading]] = {}
        for name, zone, _ in ground.sites:
            is_known = name in tracks or name in steered
            if is_known and (not bench.verdicts or bench.state(name) is Admission.ADMITTED):
                reading = self.costs.reading(name, network[zone], now=now)
                made.setdefault(self._group(ground, zone), {})[name] = reading
        return made

    def network_us(self, links: Links, zone: str, via: str) -> float:
        """What the network costs on a way from here; 0.0 when it is unknown."""
        route = links.get((self.zone, zone, via))
        return route.network_us if route else 0.0

    def _is_busy(self, readings: Mapping[str, Reading]) -> bool:
        """Whether a caller has calls under way with most instances at any moment."""
        return self._under_way(readings) >= UNDER_WAY * len(readings)

    def _under_way(self, readings: Mapping[str, Reading]) -> float:
        """How many calls a caller has under way at any moment (Little's law)."""
        cost_us = typical([each.cost_us for each in readings.values() if each.calls and not each.is_silent])
        return self.costs.rate * cost_us / MICROSECONDS / max(1.0, self.costs.callers)

    def _told(self, before: Mapping[str, int], bench: Bench) -> Iterator[Move]:
        callers = f" for callers of zone {self.zone}" if self.zone else ""
        for name in sorted(before.keys() | self.weights.keys()):
            was, weight = before.get(name, FAIR), self.weights.get(name, FAIR)
            if bench.state(name) is not Admission.ADMITTED:
                continue
            if weight < NOTICED <= was:
                sentence = f"{name} gets {weight} % of a fair share of {self.port}{callers}, because {self._why(name)}"
                yield Move(kind=MoveKind.WEIGHT, severity="warning", about=name, sentence=sentence)
            elif was < NOTICED <= weight:
                sentence = f"{name} answers {self.port} as well as the others again{callers}"
                yield Move(kind=MoveKind.WEIGHT, about=name, sentence=sentence)

    def _why(self, name: str) -> str:
        """Why an instance has less than a fair share."""
        group = next((each for each in self._readings.values() if name in each), UNKNOWN)
        reading = group.get(name, UNHEARD)
        if not reading.calls or reading.is_silent:
            return "it was slow or failed when it was last called, and its share grows until calls show how it is"
        if reading.errors > 0.05:
            return f"{percent(reading.errors * 1000)} of its calls fail"
        best = min(each.cost_us for each in group.values() if each.calls and not each.is_silent)
        if reading.cost_us <= max(best, 1.0) * IDLE.alike:
            return f"it was slow or failed; it takes {duration(reading.cost_us)} again, and its share grows by steps"
        return f"it takes {duration(reading.cost_us)}, {reading.cost_us / max(best, 1.0):.1f}x the best"

    # -- what is asked ----------------------------------------------------------------------------------------------

    def steer(self, bench: Bench) -> Steer | None:
        """What the callers of this zone are given; None when all is as if nothing had been measured."""
        if self.is_still and bench.is_still and not self.subsets.weights:
            return None
        made = Steer(
            weights=tuple(sorted(self._given().items())),
            ejected=bench.ejected,
            zones=self.spread.zones(),
            detours=self.spread.detours(),
        )
        return made if made != NEUTRAL else None

    def _given(self) -> Mapping[str, int]:
        """What each instance is given: its weight, and of that what makes the load of callers' subsets even."""
        even = self.subsets.weights
        if not even:
            return self.weights
        names = even.keys() | self.weights.keys()
        return {name: self.weights.get(name, FAIR) * even.get(name, FAIR) // FAIR or 1 for name in names}

    def standings(self, ground: Ground, bench: Bench, links: Links) -> Iterator[Standing]:
        """How each instance stands with these callers."""
        for site in ground.sites:
            tracks = self.costs.tracks.get(site.workload, {})
            track = tracks.get("") or next(iter(tracks.values()), None)
            verdict = bench.verdicts.get(site.workload)
            state = bench.state(site.workload)
            weight = self.weights.get(site.workload, FAIR)
            reason = verdict.reason if verdict else ""
            yield Standing(
                workload=site.workload,
                zone=site.zone,
                caller_zone=self.zone,
                weight=weight,
                state=state,
                until=verdict.until if verdict and state is Admission.EJECTED else 0.0,
                reason=reason or (self._why(site.workload) if weight != FAIR else ""),
                latency_us=track.latency_us if track else 0.0,
                service_us=track.service_us if track else 0.0,
                network_us=self.network_us(links, site.zone, ""),
            )
