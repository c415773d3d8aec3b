"""What flowed along each edge, second by second: for ``top``, the dashboard and steering; kept in memory, bounded.

Each edge has two rings, of one second for a quarter of an hour and of ten seconds for three hours. A slot is packed
when it is written; an edge takes 16 KB, and up to 400 KB when it was busy in every second with widely spread latencies.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from masche.model.frozen import frozen
from masche.telemetry.histogram import Histogram, pack, unpack

FINE = (1, 900)
COARSE = (10, 1080)
"""(seconds per slot, slots)"""

OTHER = "(other)"
"""Stands for both ends of all edges beyond the limit."""


class Edge(NamedTuple):
    """Calls from ``source`` to a port of ``destination``, both ``namespace/service``.

    With an ``instance`` (``namespace/workload``) it is the part of the edge that this one served.
    """

    source: str
    destination: str
    port: int = 0
    instance: str = ""


@dataclass(slots=True, kw_only=True)
class Sample:
    """What happened on an edge in some span of time; counters are deltas and add up.

    ``failures`` are requests that were not answered, or with a server's error; ``denied`` those that a policy refused
    (no failures). ``latency`` is that of the caller.
    """

    requests: int = 0
    failures: int = 0
    denied: int = 0
    connections: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    latency: Histogram = field(default_factory=Histogram)

    def absorb(self, other: "Sample") -> None:
        """Add what another one counted."""
        for name in COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.latency.absorb(other.latency)


COUNTERS = tuple(each.name for each in fields(Sample) if each.name != "latency")


@frozen
class Summary:
    """An edge over a window of ``seconds``. Latencies in milliseconds, rates per second, ``success`` from 0 to 1.

    Without requests ``success`` is 1 and latencies are 0.
    """

    edge: Edge
    seconds: float
    requests: int
    rate: float
    success: float
    denied_rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


class _Ring:
    """The last ``size`` spans of ``step`` seconds. A slot is bytes: its tick, the counters, the histogram."""

    __slots__ = ("_slots", "size", "step")

    def __init__(self, step: int, size: int) -> None:
        self.step = step
        self.size = size
        self._slots: list[bytes] = [b""] * size

    def add(self, sample: Sample, at: float) -> None:
        tick = int(at // self.step)
        place = tick % self.size
        if old := self._slots[place]:
            held, before = _unpacked(old)
            if held > tick:
                return  # older than the ring is long
            if held == tick:
                before.absorb(sample)
                sample = before
        counters = (getattr(sample, name) for name in COUNTERS)
        self._slots[place] = pack((tick, *counters, *sample.latency.numbers()))

    def between(self, start: float, end: float) -> Iterator[tuple[int, Sample]]:
        """What is in the spans that begin at ``start`` or later and before ``end``, with their ticks, in order."""
        last = int(-(-end // self.step))
        first = max(int(-(-start // self.step)), last - self.size, 0)
        for tick in range(first, last):
            if slot := self._slots[tick % self.size]:
                held, sample = _unpacked(slot)
                if held == tick:
                    yield tick, sample


def _unpacked(slot: bytes) -> tuple[int, Sample]:
    tick, *numbers = unpack(slot)
    counters = dict(zip(COUNTERS, numbers, strict=False))
    return tick, Sample(**counters, latency=Histogram.of_numbers(numbers[len(COUNTERS) :]))


@dataclass(slots=True)
class _Track:
    seen_at: float
    fine: _Ring = field(default_factory=lambda: _Ring(*FINE))
    coarse: _Ring = field(default_factory=lambda: _Ring(*COARSE))


class Series:
    """All edges, at most ``limit`` of them; what exceeds it is counted on one edge named ``OTHER``.

    Times are those of one clock, monotonic or not, in seconds.
    """

    def __init__(self, *, limit: int = 1000) -> None:
        self.limit = limit
        self._tracks: dict[Edge, _Track] = {}

    def __repr__(self) -> str:
        return f"<Series of {len(self._tracks)} edges>"

    def __len__(self) -> int:
        return len(self._tracks)

    def add(self, samples: Mapping[Edge, Sample], *, at: float) -> None:
        """Count what was reported for the second that holds ``at``."""
        for edge, sample in samples.items():
            track = self._track(edge, at)
            if track is None:
                continue
            track.seen_at = max(track.seen_at, at)
            track.fine.add(sample, at)
            track.coarse.add(sample, at)

    def _track(self, edge: Edge, at: float) -> _Track | None:
        if edge in self._tracks:
            return self._tracks[edge]
        if len(self._tracks) >= self.limit:
            self._forget_idle(at)
        if len(self._tracks) >= self.limit:
            if edge.instance:
                return None  # its calls are counted on the whole edge already
            edge = Edge(OTHER, OTHER)
        return self._tracks.setdefault(edge, _Track(at))

    def _forget_idle(self, now: float) -> None:
        """Drop the edges without traffic for as long as the coarse ring remembers, or else the fine one."""
        for age in (COARSE[0] * COARSE[1], FINE[0] * FINE[1]):
            idle = [edge for edge, track in self._tracks.items() if track.seen_at < now - age]
            for edge in idle:
                del self._tracks[edge]
            if idle:
                return

    def edges(self, *, window: float, now: float) -> list[Summary]:
        """All edges with traffic in the last ``window`` seconds, without the parts that single instances served."""
        return self._busy([edge for edge in self._tracks if not edge.instance], window, now)

    def instances(self, edge: Edge, *, window: float, now: float) -> list[Summary]:
        """The parts of an edge that single instances served in the last ``window`` seconds."""
        return self._busy([each for each in self._tracks if each.instance and each[:3] == edge[:3]], window, now)

    def every(self, *, window: float, now: float) -> list[Summary]:
        """All there is with traffic in the last ``window`` seconds, whole edges and parts alike."""
        return self._busy(self._tracks, window, now)

    def _busy(self, edges: Iterable[Edge], window: float, now: float) -> list[Summary]:
        seen = sorted(edge for edge in edges if self._tracks[edge].seen_at >= now - window - COARSE[0])
        totals = ((edge, self.total(edge, window=window, now=now)) for edge in seen)
        return [_summary(edge, total, window) for edge, total in totals if any(getattr(total, c) for c in COUNTERS)]

    def total(self, edge: Edge, *, window: float, now: float) -> Sample:
        """Everything that happened on an edge in the ``window`` seconds before the present one."""
        return _sum(sample for _, sample in self._slots(edge, window, now))

    def summary(self, edge: Edge, *, window: float, now: float) -> Summary:
        """Rates, success and latency of an edge over the last ``window`` seconds (at most three hours)."""
        return _summary(edge, self.total(edge, window=window, now=now), window)

    def _slots(self, edge: Edge, window: float, now: float) -> Iterator[tuple[int, Sample]]:
        track = self._tracks.get(edge)
        if track is None:
            return iter(())
        ring = track.fine if window <= FINE[0] * FINE[1] else track.coarse
        end = now // ring.step * ring.step
        return ring.between(end - window, end)


def _sum(samples: Iterable[Sample]) -> Sample:
    total = Sample()
    for sample in samples:
        total.absorb(sample)
    return total


def _success(sample: Sample) -> float:
    return 1.0 - sample.failures / sample.requests if sample.requests else 1.0


def _summary(edge: Edge, total: Sample, window: float) -> Summary:
    p50, p95, p99 = (total.latency.quantile(q) / 1000 for q in (0.5, 0.95, 0.99))
    return Summary(
        edge=edge,
        seconds=window,
        requests=total.requests,
        rate=total.requests / window,
        success=_success(total),
        denied_rate=total.denied / window,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
    )
