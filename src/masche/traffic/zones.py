"""How much of one caller's traffic each zone gets: the own zone while it has room, the rest where there is room.

The rule is Envoy's zone aware routing (architecture overview, "Zone aware routing"): "the percentage of hosts in the
local zone" of the service is compared with the percentage of callers there. The shares of all zones sum up to 1, and
over all callers every instance gets its fair share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field

from masche.model.frozen import frozen


@frozen
class Zones:
    """``own``: the caller's zone. ``callers``: callers per zone, any unit; without any nothing is known, and each
    zone that has instances (and the own one) is taken to have as many. ``floor``: the part (0 to 1) of the traffic
    that leaves the own zone in any case, spread by capacity, so that the others' latency and recovery are seen.
    """

    own: str
    callers: Mapping[str, float] = field(default_factory=dict[str, float])
    floor: float = 0.0

    def shares(self, capacity: Mapping[str, float]) -> dict[str, float]:
        """Return each zone's part of this caller's traffic, given each zone's capacity (above 0)."""
        total = sum(capacity.values())
        has = {zone: amount / total for zone, amount in capacity.items()}
        needs = self._needs(has)
        own = has.get(self.own, 0.0)
        wanted = needs.get(self.own, 0.0)
        if own == 0 or len(has) == 1:
            return has
        stays = min(1.0, own / wanted) if wanted > 0 else 1.0
        room = {zone: max(0.0, amount - needs.get(zone, 0.0)) for zone, amount in has.items() if zone != self.own}
        spilled = _spread(1.0 - stays, room if sum(room.values()) > 0 else _without(has, self.own))
        kept = min(stays, 1.0 - self.floor)
        floor = _spread(stays - kept, _without(has, self.own))
        return {zone: kept if zone == self.own else spilled.get(zone, 0.0) + floor[zone] for zone in has}

    def weighted(self, zones: Sequence[str], weights: Sequence[float]) -> list[float]:
        """Scale the weights of instances, each in its zone, so that zones get their shares."""
        capacity: dict[str, float] = {}
        for zone, weight in zip(zones, weights, strict=True):
            capacity[zone] = capacity.get(zone, 0.0) + weight
        shares = self.shares(capacity) if capacity else {}
        return [weight * shares[zone] / capacity[zone] for zone, weight in zip(zones, weights, strict=True)]

    def _needs(self, has: Mapping[str, float]) -> dict[str, float]:
        callers = self.callers if any(self.callers.values()) else dict.fromkeys([*has, self.own], 1.0)
        total = sum(callers.values())
        return {zone: amount / total for zone, amount in callers.items()}


def _without(amounts: Mapping[str, float], zone: str) -> dict[str, float]:
    return {each: amount for each, amount in amounts.items() if each != zone}


def _spread(share: float, by: Mapping[str, float]) -> dict[str, float]:
    total = sum(by.values())
    return {zone: share * amount / total for zone, amount in by.items()}
