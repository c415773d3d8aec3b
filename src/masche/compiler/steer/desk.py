"""What the callers of one zone know of one port, and what follows for them: weights, ejections, zones and detours."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from masche.compiler.steer.costs import Costs
from masche.compiler.steer.links import Links
from masche.compiler.steer.moves import Move, MoveKind
from masche.compiler.steer.standing import Admission, Standing
from masche.compiler.steer.terrain import Ground
from masche.compiler.steer.verdicts import Bench
from masche.compiler.steer.weights import FAIR, PROBE, Reading, typical, weights
from masche.compiler.steer.words import duration, percent
from masche.compiler.steer.zones import Spread
from masche.model.refs import PortRef
from masche.model.steering import Steer
from masche.model.view import ZonePreference

NOTICED = FAIR // 2
"""A weight that falls below this is worth a sentence, and one that comes back above it as well."""

CROWDED, CROWDED_US = 2.0, 1000.0
"""Instances that take so many times what they took before others were relieved, and so much longer, have too much."""

SETTLING = 0.2
"""The share of a new cost in what is usual while nobody is relieved."""


@dataclass(slots=True)
class Desk:
    """One (Service, port) and one caller zone."""

    port: PortRef
    zone: str
    costs: Costs = field(default_factory=Costs)
    spread: Spread = field(default_factory=Spread)
    weights: dict[str, int] = field(default_factory=dict[str, int])
    _usual_us: dict[str, float] = field(default_factory=dict[str, float])
    _readings: dict[str, Reading] = field(default_factory=dict[str, Reading])

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing left to remember."""
        return not (self.costs.tracks or self.weights or self.spread.shares or self.spread.detours())

    # -- what is decided --------------------------------------------------------------------------------------------

    def weigh(self, ground: Ground, bench: Bench, links: Links, *, now: float) -> Iterator[Move]:
        """Set the weights anew, and tell who was noticed."""
        before = self.weights
        made: dict[str, int] = {}
        for group, names in self._groups(ground, bench).items():
            readings = {name: self._reading(name, links, now=now) for name in names}
            self._readings |= readings
            is_crowded = self._is_crowded(group, readings)
            made |= weights(readings, before, is_crowded=is_crowded)
        made |= dict.fromkeys(bench.ejected | bench.probing, PROBE)
        self.weights = {name: weight for name, weight in made.items() if weight != FAIR and name in ground.names}
        self._readings = {name: each for name, each in self._readings.items() if name in ground.names}
        yield from self._told(before, bench)

    def _groups(self, ground: Ground, bench: Bench) -> Mapping[str, list[str]]:
        """The instances that are compared with each other: those of a zone, or all when zones are alike."""
        is_alike = not self.zone or ground.traffic.locality.preference is ZonePreference.NONE
        groups: dict[str, list[str]] = {}
        for site in ground.sites:
            is_known = site.workload in self.costs.tracks or site.workload in self.weights
            if is_known and bench.state(site.workload) is Admission.ADMITTED:
                groups.setdefault("" if is_alike else site.zone, []).append(site.workload)
        return groups

    def _reading(self, name: str, links: Links, *, now: float) -> Reading:
        zone = next((track.zone for track in self.costs.tracks.get(name, {}).values()), "")
        return self.costs.reading(name, self.network_us(links, zone, ""), now=now)

    def network_us(self, links: Links, zone: str, via: str) -> float:
        """What the network costs on a way from here; 0.0 when it is unknown."""
        route = links.get((self.zone, zone, via))
        return route.network_us if route else 0.0

    def _is_crowded(self, group: str, readings: Mapping[str, Reading]) -> bool:
        """Whether those with a fair share got slow since others were relieved."""
        fair = [each.cost_us for name, each in readings.items() if each.calls and name not in self.weights]
        cost, usual = typical(fair), self._usual_us.get(group, 0.0)
        if len(fair) == len(readings):
            self._usual_us[group] = usual + SETTLING * (cost - usual) if usual else cost
            return False
        return bool(usual) and cost > CROWDED * usual + CROWDED_US

    def _told(self, before: Mapping[str, int], bench: Bench) -> Iterator[Move]:
        callers = f" for callers of zone {self.zone}" if self.zone else ""
        for name in sorted(before.keys() | self.weights.keys()):
            was, weight = before.get(name, FAIR), self.weights.get(name, FAIR)
            if bench.state(name) is not Admission.ADMITTED:
                continue
            if weight < NOTICED <= was:
                why = self._why(name) or "it was ejected"
                sentence = f"{name} gets {weight} % of a fair share of {self.port}{callers}, because {why}"
                yield Move(kind=MoveKind.WEIGHT, severity="warning", about=name, sentence=sentence)
            elif was < NOTICED <= weight:
                sentence = f"{name} answers {self.port} as well as the others again{callers}"
                yield Move(kind=MoveKind.WEIGHT, about=name, sentence=sentence)

    def _why(self, name: str) -> str:
        reading = self._readings.get(name)
        if reading is None or not reading.calls:
            return ""
        if reading.errors > 0.05:
            return f"{percent(reading.errors * 1000)} of its calls fail"
        heard = [each.cost_us for each in self._readings.values() if each.calls]
        best = max(min(heard), 1.0)
        return f"it takes {duration(reading.cost_us)}, {reading.cost_us / best:.1f}x the best"

    # -- what is asked ----------------------------------------------------------------------------------------------

    def steer(self, bench: Bench) -> Steer:
        """What the callers of this zone are given."""
        return Steer(
            weights=tuple(sorted(self.weights.items())),
            ejected=bench.ejected,
            zones=self.spread.zones(),
            detours=self.spread.detours(),
        )

    def standings(self, ground: Ground, bench: Bench, links: Links) -> Iterator[Standing]:
        """How each instance stands with these callers."""
        for site in ground.sites:
            tracks = self.costs.tracks.get(site.workload, {})
            track = tracks.get("") or next(iter(tracks.values()), None)
            verdict = bench.verdicts.get(site.workload)
            state = bench.state(site.workload)
            weight = self.weights.get(site.workload, FAIR)
            reason = self._why(site.workload) if weight < FAIR else ""
            yield Standing(
                workload=site.workload,
                zone=site.zone,
                caller_zone=self.zone,
                weight=weight,
                state=state,
                until=verdict.until if verdict and state is Admission.EJECTED else 0.0,
                reason=verdict.reason if verdict and verdict.reason else reason,
                latency_us=track.latency.mean if track else 0.0,
                service_us=track.service.mean if track else 0.0,
                network_us=self.network_us(links, site.zone, ""),
            )
