"""What chooses one endpoint: the interface of all pickers, and what they choose from."""

from collections.abc import Container, Sequence
from itertools import accumulate
from typing import Protocol

from masche.traffic.chance import Chance
from masche.traffic.load import Gauge
from masche.traffic.membership import Endpoint

NOBODY: frozenset[str] = frozenset()
"""Nothing was tried yet."""
EVEN = 1e-9
"""Shares that differ by less are equal."""


class Ready:
    """Endpoints that may be called, with their shares (above 0, summing up to 1) and their gauges, in one order.

    Never changed after it was made, so that pickers may keep tables for the one they saw last. ``capacities`` are
    shares relative to an equal one; ``cumulative`` is empty when all are equal.
    """

    __slots__ = ("capacities", "cumulative", "endpoints", "gauges", "shares")

    def __init__(self, endpoints: Sequence[Endpoint], shares: Sequence[float], gauges: Sequence[Gauge]) -> None:
        self.endpoints, self.shares, self.gauges = tuple(endpoints), tuple(shares), tuple(gauges)
        self.capacities = tuple(share * len(self.shares) for share in self.shares)
        is_even = not self.shares or max(self.shares) - min(self.shares) < EVEN
        self.cumulative = () if is_even else tuple(accumulate(self.shares))

    def __repr__(self) -> str:
        return f"<Ready {len(self.endpoints)}{'' if not self.cumulative else ', weighted'}>"

    def without(self, exclude: Container[str]) -> "Ready":
        """Return what is left when some were tried already."""
        kept = [index for index, endpoint in enumerate(self.endpoints) if endpoint.id not in exclude]
        total = sum(self.shares[index] for index in kept)
        return Ready(
            [self.endpoints[index] for index in kept],
            [self.shares[index] / total for index in kept],
            [self.gauges[index] for index in kept],
        )


class Picker(Protocol):
    """Chooses; what it remembers (a position in a round, a table) is its own."""

    def pick(
        self, ready: Ready, *, now: float, rng: Chance, key: int | None = None, exclude: Container[str] = NOBODY
    ) -> Endpoint | None:
        """Return an endpoint whose id is not in ``exclude``, or None when there is none.

        ``key`` is the hash of what a call sticks to (0 to 2**64 - 1, see ``hashing.key_of``), for pickers that hash.
        """
        ...
