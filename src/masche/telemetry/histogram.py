"""A log-linear histogram of microseconds: mergeable by adding, small, and right within 1.6 % at every quantile.

Values below 64 us have a bucket each; above, every doubling is divided in 32 equal buckets (the layout of HdrHistogram
with five bits). A bucket answers with its middle, so the error is at most half a bucket: 1/64 of the value.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import ceil, inf

RELATIVE_ERROR = 1 / 64
LARGEST_US = 1 << 40
"""Larger values (twelve days) count as this one."""

MOST_PARTS = 8
"""In so many parts, at the most, a bucket of another layout is divided."""

_BITS = 5
_STEPS = 1 << _BITS
_EXACT = 2 * _STEPS


def bucket(us: float) -> int:
    """The index of the bucket that holds a value."""
    value = int(us) if 0.0 < us < LARGEST_US else LARGEST_US if us > 0.0 else 0
    if value < _EXACT:
        return value
    shift = value.bit_length() - (_BITS + 1)
    return shift * _STEPS + (value >> shift)


def bounds(index: int) -> tuple[int, int]:
    """The lowest value of a bucket, and the lowest of the next one."""
    shift = max(0, index // _STEPS - 1)
    low = index - shift * _STEPS
    return low << shift, (low + 1) << shift


class Histogram:
    """Counts by bucket, and the exact sum. Add to it with ``record`` and ``absorb``."""

    __slots__ = ("buckets", "sum_us")

    def __init__(self, buckets: Mapping[int, int] | None = None, *, sum_us: int = 0) -> None:
        self.buckets: dict[int, int] = dict(buckets or {})
        self.sum_us = sum_us

    def __repr__(self) -> str:
        if not self.buckets:
            return "<Histogram empty>"
        p50, p99 = (f"{self.quantile(q) / 1000:.3g} ms" for q in (0.5, 0.99))
        return f"<Histogram {self.count} values, p50 {p50}, p99 {p99}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram) and (self.buckets, self.sum_us) == (other.buckets, other.sum_us)

    __hash__ = None  # pyright: ignore[reportAssignmentType] # it changes

    @property
    def count(self) -> int:
        """How many values were recorded."""
        return sum(self.buckets.values())

    @property
    def mean(self) -> float:
        """The mean in microseconds; 0 when there is nothing."""
        return self.sum_us / count if (count := self.count) else 0.0

    def record(self, us: float, count: int = 1) -> None:
        """Count a value, ``count`` times."""
        index, buckets = bucket(us), self.buckets
        buckets[index] = buckets.get(index, 0) + count
        self.sum_us += int(us) * count

    def absorb(self, other: "Histogram") -> None:
        """Add what another one counted."""
        mine = self.buckets
        for index, count in other.buckets.items():
            mine[index] = mine.get(index, 0) + count
        self.sum_us += other.sum_us

    def quantile(self, q: float) -> float:
        """The value, in microseconds, that the share ``q`` (0 to 1) of all values does not exceed; 0 without values."""
        total = self.count
        rank, seen = max(1, ceil(q * total)), 0
        for index in sorted(self.buckets):
            seen += self.buckets[index]
            if seen >= rank:
                low, high = bounds(index)
                return float(low) if high - low == 1 else (low + high) / 2
        return 0.0

    def numbers(self) -> list[int]:
        """The sum, then of each bucket in order its distance to the last one and its count: what ``encode`` packs."""
        numbers = [self.sum_us]
        last = 0
        for index in sorted(self.buckets):
            numbers += (index - last, self.buckets[index])
            last = index
        return numbers

    @classmethod
    def of_numbers(cls, numbers: Sequence[int]) -> "Histogram":
        """Read what ``numbers`` returned. Raises ValueError when it is cut off."""
        if len(numbers) % 2 != 1:
            raise ValueError("an encoded histogram is a sum and pairs")
        buckets: dict[int, int] = {}
        index = 0
        for distance, count in zip(numbers[1::2], numbers[2::2], strict=True):
            index += distance
            buckets[index] = count
        return cls(buckets, sum_us=numbers[0])

    def encode(self) -> bytes:
        """A few bytes per bucket."""
        return pack(self.numbers())

    @classmethod
    def decode(cls, data: bytes) -> "Histogram":
        """Read what ``encode`` wrote. Raises ValueError when it is cut off."""
        return cls.of_numbers(unpack(data))


def from_bounds(counts: Iterable[tuple[float, float, int]], *, sum_us: float | None = None) -> Histogram:
    """Make one from buckets of another layout, ``(low, high, count)`` in microseconds.

    A count is spread evenly over the bucket in as many parts as we have buckets there, at most 8; an open last bucket
    counts at its lower bound. Without ``sum_us`` the middles are summed.
    """
    buckets: dict[int, int] = {}
    middles = 0.0
    for low, high, count in counts:
        if count <= 0:
            continue
        indices = _indices(low, high, min(MOST_PARTS, count))
        share, rest = divmod(count, len(indices))
        for part, index in enumerate(indices):
            if more := share + (part < rest):
                buckets[index] = buckets.get(index, 0) + more
        middles += count * (low if high == inf else (low + high) / 2)
    return Histogram(buckets, sum_us=int(middles if sum_us is None else sum_us))


@lru_cache(maxsize=1 << 14)
def _indices(low: float, high: float, most: int) -> tuple[int, ...]:
    """Our buckets at the middles of at most so many equal parts. A proxy has the same few bounds every second."""
    if high == inf:
        return (bucket(low),)
    parts = min(most, bucket(high) - bucket(low) or 1)
    return tuple(bucket(low + (high - low) * (part + 0.5) / parts) for part in range(parts))


def cumulative(histogram: Histogram, limits_us: Sequence[float]) -> list[int]:
    """How many values do not exceed each limit, by the middle of their bucket; for Prometheus."""
    ordered = sorted(histogram.buckets.items())
    counts: list[int] = []
    seen, at = 0, 0
    for limit in limits_us:
        while at < len(ordered) and sum(bounds(ordered[at][0])) / 2 <= limit:
            seen += ordered[at][1]
            at += 1
        counts.append(seen)
    return counts


def pack(numbers: Iterable[int]) -> bytes:
    """Numbers that are not negative as LEB128, one byte for each seven bits."""
    out = bytearray()
    for number in numbers:
        rest = number
        while rest > 0x7F:
            out.append(rest & 0x7F | 0x80)
            rest >>= 7
        out.append(rest)
    return bytes(out)


def unpack(data: bytes) -> list[int]:
    """Read what ``pack`` wrote. Raises ValueError when the last number is cut off."""
    numbers: list[int] = []
    number = shift = 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number = shift = 0
    if shift:
        raise ValueError("an encoded histogram is cut off")
    return numbers
