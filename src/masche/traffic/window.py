"""What was counted and measured lately: sums and quantiles over a sliding window, in fixed memory.

A ``Sum`` keeps a ring of slots, a ``Sketch`` two halves of a log-linear histogram (the layout of HdrHistogram, Tene:
each doubling is divided in 32 equal buckets). Invariant: nothing counts for longer than the window and one slot (half).
"""

from math import ceil, frexp, inf

_STEPS = 32
_TWICE = 2 * _STEPS
_SLOTS = 10
_RING = _SLOTS + 1
_SMALLEST = 1e-6
_NONE: list[float] = []


class Sum:
    """The sum of what was added in the last ``window`` seconds; it forgets a tenth of the window at a time.

    What the slot that runs has is what the total has grown by since it began, so that adding is one addition.
    """

    __slots__ = ("_at", "_before", "_slots", "_total", "_until", "_width")

    def __init__(self, window: float) -> None:
        self._width = window / _SLOTS
        self._slots = _NONE  # most sums of a process that calls many services are never added to
        self._at = -1
        self._until = 0.0
        self._before = self._total = 0.0

    def __repr__(self) -> str:
        return f"<Sum {self._total:g}>"

    def add(self, amount: float, *, now: float) -> None:
        """Count ``amount``."""
        if now >= self._until:
            self._slide(int(now / self._width))
        self._total += amount

    def total(self, *, now: float) -> float:
        """The sum over the window; what is older than the window and one slot is never in it."""
        if now >= self._until:
            self._slide(int(now / self._width))
        return self._total

    def clear(self) -> None:
        """Forget everything."""
        self._slots = [0.0] * _RING
        self._before = self._total = 0.0

    def _slide(self, slot: int) -> None:
        """Begin a slot, which lasts until ``_until``: within it nothing has to be divided to find it again."""
        if self._at < 0:
            self._slots = [0.0] * _RING
        slots, at = self._slots, self._at
        slots[at % _RING] += self._total - self._before
        for stale in range(max(at + 1, slot - _RING + 1), slot + 1):
            slots[stale % _RING] = 0.0
        self._at = slot
        self._until = (slot + 1) * self._width
        self._before = self._total = sum(slots)


def bucket(seconds: float) -> int:
    """The index of the bucket of a duration; durations under a microsecond count as one."""
    fraction, exponent = frexp(seconds if seconds > _SMALLEST else _SMALLEST)
    return exponent * _STEPS + int(fraction * _TWICE)


def lowest(index: int) -> float:
    """The lowest duration of a bucket, in seconds."""
    exponent, step = divmod(index - _STEPS, _STEPS)
    return (0.5 + step / _TWICE) * 2.0**exponent


class Sketch:
    """Quantiles of the durations of the last ``window`` seconds (at least half of it), right within 1.6 %."""

    __slots__ = ("_half", "_new", "_old", "_since", "_until", "count")

    def __init__(self, window: float) -> None:
        self._half = window / 2
        self._new: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._since: float | None = None
        self._until = -inf
        self.count = 0

    def __repr__(self) -> str:
        if not self.count:
            return "<Sketch empty>"
        p50, p99 = (f"{quantile * 1e3:.3g} ms" for quantile in self.quantiles(0.5, 0.99))
        return f"<Sketch {self.count} values, p50 {p50}, p99 {p99}>"

    def record(self, seconds: float, *, now: float) -> None:
        """Count one duration."""
        if now >= self._until:
            self.slide(now=now)
        fraction, exponent = frexp(seconds if seconds > _SMALLEST else _SMALLEST)
        index = exponent * _STEPS + int(fraction * _TWICE)  # ``bucket``, without a call of it
        new = self._new
        new[index] = new.get(index, 0) + 1
        self.count += 1

    def slide(self, *, now: float) -> None:
        """Forget what is older than the window."""
        if self._since is None:
            self._since, self._until = now, now + self._half
        if now < self._until:
            return
        elapsed = now - self._since
        self._old = self._new if elapsed < 2 * self._half else {}
        self._new = {}
        self._since, self._until = now, now + self._half
        self.count = sum(self._old.values())

    def clear(self) -> None:
        """Forget everything."""
        self._new, self._old, self._since, self._until, self.count = {}, {}, None, -inf, 0

    def quantile(self, q: float) -> float:
        """The duration that the share ``q`` (0 to 1) of all does not exceed, interpolated in its bucket; 0 of none."""
        return self.quantiles(q)[0]

    def quantiles(self, *qs: float) -> tuple[float, ...]:
        """Several quantiles in one pass; ``qs`` must ascend."""
        counts = dict(self._old)
        for index, count in self._new.items():
            counts[index] = counts.get(index, 0) + count
        ordered = sorted(counts.items())
        found: list[float] = []
        at = seen = 0
        for q in qs:
            rank = max(1, ceil(q * self.count))
            while at < len(ordered) and seen + ordered[at][1] < rank:
                seen += ordered[at][1]
                at += 1
            found.append(_inside(*ordered[at], rank - seen) if at < len(ordered) else 0.0)
        return tuple(found)


def _inside(index: int, count: int, rank: int) -> float:
    low, high = lowest(index), lowest(index + 1)
    return low + (high - low) * rank / count
