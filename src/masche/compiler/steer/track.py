"""One instance by one way over the recent past: three seconds where much is heard, further back where little is.

Invariant: sums are kept as intervals come and go, in whole microseconds, so that they are those of the rows that are
left, exactly; nothing older than ``OLDEST`` counts.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from masche.compiler.steer.window import OLDEST, SPAN, median

ENOUGH = 12
"""So many calls are kept even when they are older than the span."""

MICROSECONDS = 1_000_000
STUCK_AFTER = 2.0
"""Seconds for which calls pile up without any answer, after which an instance counts as stuck."""

NEVER = float("inf")

PILE = 3
"""So many more calls waiting than twice those at its last answer are a pile."""


class Carried(NamedTuple):
    """What the network between a caller zone and an instance's did in the same interval."""

    network_us: float = 0.0
    lost: float = 0.0


AT_HOME = Carried()
"""Within a zone the network counts for nothing."""


class Row(NamedTuple):
    """An interval: counts, sums in microseconds, and ``extra`` as a mean.

    ``asked`` are the calls that ended, or that wait and show by it that the instance is stuck.
    """

    at: float
    calls: int
    answers: int
    timed: int
    served: int
    asked: int
    latency_sum: int
    own_sum: int
    service_sum: int
    failures: float
    extra: float


@dataclass(slots=True)
class Track:
    """``latency`` is the callers' time. ``own`` is the instance's part of it, with what its losses beyond those of the
    link cost, and ``extra`` is what the network takes to this instance alone, if that is more than to all others.
    """

    zone: str
    calls: int = 0
    timed: int = 0
    served: int = 0
    asked: int = 0
    latency_sum: int = 0
    own_sum: int = 0
    service_sum: int = 0
    failures: float = 0.0
    heard_at: float = float("-inf")
    _rows: deque[Row] = field(default_factory=deque[Row])
    _active: int = 0
    _unpiled_at: float = float("-inf")
    _seen_at: float = float("-inf")

    def add(self, row: Row, *, active: int) -> None:
        """Take an interval in which calls ended, at whose end ``active`` waited."""
        self._active = active
        self._unpiled_at = self._seen_at = row.at
        self._take(row)

    def waited(self, active: int, *, wait_us: float, at: float) -> None:
        """Take an interval in which none ended, while ``active`` wait. How long nobody called says nothing."""
        is_pile = active > 2 * self._active + PILE and at - self._seen_at <= STUCK_AFTER
        self._seen_at = at
        if not is_pile:
            self._unpiled_at = at
        elif (piled := at - self._unpiled_at) > STUCK_AFTER:
            stuck = round(active * min(piled * MICROSECONDS, wait_us))
            self._take(Row(at, 0, 0, active, 0, active, stuck, stuck, 0, 0.0, 0.0))

    def _take(self, row: Row) -> None:
        self._rows.append(row)
        at, calls, _, timed, served, asked, latency_sum, own_sum, service_sum, failures, _ = row
        self.heard_at = at
        self.calls += calls
        self.timed += timed
        self.served += served
        self.asked += asked
        self.latency_sum += latency_sum
        self.own_sum += own_sum
        self.service_sum += service_sum
        if failures:
            self.failures = sum(each.failures for each in self._rows)

    def trim(self, *, now: float) -> float:
        """Let go of what is old, as long as enough is left; return when the oldest that is left was taken, ``NEVER``
        if nothing is.
        """
        rows = self._rows
        while rows:
            first = rows[0]
            if first.at > now - SPAN:
                return first.at
            if self.asked - first.asked < ENOUGH and first.at > now - OLDEST:
                return first.at
            self._drop(rows.popleft())
        return NEVER

    def _drop(self, row: Row) -> None:
        _, calls, _, timed, served, asked, latency_sum, own_sum, service_sum, failures, _ = row
        self.calls -= calls
        self.timed -= timed
        self.served -= served
        self.asked -= asked
        self.latency_sum -= latency_sum
        self.own_sum -= own_sum
        self.service_sum -= service_sum
        if failures:
            self.failures = sum(each.failures for each in self._rows)

    # -- what is known ----------------------------------------------------------------------------------------------

    @property
    def latency_us(self) -> float:
        """The mean of the callers' time; 0.0 unknown."""
        return self.latency_sum / self.timed if self.timed else 0.0

    @property
    def service_us(self) -> float:
        """The mean of the instance's own time, as it says itself; 0.0 unknown."""
        return self.service_sum / self.served if self.served else 0.0

    @property
    def latency_median(self) -> float:
        """The weighted median of the intervals' means: one odd interval among three does not move it."""
        return median([(each.latency_sum / each.timed, each.timed) for each in self._rows if each.timed])

    @property
    def service_median(self) -> float:
        """The same of the instance's own time."""
        return median([(each.service_sum / each.served, each.served) for each in self._rows if each.served])

    @property
    def extra_median(self) -> float:
        """The same of what the network takes to this instance alone."""
        if not any(each.extra for each in self._rows):
            return 0.0
        return median([(each.extra, each.answers) for each in self._rows if each.answers])
