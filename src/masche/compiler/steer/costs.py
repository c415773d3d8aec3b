"""What calls of one port cost, as the callers of a zone measured it: by instance, and by zone and way.

The caller's time is taken apart into the network's part and the instance's own; where an instance says nothing of its
own part, TCP's round trip stands for the network, and failing that zones are only compared with each other. Sums are
whole microseconds, so that they are exact in whatever order reports come, and a look costs no more than what is new.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from math import sqrt

from masche.compiler.steer.bands import Band, Bands
from masche.compiler.steer.interval import Interval, Intervals
from masche.compiler.steer.track import NEVER, Carried, Row, Track
from masche.compiler.steer.weights import FAIR, Reading
from masche.compiler.steer.window import SPAN, median

RATE_DAMPING = 0.3
"""The share of a new interval in the average of calls per interval."""

FEWEST = 3
"""Of fewer calls to a zone nothing is said."""

FAILING = 0.05
"""A zone fails when more than this share of the calls to it does."""


@dataclass(slots=True)
class Account:
    """What the callers experience of one zone: each instance counts as much as calls are given to it now.

    ``tracks`` are those of its instances, each with its way and the part of a fair share that it is given.
    """

    tracks: list[tuple[str, Track, float]] = field(default_factory=list[tuple[str, Track, float]])

    def latency_us(self, via: str) -> float:
        """The callers' time with a typical instance by a way; 0.0 when too little is known."""
        found = [(each, part) for way, each, part in self.tracks if way == via and each.timed]
        if sum(each.timed for each, _ in found) < FEWEST:
            return 0.0
        return median([(each.latency_median, part) for each, part in found])

    @property
    def service_us(self) -> float:
        """The own time of a typical instance; 0.0 when too little is known."""
        found = [(each, part) for _, each, part in self.tracks if each.served]
        if sum(each.served for each, _ in found) < FEWEST:
            return 0.0
        return median([(each.service_median, part) for each, part in found])

    @property
    def errors(self) -> float:
        """The share of calls that fail, if it is beyond chance; else 0.0."""
        failures = sum(each.failures for _, each, _ in self.tracks)
        if failures < FEWEST:
            return 0.0
        called = [(each, part) for _, each, part in self.tracks if each.calls]
        share = sum(part * each.failures / each.calls for each, part in called) / sum(part for _, part in called)
        return share if share > FAILING else 0.0

    @property
    def heard_at(self) -> float:
        """When a call on the direct way last ended."""
        return max((each.heard_at for via, each, _ in self.tracks if not via), default=float("-inf"))


