"""Whether it is plain, without working anything out, that nothing can move at a desk: most ports, most of the time.

Made of the bounds of what was measured (``bands``) and of what the links cost now, and of nothing else. Invariant:
where a desk is calm, a whole look at it would change no weight, no share, no mark and no detour. That a desk is not
calm says nothing.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

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

FEWEST = 3
"""Of fewer calls to a zone in an interval it is not plain what it takes."""


class Ways(NamedTuple):
    """What the links from one zone to some others say in one look, to all ports alike; microseconds.

    ``network_us`` is what each costs. ``pairs`` are each link's cost and that of the best other, ``detours`` each
    link's and that of a detour beside it, and ``far`` is the nearest. ``are_usual``: enough is known of all of them,
    and none is out of the ordinary by itself.
    """

    network_us: Mapping[str, float]
    far: float = 0.0
    pairs: tuple[tuple[float, float], ...] = ()
    detours: tuple[tuple[float, float], ...] = ()
    are_usual: bool = True


def ways(zone: str, targets: frozenset[str], terrain: Terrain, links: Links) -> Ways:
    """Look at the links from a zone once."""
    known = {each: route for each in targets - {zone} if (route := links.get((zone, each, "")))}
    network = {each: known[each].network_us if each in known else 0.0 for each in targets}
    if len(known) < len(targets - {zone}):
        return Ways(network, are_usual=False)
    return Ways(
        network_us=network,
        far=min([route.cost_us for route in known.values() if route.cost_us], default=0.0),
        pairs=tuple(_rivals(known, is_home_a_choice=zone in targets)),
        detours=tuple(_detours(zone, known, terrain, links)),
        are_usual=not any(terrain.gateways - {zone, each} and _is_odd(route) for each, route in known.items()),
    )


def _rivals(known: Mapping[str, Route], *, is_home_a_choice: bool) -> Iterator[tuple[float, float]]:
    """Each route with what it is compared with: the best other one; those at home only as far as it is usual."""
    for target, route in known.items():
        others = [each.cost_us for other, each in known.items() if other != target]
        if is_home_a_choice:
            others.append(route.usual_us)
        if others:
            yield route.cost_us, min(others)


def _detours(zone: str, known: Mapping[str, Route], terrain: Terrain, links: Links) -> Iterator[tuple[float, float]]:
    for target, route in known.items():
        for via in terrain.gateways - {zone, target}:
            if predicted := links.predicted(zone, target, via):
                yield route.cost_us, predicted


def _is_odd(route: Route) -> bool:
    """Whether a detour would be tried for what the link does, wherever it leads."""
    cost = ZoneCost(latest_us=max(route.cost_us, route.latest_us), usual_us=route.usual_us, lost=route.lost)
    return is_unusual(cost) or route.cost_us > LONG_US


def is_calm(desk: Desk, ground: Ground, outward: Ways, *, now: float) -> bool:
    """Whether a look at this desk would move nothing, and nobody there is late."""
    costs = desk.costs
    if not (costs.tracks and costs.bands.are_whole and desk.is_still):
        return False
    if desk.has_choice(ground):
        heard = costs.bands.latest(now=now)
        is_heard = all(zone in heard and heard[zone].calls >= FEWEST for zone in ground.zones)
        if not (is_heard and outward.are_usual and desk.spread.knows(ground.zones)):
            return False
    return _is_plain(desk, ground, outward, costs.bands.wide) or _is_plain(desk, ground, outward, costs.bands.close)


def _is_plain(desk: Desk, ground: Ground, outward: Ways, bounds: Mapping[str, Bounds]) -> bool:
    """Whether within these bounds nobody is late, all are alike and no zone is worse than another."""
    if not bounds.keys() <= ground.zones:
        return False
    for each in bounds.values():
        if each.latency >= LATE_US or each.own_high >= LATE_US:
            return False
    if desk.has_choice(ground) and not _is_no_zone_worse(outward, bounds):
        return False
    return _are_alike(desk, ground, outward, bounds)


def _are_alike(desk: Desk, ground: Ground, outward: Ways, bounds: Mapping[str, Bounds]) -> bool:
    """Whether weights stay fair: by the bounds of all intervals, or else by the means over them, which are closer."""
    network = outward.network_us
    return all(_is_alike(*each) for each in desk.grouped(ground, network, bounds, {})) or all(
        _is_alike(*each) for each in desk.grouped(ground, network, bounds, desk.costs.own_us())
    )


def _is_alike(low: float, high: float) -> bool:
    return high <= IDLE.noticeable * low or high - low <= ALIKE_US


def _is_no_zone_worse(outward: Ways, bounds: Mapping[str, Bounds]) -> bool:
    """Whether no zone could be marked, for its route or its instances, and no detour tried."""
    quickest = min([each.own_low for each in bounds.values()])
    slowest = max([each.own_high for each in bounds.values()])
    if not _is_less(outward.far + slowest, outward.far + quickest, BAD):
        return False
    return all(_is_less(cost + quickest, other + quickest, BAD) for cost, other in outward.pairs) and all(
        _is_less(cost + quickest, other + quickest, FASTER) for cost, other in outward.detours
    )


def _is_less(cost: float, reference: float, times: float) -> bool:
    """Whether a cost is surely not so many times the reference, as far as it matters."""
    return cost - reference < MARGIN_US or cost < times * reference
