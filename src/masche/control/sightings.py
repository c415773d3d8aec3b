"""What callers saw of instances since steering last looked, from the Reports of any number of proxies.

Invariant: nothing is lost and nothing counts twice, however many Reports of a proxy come in one interval: counts add
up, and a mean is weighted by what it was taken of. What contradicts itself is believed no further than it can be true.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from masche.compiler.steer.seen import Key, Seen
from masche.link.messages import EndpointReport, Histogram
from masche.telemetry.histogram import bounds

MOST_CALLS = 1_000_000
"""No proxy makes more calls to one instance between two Reports; whoever says so is not believed."""

Sight = tuple[str, str, str]
"""An instance, the zone of the gateway on the way to it ("" directly), and the caller's proxy."""


@dataclass(slots=True, kw_only=True)
class _Sum:
    """One sight over the interval; sums in microseconds."""

    zone: str
    errors: int = 0
    timeouts: int = 0
    active: int = 0
    timed: int = 0
    latency_sum: int = 0
    service_timed: int = 0
    service_sum: int = 0
    rtt_us: int = 0
    is_ejected: bool = False

    def add(self, report: EndpointReport) -> None:
        """Count one Report; what is as of now replaces what was."""
        self.errors += min(report.errors, MOST_CALLS)
        self.timed += (timed := _count(report.latency))
        self.latency_sum += _total(report.latency, timed)
        self.service_timed += (served := _count(report.service_time))
        self.service_sum += _total(report.service_time, served)
        self.timeouts += min(report.timeouts, MOST_CALLS)
        self.active = min(report.active, MOST_CALLS)
        self.rtt_us = report.rtt_us or self.rtt_us
        self.is_ejected = report.is_ejected

    def seen(self, sight: Sight) -> Seen:
        """The interval as steering takes it."""
        workload, via, caller = sight
        return Seen(
            workload=workload,
            zone=self.zone,
            via=via,
            caller=caller,
            # A proxy shows how often it was answered a moment before it shows how fast: count what was timed.
            answers=self.timed,
            errors=self.errors,
            timeouts=self.timeouts,
            active=self.active,
            latency_us=self.latency_sum / self.timed if self.timed else 0.0,
            service_us=self.service_sum / self.service_timed if self.service_timed else 0.0,
            rtt_us=float(self.rtt_us),
            is_ejected=self.is_ejected,
        )


@dataclass(slots=True)
class Sightings:
    """Collects until ``taken``."""

    _sums: dict[Key, dict[Sight, _Sum]] = field(default_factory=dict[Key, dict[Sight, _Sum]])

    def add(self, key: Key, sight: Sight, report: EndpointReport, *, zone: str) -> None:
        """Count what one proxy reports of one instance in ``zone``."""
        self._sum(key, sight, zone).add(report)

    def judge(self, key: Key, sight: Sight, *, zone: str, is_ejected: bool) -> None:
        """A caller cut an instance off, or let it in again, and says so at once."""
        self._sum(key, sight, zone).is_ejected = is_ejected

    def _sum(self, key: Key, sight: Sight, zone: str) -> _Sum:
        if (some := self._sums.get(key)) is None:
            some = self._sums[key] = {}
        if (found := some.get(sight)) is None:
            found = some[sight] = _Sum(zone=zone)
        return found

    def taken(self) -> Iterator[tuple[Key, tuple[Seen, ...]]]:
        """Everything since the last time, key by key, and begin anew at once."""
        sums, self._sums = self._sums, {}
        return ((key, tuple(each.seen(sight) for sight, each in some.items())) for key, some in sums.items())


def _count(histogram: Histogram) -> int:
    return min(sum(histogram.buckets.values()), MOST_CALLS)


def _total(histogram: Histogram, count: int) -> int:
    """The sum of ``count`` values: as reported, as far as the buckets allow it."""
    if not count:
        return 0
    low, high = bounds(min(histogram.buckets))[0], bounds(max(histogram.buckets))[1]
    return min(max(histogram.sum_us, count * low), count * high)
