"""What calls of one port cost, as the callers of a zone measured it: by instance, and by zone and way.

The caller's time is taken apart into the network's part and the instance's own; where an instance says nothing of its
own part, TCP's round trip stands for the network, and failing that zones are only compared with each other.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import fsum, sqrt

from masche.compiler.steer.links import Passage, Way
from masche.compiler.steer.seen import Seen
from masche.compiler.steer.weights import Reading
from masche.compiler.steer.window import SPAN, Window, median

UNKNOWN = -1.0
MICROSECONDS = 1_000_000
STUCK_AFTER = 2.0
"""Seconds without any answer, while calls pile up, after which an instance counts as stuck."""

RATE_DAMPING = 0.3
"""The share of a new interval in the average of calls per interval."""

PILE = 3
"""So many more calls waiting than twice those at its last answer are a pile."""


@dataclass(slots=True)
class Interval:
    """What all callers of one zone saw of one instance by one way in one interval, summed."""

    zone: str = ""
    answers: int = 0
    errors: int = 0
    timeouts: int = 0
    active: int = 0
    rtt_us: float = 0.0
    _latency: list[float] = field(default_factory=list[float])
    _service: list[float] = field(default_factory=list[float])
    _served: int = 0

    def add(self, seen: Seen) -> None:
        """Add what one caller saw; the order does not matter."""
        self.zone = max(self.zone, seen.zone)
        self.answers += seen.answers
        self.errors += seen.errors
        self.timeouts += seen.timeouts
        self.active += seen.active
        self._latency.append(seen.answers * seen.latency_us)
        if seen.service_us > 0.0:
            self._service.append(seen.answers * seen.service_us)
            self._served += seen.answers
        if seen.rtt_us > 0.0:
            self.rtt_us = min(self.rtt_us or seen.rtt_us, seen.rtt_us)

    @property
    def calls(self) -> int:
        """All that ended."""
        return self.answers + self.errors

    @property
    def latency_us(self) -> float:
        """The mean of the callers' time over the answers; 0.0 without any."""
        return fsum(self._latency) / self.answers if self.answers else 0.0

    @property
    def service_us(self) -> float:
        """The mean of the instance's own time; 0.0 when it did not say."""
        return fsum(self._service) / self._served if self._served else 0.0

    @property
    def network_us(self) -> float:
        """The rest, or the round trip of TCP; ``UNKNOWN`` when there is neither."""
        if self._served:
            return max(0.0, self.latency_us - self.service_us)
        return min(self.rtt_us, self.latency_us) if self.rtt_us and self.answers else UNKNOWN

    def passage(self, home_us: float) -> Passage:
        """What it says of the link, if a call at home takes ``home_us`` (0.0 when that is unknown)."""
        network = self.network_us
        if network == UNKNOWN and home_us and self.answers:
            network = max(0.0, self.latency_us - home_us)
        lost = self.timeouts if self.answers else self.errors
        return Passage(network_us=network, answers=self.answers, calls=self.calls, lost=min(lost, self.calls))


Intervals = dict[tuple[str, str], Interval]
"""By instance and way (the zone of the gateway, "" for none)."""


def summed(seens: Iterable[Seen]) -> Intervals:
    """Sum up an interval."""
    made: Intervals = {}
    for seen in seens:
        key = (seen.workload, seen.via)
        if (interval := made.get(key)) is None:
            interval = made[key] = Interval()
        interval.add(seen)
    return made


def passages(zone: str, intervals: Intervals) -> Iterator[tuple[Way, Passage]]:
    """Yield what an interval says of the links that start in ``zone``.

    Where neither an instance nor TCP says anything, the network's part is what it takes longer than those at home.
    """
    at_home = [(each.latency_us, each.answers) for each in intervals.values() if each.zone == zone and each.answers]
    home = median(at_home)
    for (_, via), each in intervals.items():
        if zone and each.zone and each.zone != zone:
            yield (zone, each.zone, via), each.passage(home)


@dataclass(frozen=True, slots=True)
class Carried:
    """What the network between a caller zone and an instance's did in the same interval."""

    network_us: float = 0.0
    lost: float = 0.0


AT_HOME = Carried()
"""Within a zone the network counts for nothing."""


