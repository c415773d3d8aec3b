"""How much each instance bears, by its own word: calls per utilization, as gRPC's weighted_round_robin reckons.

gRFC A58, with its defaults: a weight counts once an instance has said one for ten seconds ("blackout_period"), until
it was silent for three minutes ("weight_expiration_period"); shares are worked out once a second
("weight_update_period"); who says nothing gets the mean, and one alone is no weight. One thing differs: nobody gets
more than ten times the mean, or less than a tenth, so that a mistaken word costs an instance a share and not its life.
Invariant: shares are above 0 and sum up to 1.
"""

from math import inf

from masche.traffic.pickers.picker import Ready

BLACKOUT = 10.0
EXPIRATION = 180.0
UPDATE = 1.0
FARTHEST = 10.0
"""So many times the mean at most, and so small a part of it at least."""


class _Weight:
    """What one instance said last, and since when it says something."""

    __slots__ = ("at", "since", "value")

    def __init__(self, now: float) -> None:
        self.value, self.at, self.since = 0.0, now, now


class Borne:
    """The weights of one service's instances."""

    __slots__ = ("_found", "_source", "_until", "_weights")

    def __init__(self) -> None:
        self._weights: dict[str, _Weight] = {}
        self._source = self._found = Ready((), (), ())
        self._until = -inf

    def __repr__(self) -> str:
        return f"<Borne {len(self._weights)} weights>"

    def told(self, id: str, weight: float, *, now: float) -> None:  # noqa: A002 - the id of an endpoint is called id
        """An instance has said how much it bears, in any unit above 0 that all of them use."""
        found = self._weights.get(id)
        if found is None or now - found.at >= EXPIRATION:
            found = self._weights[id] = _Weight(now)
        found.value, found.at = weight, now

    def weighted(self, ready: Ready, *, now: float) -> Ready:
        """Return the same instances, with their shares times what they bear."""
        if ready is not self._source or now >= self._until:
            self._source, self._until = ready, now + UPDATE
            ids = {each.id for each in ready.endpoints}
            kept = {id_: each for id_, each in self._weights.items() if id_ in ids and now - each.at < EXPIRATION}
            self._weights = kept
            self._found = self._weigh(ready, now)
        return self._found

    def _weigh(self, ready: Ready, now: float) -> Ready:
        told = {id_: each.value for id_, each in self._weights.items() if now - each.since >= BLACKOUT}
        if len(told) < 2:
            return ready
        mean = sum(told.values()) / len(told)
        factors = [told.get(each.id, mean) / mean for each in ready.endpoints]
        bounded = [min(max(each, 1 / FARTHEST), FARTHEST) for each in factors]
        shares = [share * factor for share, factor in zip(ready.shares, bounded, strict=True)]
        total = sum(shares)
        return Ready(ready.endpoints, [each / total for each in shares], ready.gauges)
