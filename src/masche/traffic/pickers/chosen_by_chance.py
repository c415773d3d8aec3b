"""Random: each endpoint with the odds of its share. The yardstick of the others; no memory, and it cannot herd."""

from bisect import bisect_right
from collections.abc import Container

from masche.traffic.chance import Chance
from masche.traffic.membership import Endpoint
from masche.traffic.pickers.picker import NOBODY, Ready


class ChosenByChance:
    """Draws one."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<ChosenByChance>"

    def pick(
        self,
        ready: Ready,
        *,
        now: float,  # noqa: ARG002 - of the Protocol
        rng: Chance,
        key: int | None = None,  # noqa: ARG002 - of the Protocol
        exclude: Container[str] = NOBODY,
    ) -> Endpoint | None:
        """Draw one with the odds of the shares."""
        if exclude:
            ready = ready.without(exclude)
        count = len(ready.endpoints)
        if not count:
            return None
        if not ready.cumulative:
            return ready.endpoints[int(rng.random() * count)]
        return ready.endpoints[min(bisect_right(ready.cumulative, rng.random()), count - 1)]
