"""A mean over the recent past: three seconds where much is heard, as far back as it takes where little is.

Unlike an exponential average it has forgotten a value entirely a few seconds after it ended, so recovery is seen as
fast as trouble. Invariant: nothing older than ``OLDEST`` seconds counts.
"""

from collections import deque
from collections.abc import Sequence
from math import fsum

SPAN = 3.0
"""Seconds that always count."""

OLDEST = 60.0
"""Seconds after which nothing counts."""


class Window:
    """Means with their counts, one per interval. ``enough`` answers are kept even when they are older than the span."""

    __slots__ = ("_enough", "_entries", "count")

    def __init__(self, *, enough: int = 20) -> None:
        self._entries = deque[tuple[float, int, float]]()
        self._enough = enough
        self.count = 0

    def __repr__(self) -> str:
        return f"<Window {self.count} values, mean {self.mean:.6g}>"

    def add(self, mean: float, count: int, *, at: float) -> None:
        """Take the mean of ``count`` values, at least one, of the interval that ended ``at``."""
        self._entries.append((at, count, mean))
        self.count += count
        self.trim(now=at)

    def trim(self, *, now: float) -> None:
        """Let go of what is old, as long as enough is left."""
        entries = self._entries
        if not entries or entries[0][0] > now - SPAN:
            return
        while entries:
            at, count, _ = entries[0]
            is_spare = self.count - count >= self._enough and at <= now - SPAN
            if not is_spare and at > now - OLDEST:
                return
            entries.popleft()
            self.count -= count

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.count = 0

    @property
    def heard_at(self) -> float:
        """When the last value came; minus infinity when there is none."""
        return self._entries[-1][0] if self._entries else float("-inf")

    @property
    def mean(self) -> float:
        """The mean of all that counts; 0.0 when nothing does."""
        return fsum(count * mean for _, count, mean in self._entries) / self.count if self.count else 0.0

    @property
    def median(self) -> float:
        """The weighted median of the intervals' means: one odd interval among three does not move it."""
        return median([(mean, count) for _, count, mean in self._entries])

    @property
    def middle(self) -> float:
        """The lower median of the intervals' means, however much was heard in each; 0.0 of nothing."""
        return median([(mean, 1) for _, _, mean in self._entries])


def median(weighted: Sequence[tuple[float, float]]) -> float:
    """The lower weighted median of (value, weight); 0.0 of nothing."""
    if len(weighted) < 2:
        return weighted[0][0] if weighted else 0.0
    half, seen = 0.0, 0.0
    for _, weight in weighted:
        half += weight / 2
    for value, weight in sorted(weighted):
        seen += weight
        if seen >= half:
            return value
    return 0.0
