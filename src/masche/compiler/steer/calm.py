"""Whether it is plain, without working anything out, that nothing can move at a desk: most ports, most of the time.

Made of the bounds of what was measured (``bands``) and of what the links cost now, and of nothing else. Invariant:
where a desk is calm, a whole look at it would change no weight, no share, no mark and no detour. That a desk is not
calm says nothing.
"""

from collections.abc import Iterator, Mapping

from masche.compiler.steer.bands import Bounds
from masche.compiler.steer.desk import Desk
from masche.compiler.steer.detours import FASTER, LONG_US, is_unusual
from masche.compiler.steer.hysteresis import BAD
from masche.compiler.steer.laggards import MARGIN_US as LATE_US
from masche.compiler.steer.links import Links, Route
from masche.compiler.steer.outlook import MARGIN_US, ZoneCost
from masche.compiler.steer.terrain import Ground, Terrain
from masche.compiler.steer.weights import IDLE
from masche.compiler.steer.weights import MARGIN_US as ALIKE_US


def is_calm(desk: Desk, terrain: Terrain, ground: Ground, links: Links, *, now: float) -> bool:
    """Whether a look at this desk would move nothing, and nobody there is late."""
    if not (desk.costs.tracks and desk.is_still and (bounds := desk.costs.bands.known())):
        return False
    if any(each.latency >= LATE_US or each.own_high >= LATE_US for each in bounds.values()):
        return False
    if not all(_is_alike(*each) for each in desk.grouped(ground, links, bounds)):
        return False
    if not desk.has_choice(ground):
        return True
    heard = desk.costs.bands.latest(now=now)
    is_heard = all(zone in heard and heard[zone].calls >= FEWEST for zone in ground.counts)
    return is_heard and desk.spread.knows(ground.counts) and _is_no_zone_worse(desk.zone, terrain, bounds, links)


FEWEST = 3
"""Of fewer calls to a zone in an interval it is not plain what it takes."""


def _is_alike(low: float, high: float) -> bool:
    return high <= IDLE.noticeable * low or high - low <= ALIKE_US


def _is_less(cost: float, reference: float, times: float) -> bool:
    """Whether a cost is surely not so many times the reference, as far as it matters."""
    return cost - reference < MARGIN_US or cost < times * reference


def _is_no_zone_worse(zone: str, terrain: Terrain, bounds: Mapping[str, Bounds], links: Links) -> bool:
    """Whether no zone could be marked, for its route or its instances, and no detour tried."""
    routes = {other: links.get((zone, other, "")) for other in bounds if other != zone}
    known = {other: route for other, route in routes.items() if route}
    if len(known) < len(routes):
        return False
    quickest = min([each.own_low for each in bounds.values()])
    far = min([route.cost_us for route in known.values() if route.cost_us], default=0.0)
    is_slow = any(not _is_less(far + each.own_high, far + quickest, BAD) for each in bounds.values())
    if is_slow or any(
        not _is_less(route.cost_us + quickest, other + quickest, BAD) for route, other in _rivals(zone, known, bounds)
    ):
        return False
    return all(_is_direct_best(zone, other, terrain, links, quickest) for other in known)


def _rivals(zone: str, known: Mapping[str, Route], bounds: Mapping[str, Bounds]) -> Iterator[tuple[Route, float]]:
    """Each route with what it is compared with: the best other one; those at home only as far as it is usual."""
    for target, route in known.items():
        others = [each.cost_us for other, each in known.items() if other != target]
        if zone in bounds:
            others.append(route.usual_us)
        if others:
            yield route, min(others)


def _is_direct_best(zone: str, target: str, terrain: Terrain, links: Links, quickest: float) -> bool:
    """Whether there is no reason to try a detour."""
    vias = terrain.gateways - {zone, target}
    route = links.get((zone, target, ""))
    if not vias or route is None:
        return True
    cost = ZoneCost(latest_us=max(route.cost_us, route.latest_us), usual_us=route.usual_us, lost=route.lost)
    if is_unusual(cost) or route.cost_us > LONG_US:
        return False
    predicted = [each for via in vias if (each := links.predicted(zone, target, via))]
    return all(_is_less(route.cost_us + quickest, each + quickest, FASTER) for each in predicted)
