"""How often one machine may say something: a token bucket for each, so that none keeps the others waiting.

Times are monotonic seconds.
"""

from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Pace:
    """``per_second`` in the long run and ``burst`` at once, both above 0, for each of at most ``names`` names."""

    per_second: float
    burst: float
    names: int = 10_000
    _left: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])

    def keeps(self, name: str, *, now: float) -> bool:
        """Take one from a name's bucket; False when it is empty."""
        left, at = self._left.pop(name, (self.burst, now))
        left = min(self.burst, left + (now - at) * self.per_second)
        keeps = left >= 1.0
        self._left[name] = (left - 1.0 if keeps else left, now)
        if len(self._left) > self.names:  # the name that was heard of longest ago comes first
            del self._left[next(iter(self._left))]
        return keeps

    def __repr__(self) -> str:
        return f"<Pace {self.per_second:g}/s, {len(self._left)} names>"
