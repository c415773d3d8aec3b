"""What the callers of one zone can choose between for one port, put together from what was measured and what stands."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

from masche.compiler.locality import WHOLE, shares
from masche.compiler.steer.costs import Costs
from masche.compiler.steer.desk import Desk
from masche.compiler.steer.links import LOSS_US, Links, Route, Way
from masche.compiler.steer.outlook import Outlook, ZoneCost
from masche.compiler.steer.terrain import Ground, Terrain
from masche.model.refs import PortRef
from masche.model.view import LocalityRules, ZonePreference

QUIET = 5.0
"""Seconds after which what is known of a way is old."""

LOSSY = 0.05
"""A link that loses more than this has its losses in its own cost."""

FEW_CALLERS = 0.01
"""A zone is taken to have at least this share of all callers."""


def prospect(
    terrain: Terrain, port: PortRef, zone: str, desk: Desk, links: Links, *, avoiding: frozenset[str], now: float
) -> Outlook | None:
    """Return the Outlook of the callers of ``zone``; None when there is nothing to choose.

    ``avoiding`` are the caller zones that move calls of this port away from somewhere: they share what room there is.
    """
    ground = terrain.ports[port]
    instances = Counter(site.zone for site in ground.sites)
    if not zone or not instances.keys() - {zone}:
        return None
    base = shares(instances, terrain.callers, zone)
    costs = {each: _cost(terrain, zone, each, desk.costs, links, now=now) for each in instances}
    return Outlook(
        subject=str(port.owner),
        zone=zone,
        base=base,
        limits=_limits(instances, terrain.callers, base, desk.spread.stretch, avoiding | {zone}),
        costs=costs,
        gateways=terrain.gateways,
        rules=_rules(ground),
        rate=desk.costs.rate,
    )


def _rules(ground: Ground) -> LocalityRules:
    """Where zones are alike nothing moves between them; a detour may still be faster."""
    rules = ground.traffic.locality
    return replace(rules, spills=False) if rules.preference is ZonePreference.NONE else rules


def _limits(
    instances: Mapping[str, int],
    callers: Mapping[str, int],
    base: Mapping[str, int],
    stretch: float,
    claimants: frozenset[str],
) -> dict[str, float]:
    """How much each zone could take of this one's calls, per mille, if all who need room now get some of it."""
    asking, total = max(1, sum(callers.values())), sum(instances.values())
    load = _load(tuple(sorted(instances.items())), tuple(sorted(callers.items())))
    claim = max(FEW_CALLERS, sum(callers.get(each, 0) for each in claimants) / asking)
    spare = {zone: stretch * count / total * WHOLE - load.get(zone, 0.0) / asking for zone, count in instances.items()}
    return {zone: base[zone] + max(0.0, room) / claim for zone, room in spare.items()}


@lru_cache(maxsize=1024)
def _load(instances: tuple[tuple[str, int], ...], callers: tuple[tuple[str, int], ...]) -> Mapping[str, float]:
    """The load of each zone while nothing is steered, in callers times per mille."""
    load: Counter[str] = Counter()
    for zone, count in callers:
        for target, share in shares(dict(instances), dict(callers), zone).items():
            load[target] += count * share
    return MappingProxyType(load)


def _cost(terrain: Terrain, zone: str, target: str, costs: Costs, links: Links, *, now: float) -> ZoneCost:
    service = costs.service_us(target)
    if target == zone:
        failing, own = costs.errors(target) * LOSS_US, costs.latency_us(target, "")
        return ZoneCost(direct_us=own + failing, service_us=service or own, failing_us=failing)
    route = links.get((zone, target, ""))
    vias = sorted(terrain.gateways - {zone, target})
    heard_at = [each.heard_at for via, each in costs.of_zone(target) if not via]
    return ZoneCost(
        direct_us=_direct(costs, target, route, service),
        network_us=route.cost_us if route else 0.0,
        latest_us=max(route.cost_us, route.latest_us) if route else 0.0,
        usual_us=route.usual_us if route else costs.latency_us(target, ""),
        service_us=service,
        failing_us=costs.errors(target) * LOSS_US,
        lost=route.lost if route else 0.0,
        is_silent=now - max(heard_at, default=float("-inf")) > QUIET,
        detours={via: cost for via in vias if (cost := _detour(costs, links, (zone, target, via), now=now))},
        predicted={via: cost + service for via in vias if (cost := links.predicted(zone, target, via))},
    )


def _direct(costs: Costs, target: str, route: Route | None, service: float) -> float:
    if route is None:
        return costs.latency_us(target, "") + costs.errors(target) * LOSS_US
    if route.lost > LOSSY:
        return route.cost_us + service
    known = route.cost_us + service if service else costs.latency_us(target, "")
    return known + costs.errors(target) * LOSS_US


def _detour(costs: Costs, links: Links, way: Way, *, now: float) -> float:
    """What calls to a zone by a detour cost, if it was measured just now; 0.0 otherwise."""
    route, (_, target, via) = links.get(way), way
    if route is None or now - max(route.network.heard_at, route.loss.heard_at) > QUIET:
        return 0.0
    service = costs.service_us(target)
    return route.cost_us + service if service or route.lost > LOSSY else costs.latency_us(target, via)
