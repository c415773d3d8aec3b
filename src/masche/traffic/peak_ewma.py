"""Which instance answers slowly, fails or hangs: latency that jumps to its peaks at once and forgets them in time.

The measure is Finagle's and linkerd's Peak EWMA ("Beyond Round Robin: Load Balancing for Latency", linkerd.io, 2016;
``com.twitter.finagle.loadbalancer.PeakEwma``): cost = latency x (outstanding + 1). Five things differ, each for a
reason that was measured or suffered elsewhere:

1. Latency is taken relative to the group's fast quarter, and differences below ``tolerance`` are none. Noise moves no
   traffic, and nothing is gained by answering faster than the fast quarter: a fast wrong answer attracts nobody.
2. Recent faults raise the cost by up to ``penalty`` times, and who fails or denies more often than its peers (or never
   answered yet) is never thought emptier than the group's mean: what fails fast has few calls outstanding, which is no
   merit. How fast a denial comes says nothing of latency.
3. A call that is under way for longer than the peers' peaks is evidence before it ends.
4. What was not measured lately decays towards the group, not towards zero: a forgotten peak is no advantage.
5. An avoided instance gets one probe at a time, not more often than every ``probe`` seconds (doubling up to
   ``probe_limit`` while probes fail) and after four rounds of calls to the others; each good probe halves its faults
   and takes the square root of its distance. So it is back after a few good answers, and never has more than its share.
"""

from collections import deque
from math import exp, inf, sqrt

from masche.traffic.load import Gauge, Ticket
from masche.traffic.outcome import Outcome

TINY = 1e-9
"""Seconds below which latencies are not told apart."""
BLEMISH = 0.05
"""The rate of recent faults from which an instance is avoided."""
FAULT_STEP = 0.25
"""How far one fault moves the rate of recent faults towards 1; each success halves it."""
RECORD_STEP = 1 / 32
"""How far one answer moves the longer record of faults, at least; time without news fades it, too."""
RECORD_ROOM = 0.02
"""With a record twice the median's and this more an instance is suspect, and its latency is no example to others."""
OVERDUE_COST = 4.0
"""What an overdue call multiplies the cost of its instance with, at least."""
PROBE_ROUNDS = 4
"""An avoided instance waits for so many calls per instance of the group between probes."""


