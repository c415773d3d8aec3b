"""When to renew a certificate: at a jittered half-life, and with growing, jittered pauses while renewal fails.

Decides from the lifetime that the authority granted, counted on the monotonic clock, so that a wrong wall clock moves
no renewal. A renewal is never put off past the expiry, and after the expiry the pauses are short.
"""

from dataclasses import replace
from typing import Final, Protocol

from masche.model.frozen import frozen

JITTER: Final = 0.1
"""Renewal falls at half of the lifetime, give or take a tenth of the lifetime."""

MIN_LIFETIME: Final = 20.0
"""Seconds. A shorter (or, by a broken clock, negative) lifetime counts as this, so that no storm can start."""

FIRST_PAUSE: Final = 1.0
MAX_PAUSE: Final = 300.0
MAX_PAUSE_EXPIRED: Final = 8.0
"""Seconds. An expired workload is back within 15 s of its authority: one pause, with jitter, and a signature."""


class Chance(Protocol):
    """What is used of a random.Random."""

    def uniform(self, a: float, b: float, /) -> float:
        """A number between the two."""
        ...


@frozen
class Rotation:
    """One certificate's place in time. ``renew_at`` and ``expires_at`` are monotonic instants."""

    expires_at: float
    renew_at: float
    failures: int = 0

    def next_deadline(self) -> float:
        """When to ask for a new certificate."""
        return self.renew_at

    def failed(self, *, now: float, rng: Chance) -> "Rotation":
        """After a failed attempt: pauses double from one second, and at least a third of what is left remains."""
        left = self.expires_at - now
        if 0 < left <= FIRST_PAUSE:
            return replace(self, failures=self.failures + 1, renew_at=self.expires_at)
        ceiling = MAX_PAUSE_EXPIRED if left <= 0 else min(MAX_PAUSE, left * 2 / 3)
        pause = min(ceiling, FIRST_PAUSE * 2.0 ** min(self.failures, 30)) * rng.uniform(0.5, 1.0)
        return replace(self, failures=self.failures + 1, renew_at=now + pause)


def rotation(*, lifetime: float, now: float, rng: Chance) -> Rotation:
    """The Rotation of a certificate that was just obtained and is good for ``lifetime`` seconds."""
    lifetime = max(lifetime, MIN_LIFETIME)
    share = 0.5 + rng.uniform(-JITTER, JITTER)
    return Rotation(expires_at=now + lifetime, renew_at=now + lifetime * share)
