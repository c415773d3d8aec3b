"""What callers saw of instances since steering last looked, from the Reports of any number of proxies.

Invariant: nothing is lost and nothing counts twice, however many Reports of a proxy come in one interval: counts add
up, and a mean is weighted by what it was taken of.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from masche.compiler.steer.seen import Key, Seen
from masche.link.messages import EndpointReport, Histogram

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
        self.errors += report.errors
        self.timed += _count(report.latency)
        self.latency_sum += report.latency.sum_us
        self.service_timed += _count(report.service_time)
        self.service_sum += report.service_time.sum_us
        self.timeouts += report.timeouts
        self.active = report.active
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
    return sum(histogram.buckets.values())