class PeakEwma:
    """The group: what is typical in it, and how many calls it has under way.

    ``tau``: seconds in which a peak fades to 37 %. ``tolerance``: ratio to the fast quarter below which latencies count
    as equal, above 1. ``penalty``: cost of an instance that only fails, in multiples, minus one. ``probe`` and
    ``probe_limit``: seconds between probes of an avoided instance, at least and at most.
    """

    __slots__ = (
        "_gauges", "bound", "calls", "ceiling", "fresh", "limit", "outstanding", "penalty", "probe", "probe_limit",
        "reference", "settled", "size", "tau", "tolerance",
    )  # fmt: skip

    def __init__(
        self,
        *,
        tau: float = 10.0,
        tolerance: float = 1.5,
        penalty: float = 10.0,
        probe: float = 1.0,
        probe_limit: float = 5.0,
    ) -> None:
        if tau <= 0 or tolerance <= 1 or penalty < 1 or not 0 < probe <= probe_limit:
            raise ValueError("tau above 0, tolerance above 1, penalty from 1, and probe above 0 and within probe_limit")
        self.tau, self.tolerance, self.penalty = tau, tolerance, penalty
        self.probe, self.probe_limit = probe, probe_limit
        self._gauges: dict[int, PeakGauge] = {}
        self.calls = self.outstanding = self.settled = self.fresh = self.size = 0
        self.reference, self.limit, self.ceiling, self.bound = 0.0, inf, inf, RECORD_ROOM

    def __repr__(self) -> str:
        return (
            f"<PeakEwma of {len(self._gauges)}: typical {self.reference * 1000:.3g} ms, {self.outstanding} outstanding>"
        )

    def __len__(self) -> int:
        """Instances."""
        return len(self._gauges)

    def join(self) -> "PeakGauge":
        """Return the gauge of a new instance: as fast as is typical, and as busy as the mean until it has answered."""
        gauge = PeakGauge(self)
        self._gauges[id(gauge)] = gauge
        self.size = len(self._gauges)
        return gauge

    def leave(self, gauge: Gauge) -> None:
        """Forget an instance, and what it has under way."""
        found = self._gauges.pop(id(gauge), None)
        if found is not None:
            found.is_member = False
            self.size = len(self._gauges)
            self.outstanding -= gauge.outstanding

    def look(self, *, now: float) -> None:
        """Look again at what is typical: once in a round of answers, of which ``fresh`` are left."""
        size = self.size
        self.fresh = max(size, 8) if self.settled >= 2 * size else 1
        if not size or self.settled < 2 * size:
            return
        gauges = self._gauges.values()
        self.bound = bound = 2 * sorted([gauge.record for gauge in gauges])[(size - 1) // 2] + RECORD_ROOM
        known = sorted([gauge.latency for gauge in gauges if gauge.latency > 0 and gauge.record <= bound])
        if known:
            count = len(known)
            self.reference = known[max(count // 4, 1 if count > 2 else 0)]
            self.limit = self.reference * self.tolerance
            self.ceiling = max(known[count * 3 // 4], self.reference)
        limit = self.limit
        for gauge in gauges:
            if gauge.is_avoided or gauge.latency > limit or gauge.faults >= BLEMISH:
                gauge.judge(now=now)
            else:  # which is what ``judge`` says of nearly all
                gauge.is_plain = gauge.latency > 0 and gauge.record <= bound


class PeakGauge:
    """One instance: its decayed peak of latency, its rate of faults, and its calls under way, oldest first."""

    __slots__ = (
        "_group", "_interval", "_open", "_probe_after", "_probe_at", "_seen_at", "faults", "is_avoided", "is_member",
        "is_plain", "latency", "outstanding", "record",
    )  # fmt: skip

    def __init__(self, group: PeakEwma) -> None:
        self._group = group
        self.outstanding = 0
        self.latency = 0.0
        self.faults = self.record = 0.0
        self.is_avoided = self.is_plain = False
        self.is_member = True
        self._open: deque[Ticket] = deque()
        self._seen_at = 0.0
        self._probe_at = self._interval = 0.0
        self._probe_after = 0

    def __repr__(self) -> str:
        latency = f"{self.latency * 1000:.3g} ms" if self.latency else "not answered yet"
        avoided = ", avoided" if self.is_avoided else ""
        return f"<{latency}, {self.faults:.0%} faults, {self.outstanding} outstanding{avoided}>"

    def judge(self, *, now: float) -> None:
        """Decide whether it gets probes only, as long as others are better (it is slow or failing), and whether there
        is nothing to be said about it at all.
        """
        group = self._group
        was_avoided = self.is_avoided
        self.is_avoided = self.latency > group.limit or self.faults >= BLEMISH
        if self.is_avoided and not was_avoided:
            self._wait(now)
        self.is_plain = not self.is_avoided and self.latency > 0 and self.record <= group.bound

    def cost(self, *, now: float, capacity: float = 1.0) -> float:
        """The relative latency, faults and overdue calls included, times (outstanding + 1); 0 when a probe is due."""
        group = self._group
        busy = self.outstanding
        factor = 1.0
        if busy:
            under_way = self._open
            while under_way and under_way[0].is_settled:
                under_way.popleft()
            if under_way and (age := now - under_way[0].started_at) > group.ceiling:
                factor = OVERDUE_COST * age / group.ceiling
        if self.is_plain:
            return factor * (busy / capacity + 1.0)
        if self.is_avoided:
            if not busy and now >= self._probe_at and group.calls >= self._probe_after:
                return 0.0
            factor *= self._slowness(now) * (1.0 + group.penalty * self.faults)
        ours, mean = busy / capacity, group.outstanding / (group.size or 1)
        return factor * ((ours if ours > mean else mean) + 1.0)

    def _slowness(self, now: float) -> float:
        """How many times slower than the fast quarter; 1 within tolerance."""
        group = self._group
        if self.latency <= group.limit:
            return 1.0
        fading = exp((self._seen_at - now) / group.tau)
        ratio = 1.0 + (self.latency / group.reference - 1.0) * fading
        return ratio if ratio > group.tolerance else 1.0

    def start(self, ticket: Ticket, *, now: float) -> None:
        """Count it; when the instance is avoided this is a probe, and the next one waits."""
        group, under_way = self._group, self._open
        group.calls += 1
        group.outstanding += 1
        self.outstanding = busy = self.outstanding + 1
        under_way.append(ticket)
        if len(under_way) > 2 * busy + 16:
            self._open = deque(each for each in under_way if not each.is_settled)
        if self.is_avoided:
            self._wait(now)

    def _wait(self, now: float) -> None:
        """No probe for a while."""
        group = self._group
        self._probe_at = now + (self._interval or group.probe)
        self._probe_after = group.calls + PROBE_ROUNDS * group.size

    def settle(self, outcome: Outcome, latency: float, *, now: float) -> None:
        """Learn from it. A cancelled call tells one thing: that it took at least so long."""
        group = self._group
        self.outstanding -= 1
        if self.is_member:
            group.outstanding -= 1
        latency = latency if latency > TINY else TINY
        if outcome.is_success:
            self._learn(latency, now)
            self._seen_at = now
            if not self.is_plain or latency > group.limit:
                self.judge(now=now)  # of who was beyond doubt and has answered well there is nothing else to be said
        elif outcome.is_cancelled:
            if latency > group.limit and latency > self.latency:
                self.latency, self._seen_at = latency, now
                self.judge(now=now)
            return
        else:
            if outcome is Outcome.DENIED:
                self.record += (1.0 - self.record) * RECORD_STEP
            else:
                self._blame(latency, now)
            self._seen_at = now
            self.judge(now=now)
        group.settled += 1
        group.fresh = fresh = group.fresh - 1
        if fresh <= 0:
            group.look(now=now)

    def _learn(self, latency: float, now: float) -> None:
        """Peaks at once, decline in time; an avoided instance that answers well declines by the square root."""
        group = self._group
        is_good = latency <= group.limit
        if self.is_avoided:
            self._after_probe(is_good=is_good, now=now)
            if is_good and self.latency > group.limit:
                self.latency = sqrt(self.latency * latency)
        if self.record:
            fading = exp((self._seen_at - now) / group.tau)
            self.faults = self.faults * 0.5 if self.faults > TINY else 0.0
            self.record = self.record * min(fading, 1 - RECORD_STEP) if self.record > TINY else 0.0
        if self.latency > latency:
            latency += (self.latency - latency) * exp((self._seen_at - now) / group.tau)
        self.latency = latency

    def _blame(self, latency: float, now: float) -> None:
        """A fast failure says nothing about latency; a slow one says that it is at least so slow."""
        if self.is_avoided:
            self._after_probe(is_good=False, now=now)
        self.faults += (1.0 - self.faults) * FAULT_STEP
        self.record += (1.0 - self.record) * RECORD_STEP
        if self.latency < latency and (self.latency or latency > self._group.limit):
            self.latency = latency

    def _after_probe(self, *, is_good: bool, now: float) -> None:
        group = self._group
        if is_good:
            self._interval, self._probe_at, self._probe_after = 0.0, now, group.calls + group.size
            return
        if not self.outstanding:  # what was under way before it was avoided is no probe
            self._interval = min(max(2 * self._interval, group.probe), group.probe_limit)
        self._wait(now)
