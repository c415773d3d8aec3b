"""A word that somebody gave about an instance: it holds while it is repeated, so that nothing is kept up by silence."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Word:
    """What was said last, "" where no cause was given, and when. Times are monotonic seconds."""

    cause: str
    at: float