@dataclass(slots=True)
class Costs:
    """All instances of one port as the callers of one zone have them: by name, then by way.

    ``rate`` is calls per interval and ``callers`` how many make them, both averages; ``bands`` are the
    bounds of it all.
    """

    tracks: dict[str, dict[str, Track]] = field(default_factory=dict[str, dict[str, Track]])
    rate: float = 0.0
    callers: float = 0.0
    bands: Bands = field(default_factory=Bands)

    def heard(
        self,
        intervals: Intervals,
        carried: Callable[[str, str], Carried],
        *,
        callers: int = 1,
        wait_us: float,
        at: float,
    ) -> None:
        """Take an interval of so many ``callers``; ``carried`` says what the network did, by zone and way."""
        calls = 0
        known: dict[tuple[str, str], Carried] = {}
        bands: dict[str, Band] = {}
        for (name, via), interval in intervals.items():
            if (ways := self.tracks.get(name)) is None:
                ways = self.tracks[name] = {}
            if (track := ways.get(via)) is None:
                track = ways[via] = Track(interval.zone)
            zone = track.zone = interval.zone
            if not interval.answers and not interval.errors:
                track.waited(interval.active, wait_us=wait_us, at=at)
                self.bands.odd_at = at if interval.active else self.bands.odd_at
                continue
            if (way := known.get((zone, via))) is None:
                way = known[zone, via] = carried(zone, via)
            row = _row(interval, way, wait_us=wait_us, at=at)
            track.add(row, active=interval.active)
            calls += row.calls
            if via or row.served != row.calls or row.timed != row.calls:
                self.bands.odd_at = at
                if via or not row.answers:
                    continue
            latency, own = row.latency_sum / row.timed, row.own_sum / row.timed
            if (band := bands.get(zone)) is None:
                bands[zone] = Band(row.calls, latency, own, row.extra)
            else:
                band.add(row.calls, latency, own, row.extra)
        self.bands.add(bands, at=at)
        self.rate += RATE_DAMPING * (calls - self.rate)
        self.callers += RATE_DAMPING * (callers - self.callers)

    def keep(self, present: frozenset[str], *, now: float) -> None:
        """Forget who is gone, and what is old."""
        gone = set[str]()
        oldest = NEVER
        for name, ways in self.tracks.items():
            if name not in present:
                gone.add(name)
                continue
            for track in ways.values():
                if (taken_at := track.trim(now=now)) < oldest:
                    oldest = taken_at
                elif taken_at == NEVER:
                    gone.add(name)
        for name in gone:
            left = {via: each for via, each in self.tracks[name].items() if each.asked and name in present}
            if left:
                self.tracks[name] = left
            else:
                del self.tracks[name]
        self.bands.trim(oldest)

    def own_us(self) -> dict[str, tuple[float, float]]:
        """The least and the greatest of the mean own times of each zone's instances."""
        found: dict[str, tuple[float, float]] = {}
        for each in self.every():
            mean = each.own_sum / each.timed if each.timed else 0.0
            low, high = found.get(each.zone, (mean, mean))
            found[each.zone] = (mean, high) if mean < low else (low, max(high, mean))
        return found

    def taken_us(self, *, now: float) -> dict[str, float]:
        """What the instances of each zone took of themselves, on average, in the interval that ended ``now``."""
        return {zone: band.own / band.count for zone, band in self.bands.latest(now=now).items()}

    def every(self) -> Iterator[Track]:
        """All tracks."""
        return (track for ways in self.tracks.values() for track in ways.values())

    def forget(self, workload: str) -> None:
        """Forget what an instance was like, because it is given another chance."""
        self.tracks.pop(workload, None)

    def is_failing(self, *, but: Set[str]) -> bool:
        """Whether calls to all ``but`` these fail, too, and oftener than chance or one poor caller would have it."""
        tracks = [each for name, ways in self.tracks.items() if name not in but for each in ways.values()]
        failures = sum(each.failures for each in tracks)
        return failures >= FEWEST and failures > FAILING * sum(each.asked for each in tracks)

    def reading(self, workload: str, network_us: float, *, now: float) -> Reading:
        """One instance by all ways; ``network_us`` is what the direct one costs now."""
        ways = self.tracks.get(workload)
        if not ways:
            return Reading(0.0, 0)
        timed = own = calls = 0
        extra, failed, heard_at = 0.0, 0.0, float("-inf")
        for via in sorted(ways) if len(ways) > 1 else ways:
            each = ways[via]
            timed += each.timed
            own += each.own_sum
            extra += each.timed * each.extra_median
            calls += each.asked
            failed += each.failures
            heard_at = max(heard_at, each.heard_at)
        if not calls:
            return Reading(0.0, 0)
        cost = (own + extra) / timed + network_us if timed else 0.0
        return Reading(cost, calls, failed / calls, now - heard_at > SPAN)

    def accounts(
        self, weights: Mapping[str, int], absent: frozenset[str], falling: frozenset[str]
    ) -> dict[str, Account]:
        """What callers experience of each zone with these ``weights``, which ``absent`` ones do not share.

        A weight that is ``falling`` counts for a tenth: it is on its way down, and will be there before a zone has
        been judged. Who is absent counts only in a zone where nobody else is known.
        """
        found: dict[str, Account] = {}
        spare: dict[str, Account] = {}
        for name, ways in self.tracks.items():
            part = weights.get(name, FAIR) / (10 * FAIR if name in falling else FAIR) if weights else 1.0
            into = spare if name in absent else found
            total = sum(each.calls for each in ways.values()) if len(ways) > 1 else 0
            for via, each in ways.items():
                if (account := into.get(each.zone)) is None:
                    account = into[each.zone] = Account()
                account.tracks.append((via, each, part * each.calls / total if total else part))
        return spare | found


def _row(interval: Interval, carried: Carried, *, wait_us: float, at: float) -> Row:
    """What a track keeps of an interval in which calls ended; one that timed out took ``wait_us`` at least."""
    answers, network = interval.answers, carried.network_us
    if interval.errors or interval.timeouts or interval.served != answers:
        return _mixed(interval, carried, wait_us=wait_us, at=at)
    latency, own = interval.latency_sum, interval.service_sum
    beyond = (latency - own) / answers - network
    extra = beyond if beyond > network else 0.0
    return Row(at, answers, answers, answers, answers, answers, latency, own, own, 0.0, extra)


def _mixed(interval: Interval, carried: Carried, *, wait_us: float, at: float) -> Row:
    """The same of an interval in which some calls failed, or an instance did not say what its part was."""
    answers, errors = interval.answers, interval.errors
    failures = own_timeouts = 0.0
    if errors or interval.timeouts:
        calls = answers + errors
        failures = _unexpected(errors, calls, carried)
        own_timeouts = _unexpected(interval.timeouts, calls, carried)
    latency = interval.latency_sum / answers if answers else 0.0
    service = interval.service_sum / interval.served if interval.served else 0.0
    own = service or max(0.0, latency - carried.network_us)
    beyond = latency - own - carried.network_us if answers else 0.0
    wait, timed = max(wait_us, latency), answers + interval.timeouts
    return Row(
        at=at,
        calls=answers + errors,
        answers=answers,
        timed=timed,
        asked=max(answers + errors, timed),
        served=interval.served and answers,
        latency_sum=interval.latency_sum + round(interval.timeouts * wait),
        own_sum=round(answers * own + own_timeouts * wait),
        service_sum=round(service * answers),
        failures=failures,
        extra=beyond if beyond > carried.network_us else 0.0,
    )


def _unexpected(failed: int, calls: int, carried: Carried) -> float:
    """Those of the failed calls that the link and chance do not explain."""
    expected = carried.lost * calls
    beyond = failed - expected
    return beyond if beyond > 2.0 * sqrt(expected) else 0.0