@dataclass(slots=True)
class Track:
    """One instance by one way, over the recent past.

    ``latency`` is the callers' time. ``own`` is the instance's part of it, with what its losses beyond those of the
    link cost, and ``extra`` is what the network takes to this instance alone, if that is more than to all others.
    """

    zone: str
    latency: Window = field(default_factory=lambda: Window(enough=12))
    service: Window = field(default_factory=lambda: Window(enough=6))
    own: Window = field(default_factory=lambda: Window(enough=12))
    extra: Window = field(default_factory=lambda: Window(enough=6))
    errors: Window = field(default_factory=lambda: Window(enough=12))
    _active: int = 0
    _ended_at: float = float("-inf")

    def heard(self, interval: Interval, carried: Carried, *, wait_us: float, at: float) -> None:
        """Take an interval; a call that timed out took ``wait_us`` at least."""
        if interval.calls:
            own_errors = _unexpected(interval.errors, interval, carried)
            self.errors.add(own_errors / interval.calls, interval.calls, at=at)
            self._time(interval, carried, wait_us=wait_us, at=at)
            self._active, self._ended_at = interval.active, at
        elif interval.active > 2 * self._active + PILE and at - self._ended_at > STUCK_AFTER:
            stuck = min(at - self._ended_at, wait_us / MICROSECONDS) * MICROSECONDS
            self.latency.add(stuck, interval.active, at=at)
            self.own.add(stuck, interval.active, at=at)

    def _time(self, interval: Interval, carried: Carried, *, wait_us: float, at: float) -> None:
        timed = interval.answers + interval.timeouts
        if not timed:
            return
        wait = max(wait_us, interval.latency_us)
        self.latency.add((interval.answers * interval.latency_us + interval.timeouts * wait) / timed, timed, at=at)
        own = interval.service_us or max(0.0, interval.latency_us - carried.network_us)
        if interval.answers:
            beyond = interval.latency_us - own - carried.network_us
            self.extra.add(beyond if beyond > carried.network_us else 0.0, interval.answers, at=at)
        if interval.service_us:
            self.service.add(interval.service_us, interval.answers, at=at)
        self.own.add(
            (interval.answers * own + _unexpected(interval.timeouts, interval, carried) * wait) / timed, timed, at=at
        )

    def trim(self, *, now: float) -> bool:
        """Let go of what is old; say whether anything is left."""
        for each in (self.latency, self.service, self.own, self.extra, self.errors):
            each.trim(now=now)
        return bool(self.latency.count or self.errors.count)

    @property
    def calls(self) -> int:
        """How many calls are remembered."""
        return max(self.latency.count, self.errors.count)

    @property
    def heard_at(self) -> float:
        """When a call last ended."""
        return max(self.latency.heard_at, self.errors.heard_at)


@dataclass(slots=True)
class Costs:
    """All instances of one port as the callers of one zone have them: by name, then by way."""

    tracks: dict[str, dict[str, Track]] = field(default_factory=dict[str, dict[str, Track]])
    rate: float = 0.0

    def heard(self, intervals: Intervals, carried: Callable[[str, str], Carried], *, wait_us: float, at: float) -> None:
        """Take an interval; ``carried`` says what the network did, by zone and way."""
        for (name, via), interval in intervals.items():
            ways = self.tracks.setdefault(name, {})
            if (track := ways.get(via)) is None:
                track = ways[via] = Track(interval.zone)
            track.zone = interval.zone
            track.heard(interval, carried(interval.zone, via), wait_us=wait_us, at=at)
        self.rate += RATE_DAMPING * (sum(each.calls for each in intervals.values()) - self.rate)

    def keep(self, present: frozenset[str], *, now: float) -> None:
        """Forget who is gone, and what is old."""
        for name, ways in list(self.tracks.items()):
            for via in [via for via, each in ways.items() if not each.trim(now=now)]:
                del ways[via]
            if not ways or name not in present:
                del self.tracks[name]

    def forget(self, workload: str) -> None:
        """Forget what an instance was like, because it is given another chance."""
        self.tracks.pop(workload, None)

    def reading(self, workload: str, network_us: float, *, now: float) -> Reading:
        """One instance by all ways; ``network_us`` is what the direct one costs now."""
        ways = [*self.tracks.get(workload, {}).values()]
        calls = sum(each.calls for each in ways)
        if not calls:
            return Reading(0.0, 0)
        timed = sum(each.own.count for each in ways)
        own = fsum(sorted(each.own.count * (each.own.mean + each.extra.median) for each in ways))
        failed = fsum(sorted(each.errors.mean * each.errors.count for each in ways))
        is_silent = now - max(each.heard_at for each in ways) > SPAN
        return Reading(own / timed + network_us if timed else 0.0, calls, failed / calls, is_silent)

    def of_zone(self, zone: str) -> list[tuple[str, Track]]:
        """The tracks of a zone's instances, with their ways."""
        return [(via, each) for ways in self.tracks.values() for via, each in ways.items() if each.zone == zone]

    def latency_us(self, zone: str, via: str) -> float:
        """The callers' time with a typical instance of a zone by a way; 0.0 when too little is known."""
        found = [each.latency for way, each in self.of_zone(zone) if way == via and each.latency.count]
        return _typical(found)

    def service_us(self, zone: str) -> float:
        """The own time of a typical instance of a zone; 0.0 when too little is known."""
        return _typical([each.service for _, each in self.of_zone(zone) if each.service.count])

    def errors(self, zone: str) -> float:
        """The share of calls to a zone's instances that fail, if it is beyond chance; else 0.0."""
        found = [each.errors for _, each in self.of_zone(zone)]
        calls = sum(each.count for each in found)
        failed = fsum(sorted(each.mean * each.count for each in found))
        return failed / calls if failed >= 3 and failed > 0.05 * calls else 0.0


def _unexpected(failed: int, interval: Interval, carried: Carried) -> float:
    """Those of the failed calls that the link and chance do not explain."""
    expected = carried.lost * interval.calls
    beyond = failed - expected
    return beyond if beyond > 2.0 * sqrt(expected) else 0.0


def _typical(windows: list[Window]) -> float:
    weighted = [(each.median, each.count) for each in windows]
    return median(weighted) if sum(count for _, count in weighted) >= 3 else 0.0
