"""What the callers of one zone can choose between for one port, put together from what was measured and what stands."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

from masche.compiler.locality import WHOLE, shares
from masche.compiler.steer.costs import Account
from masche.compiler.steer.desk import NOBODY, Desk
from masche.compiler.steer.links import LOSS_US, Links, Route, Way
from masche.compiler.steer.outlook import NO_WAYS, Outlook, ZoneCost
from masche.compiler.steer.terrain import Ground, Terrain
from masche.compiler.steer.verdicts import Bench
from masche.compiler.steer.weights import FAIR
from masche.model.view import LocalityRules, ZonePreference

QUIET = 5.0
"""Seconds after which what is known of a way is old."""

LOSSY = 0.05
"""A link that loses more than this has its losses in its own cost."""

DEAD = 0.5
"""Where a hash chooses the instance, calls are left where they are unless a link loses more than this."""

FEW_CALLERS = 0.01
"""A zone is taken to have at least this share of all callers."""

Pairs = tuple[tuple[str, int], ...]
"""Counts by zone, hashable."""

NO_ACCOUNT = Account()
"""Of a zone of which nothing is known."""


def prospect(
    terrain: Terrain, desk: Desk, bench: Bench, links: Links, *, avoiding: frozenset[str], now: float
) -> Outlook | None:
    """Return the Outlook of the callers at a desk; None when there is nothing to choose.

    Where a hash chooses, a move between zones moves users between instances, so that only a dead link is a reason.
    ``avoiding`` are the caller zones that move calls of this port away from somewhere: they share what room there is.
    """
    port, zone, ground = desk.port, desk.zone, terrain.ports[desk.port]
    instances = ground.counts
    if not desk.has_choice(ground):
        return None
    base = _base(tuple(instances.items()), terrain.calling, zone)
    out = bench.ejected if bench.verdicts else NOBODY
    accounts = desk.costs.accounts(desk.weights, out, desk.falling)
    costs = {each: _cost(terrain, (zone, each), accounts.get(each, NO_ACCOUNT), links, now=now) for each in instances}

    if ground.traffic.algorithm.is_hash and desk.spread.is_still and all(each.lost <= DEAD for each in costs.values()):
        return None

    def limits() -> Mapping[str, float]:
        spare = _spare(ground, _able(ground, desk, out), terrain, desk.spread.stretch)
        asking = max(1, sum(terrain.callers.values()))
        claim = max(FEW_CALLERS, sum(terrain.callers.get(each, 0) for each in avoiding | {zone}) / asking)
        return {each: base[each] + max(0.0, room) / claim for each, room in spare.items()}

    return Outlook(
        subject=str(port.owner),
        zone=zone,
        base=base,
        limits=limits,
        costs=costs,
        gateways=terrain.gateways,
        rules=_rules(ground),
        rate=desk.costs.rate,
        taken_us=desk.costs.taken_us(now=now),
    )


@lru_cache(maxsize=4096)
def _base(instances: Pairs, callers: Pairs, zone: str) -> Mapping[str, int]:
    return MappingProxyType(shares(dict(instances), dict(callers), zone))


def _rules(ground: Ground) -> LocalityRules:
    """Where zones are alike nothing moves between them; a detour may still be faster."""
    rules = ground.traffic.locality
    return replace(rules, spills=False) if rules.preference is ZonePreference.NONE else rules


def _able(ground: Ground, desk: Desk, out: frozenset[str]) -> Mapping[str, float]:
    """How many instances' worth of calls each zone can take, with those that are out or relieved."""
    able = dict.fromkeys(ground.counts, 0.0)
    for site in ground.sites:
        if site.is_healthy and site.workload not in out:
            able[site.zone] += desk.weights.get(site.workload, FAIR) / FAIR
    return able


def _spare(ground: Ground, able: Mapping[str, float], terrain: Terrain, stretch: float) -> Mapping[str, float]:
    """How much more than its usual load each zone could take, per mille of all calls."""
    instances, asking = ground.counts, max(1, sum(terrain.callers.values()))
    load, total = _load(tuple(sorted(instances.items())), terrain.calling), sum(instances.values())
    return {zone: stretch * count / total * WHOLE - load.get(zone, 0.0) / asking for zone, count in able.items()}


@lru_cache(maxsize=1024)
def _load(instances: Pairs, callers: Pairs) -> Mapping[str, float]:
    """The load of each zone while nothing is steered, in callers times per mille."""
    load: Counter[str] = Counter()
    for zone, count in callers:
        for target, share in shares(dict(instances), dict(callers), zone).items():
            load[target] += count * share
    return MappingProxyType(load)


def _cost(terrain: Terrain, way: tuple[str, str], account: Account, links: Links, *, now: float) -> ZoneCost:
    zone, target = way
    service, failing = account.service_us, account.errors * LOSS_US
    route = links.get((zone, target, ""))
    is_told = service and route and target != zone
    latency = 0.0 if is_told else account.latency_us("")
    if target == zone:
        return ZoneCost(direct_us=latency + failing, service_us=service or latency, failing_us=failing)
    vias = sorted(terrain.gateways - {zone, target}) if terrain.gateways else ()
    return ZoneCost(
        direct_us=_direct(latency, failing, route, service),
        network_us=route.cost_us if route else 0.0,
        latest_us=max(route.cost_us, route.latest_us) if route else 0.0,
        usual_us=route.usual_us if route else latency,
        service_us=service,
        failing_us=failing,
        lost=route.lost if route else 0.0,
        is_silent=now - account.heard_at > QUIET,
        detours={via: cost for via in vias if (cost := _detour(account, links, (zone, target, via), now=now))}
        if vias
        else NO_WAYS,
        predicted={via: cost + service for via in vias if (cost := links.predicted(zone, target, via))}
        if vias
        else NO_WAYS,
    )


def _direct(latency: float, failing: float, route: Route | None, service: float) -> float:
    if route is None:
        return latency + failing
    if route.lost > LOSSY:
        return route.cost_us + service
    return (route.cost_us + service if service else latency) + failing


def _detour(account: Account, links: Links, way: Way, *, now: float) -> float:
    """What calls to a zone by a detour cost, if it was measured just now; 0.0 otherwise."""
    route = links.get(way)
    if route is None or now - max(route.network.heard_at, route.loss.heard_at) > QUIET:
        return 0.0
    service = account.service_us
    return route.cost_us + service if service or route.lost > LOSSY else account.latency_us(way[2])
