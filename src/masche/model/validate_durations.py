"""The rules of durations: how long one is, and whether that is within a range.

Invariant: of what is no duration nothing is said here, for its type says what is wrong with it.
"""

from masche.model.resources.scalars import seconds
from masche.model.spot import Findings, Spot


def length(duration: Spot) -> float | None:
    """Return how long it is, in seconds; None when it is not there, or is no duration."""
    try:
        return seconds(duration.text()) if duration.is_there else None
    except ValueError:
        return None


def within(duration: Spot, field: str, least: float, most: float, *, fix: str) -> Findings:
    """It must be of ``least`` to ``most`` seconds; ``fix`` says so to people."""
    found = length(duration)
    if found is not None and not least <= found <= most:
        yield duration.invalid(f"{field} {duration.text()} is out of range", fix, code="invalid-value")
