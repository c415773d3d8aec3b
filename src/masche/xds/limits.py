"""How much one proxy may ask of us, and what is said when it asks for more.

A proxy is authenticated and may still be hostile or broken: whatever it does costs it its own stream and nobody else
theirs. Invariant: nothing here grows with what a client sends, beyond these figures.
"""

from collections.abc import Iterable
from enum import StrEnum

from masche.model.frozen import frozen


class Blame(StrEnum):
    """Why a stream is ended, spelled as the status code of gRPC that ends it."""

    INVALID = "INVALID_ARGUMENT"
    EXHAUSTED = "RESOURCE_EXHAUSTED"


@frozen
class Violation:
    """The proxy broke a rule; its stream ends with this code and these words."""

    blame: Blame
    why: str


@frozen
class Limits:
    """Figures per stream.

    ``response_bytes`` bounds one response (a single larger resource is sent alone), ``listener_bytes`` one with
    listeners, which go together where they can: an Envoy serves as soon as it was told of the first ones, and has its
    predecessor close its listeners then. ``requests_per_second`` is sustained and ``burst`` is how many may come at
    once.
    """

    types: int = 32
    names_per_type: int = 10_000
    name_characters: int = 1024
    response_bytes: int = 2 * 1024 * 1024
    listener_bytes: int = 32 * 1024 * 1024
    requests_per_second: float = 200.0
    burst: int = 1000


class Bucket:
    """A token bucket: ``take`` says whether one more request is within the rate."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, *, rate: float, burst: int, now: float) -> None:
        self._rate, self._burst, self._tokens, self._at = rate, burst, float(burst), now

    def take(self, *, now: float) -> bool:
        """Take one token if there is one."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def names_violation(names: Iterable[str], *, already: set[str], limits: Limits) -> Violation | None:
    """Judge the names of one request; ``already`` are those of that type which are subscribed."""
    if len(already.union(names)) > limits.names_per_type:
        return Violation(
            blame=Blame.EXHAUSTED, why=f"more than {limits.names_per_type} names of one type are subscribed"
        )
    if any(len(name) > limits.name_characters for name in names):
        return Violation(blame=Blame.INVALID, why=f"a resource name is longer than {limits.name_characters} characters")
    return None
