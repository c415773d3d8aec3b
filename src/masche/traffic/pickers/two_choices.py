"""Power of two choices: of two endpoints drawn by chance the less costly one.

M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (IEEE TPDS 12(10), 2001): the longest queue
falls from O(log n / log log n) to O(log log n) with a second draw, and many callers with the same stale picture do not
all run to the same endpoint. Weights enter twice: as the odds of being drawn, and as capacity, which calls relate to.
"""

from bisect import bisect_right
from collections.abc import Container

from masche.traffic.chance import Chance
from masche.traffic.membership import Endpoint
from masche.traffic.pickers.picker import NOBODY, Ready


class TwoChoices:
    """Compares by whatever metric the gauges are of; equal costs are decided by the order of the draw."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<TwoChoices>"

    def pick(
        self,
        ready: Ready,
        *,
        now: float,
        rng: Chance,
        key: int | None = None,  # noqa: ARG002 - of the Protocol
        exclude: Container[str] = NOBODY,
    ) -> Endpoint | None:
        """Draw two, different ones when all weigh the same, and return the cheaper."""
        if exclude:
            ready = ready.without(exclude)
        endpoints = ready.endpoints
        count = len(endpoints)
        if count < 2:
            return endpoints[0] if count else None
        if ready.cumulative:
            return self._weighted(ready, now, rng)
        first = int(rng.random() * count)
        second = int(rng.random() * (count - 1))
        if second >= first:
            second += 1
        gauges = ready.gauges
        return endpoints[second if gauges[second].cost(now=now) < gauges[first].cost(now=now) else first]

    def _weighted(self, ready: Ready, now: float, rng: Chance) -> Endpoint:
        """Draw with replacement: idle endpoints then get exactly their shares."""
        last = len(ready.endpoints) - 1
        first = min(bisect_right(ready.cumulative, rng.random()), last)
        second = min(bisect_right(ready.cumulative, rng.random()), last)
        if first == second:
            return ready.endpoints[first]
        costs = [ready.gauges[each].cost(now=now, capacity=ready.capacities[each]) for each in (first, second)]
        return ready.endpoints[second if costs[1] < costs[0] else first]
