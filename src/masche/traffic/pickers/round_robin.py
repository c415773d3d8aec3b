"""Round robin, plain and weighted: one after another, begun at a place drawn by chance.

Without the drawn beginning, callers that start together would all call the first endpoint first.
"""

from collections.abc import Container
from heapq import heapify, heappop, heappush

from masche.traffic.chance import Chance
from masche.traffic.membership import Endpoint
from masche.traffic.pickers.picker import NOBODY, Ready


class RoundRobin:
    """All endpoints alike, whatever their weights, in the order of their ids."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = -1

    def __repr__(self) -> str:
        return f"<RoundRobin at {self._next}>"

    def pick(
        self,
        ready: Ready,
        *,
        now: float,  # noqa: ARG002 - of the Protocol
        rng: Chance,
        key: int | None = None,  # noqa: ARG002 - of the Protocol
        exclude: Container[str] = NOBODY,
    ) -> Endpoint | None:
        """Return the next one that was not tried."""
        count = len(ready.endpoints)
        if self._next < 0 and count:
            self._next = int(rng.random() * count)
        for _ in range(count):
            endpoint = ready.endpoints[self._next % count]
            self._next = (self._next + 1) % count
            if endpoint.id not in exclude:
                return endpoint
        return None


class WeightedRoundRobin:
    """Shares are kept in every stretch of calls, not only in the long run: earliest deadline first.

    The scheduler of Envoy and of gRPC's weighted_round_robin (gRFC A58): each endpoint is due again 1/share after it
    was picked. M. Katevenis et al., "Weighted Round-Robin Cell Multiplexing in a General-Purpose ATM Switch Chip" (IEEE
    JSAC 9(8), 1991). An endpoint that is new begins within its first interval, so it is not flooded.
    """

    __slots__ = ("_clock", "_due", "_heap", "_ready")

    def __init__(self) -> None:
        self._ready: Ready | None = None
        self._clock = 0.0
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, int]] = []

    def __repr__(self) -> str:
        return f"<WeightedRoundRobin of {len(self._heap)}>"

    def pick(
        self,
        ready: Ready,
        *,
        now: float,  # noqa: ARG002 - of the Protocol
        rng: Chance,
        key: int | None = None,  # noqa: ARG002 - of the Protocol
        exclude: Container[str] = NOBODY,
    ) -> Endpoint | None:
        """Return who is due first and was not tried; who is passed over stays due."""
        if ready is not self._ready:
            self._arrange(ready, rng)
        passed: list[tuple[float, int]] = []
        chosen: Endpoint | None = None
        while self._heap and chosen is None:
            due, index = heappop(self._heap)
            endpoint = ready.endpoints[index]
            if endpoint.id in exclude:
                passed.append((due, index))
                continue
            chosen = endpoint
            self._clock = max(self._clock, due)
            self._due[endpoint.id] = due = max(due, self._clock) + 1.0 / ready.shares[index]
            heappush(self._heap, (due, index))
        for each in passed:
            heappush(self._heap, each)
        return chosen

    def _arrange(self, ready: Ready, rng: Chance) -> None:
        """Keep the turn of everyone who stays, unless a larger share brings it forward."""
        due: dict[str, float] = {}
        for endpoint, share in zip(ready.endpoints, ready.shares, strict=True):
            before = self._due.get(endpoint.id)
            due[endpoint.id] = (
                self._clock + rng.random() / share if before is None else min(before, self._clock + 1.0 / share)
            )
        self._ready, self._due = ready, due
        self._heap = [(due[endpoint.id], index) for index, endpoint in enumerate(ready.endpoints)]
        heapify(self._heap)
