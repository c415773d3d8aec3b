"""What share of a zone's calls each locality of a Service takes, and which of them are reached by a detour.

All localities that may be chosen have one priority, so that Envoy itself gives the share of a zone whose instances are
unhealthy to the others, with no control plane. Invariant: every instance stays reachable directly.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from masche.compiler.east_west import Gateway, gateways
from masche.compiler.locality import FLOOR, callers, chosen, shares, whole
from masche.model.calling import LocalityRules, ZonePreference
from masche.model.mesh import Mesh
from masche.model.steering import Detour, Steer
from masche.model.view import EndpointView, Locality

FINE = 1000
"""Weights are a thousandth of a per mille, so that a detour can take a part of a small share."""

DIRECT = 5
"""Of a zone's calls so many per mille never pass a detour, so that the recovery of the direct way is seen."""

PERCENT = 100


def located(
    mesh: Mesh, direct: tuple[Locality, ...], steer: Steer, rules: LocalityRules, zone: str
) -> tuple[Locality, ...]:
    """Weigh the localities for callers of ``zone``, and add those that are reached by a detour."""
    weighed = _weighed(mesh, direct, steer, rules, zone)
    if not steer.detours:
        return weighed
    detours = {detour.zone: detour for detour in steer.detours}
    ways = gateways(mesh)
    return tuple(part for each in weighed for part in _split(each, detours.get(each.zone), ways))


def _weighed(
    mesh: Mesh, direct: tuple[Locality, ...], steer: Steer, rules: LocalityRules, zone: str
) -> tuple[Locality, ...]:
    zones = {each.zone for each in direct}
    if not zone or rules.preference is ZonePreference.NONE or (len(zones) < 2 and not steer.detours):
        return tuple(replace(each, weight=_sum(each)) for each in direct) if steer != Steer() else direct
    if not rules.spills and zone in zones:
        return tuple(replace(each, priority=int(each.zone != zone)) for each in direct)
    share = _shares(mesh, direct, steer, zone)
    return tuple(replace(each, weight=share[each.zone] * FINE) for each in direct)


def _sum(locality: Locality) -> int:
    """All zones are alike: one has as much as its instances together."""
    return max(1, sum(endpoint.weight for endpoint in locality.endpoints)) * FINE // PERCENT


def _shares(mesh: Mesh, direct: tuple[Locality, ...], steer: Steer, zone: str) -> Mapping[str, int]:
    steered = dict(steer.zones)
    if not steered:
        return shares({each.zone: len(each.endpoints) for each in direct}, callers(mesh.workloads), zone)
    return whole({each.zone: float(max(1, steered.get(each.zone, FLOOR))) for each in direct})


def _split(locality: Locality, detour: Detour | None, ways: Mapping[str, tuple[Gateway, ...]]) -> Iterator[Locality]:
    """Yield the direct way, and the detour if there is a gateway and somebody whom mutual TLS protects on the way."""
    through = [each.via for each in ways.get(detour.via, ())] if detour else []
    carried = tuple(each for each in locality.endpoints if each.is_mtls)
    if detour is None or not through or not carried:
        yield locality
        return
    share = min(max(detour.share, 1) * 10, 1000 - DIRECT)
    whole_way = locality.weight or FINE * FINE
    by_way = whole_way * share // 1000
    yield replace(locality, weight=max(1, whole_way - by_way))
    endpoints = tuple(_by_way(each, through) for each in carried)
    yield replace(locality, endpoints=endpoints, via=detour.via, weight=max(1, by_way))


def _by_way(endpoint: EndpointView, through: list[str]) -> EndpointView:
    return replace(endpoint, via=chosen(through, f"{endpoint.workload}|{endpoint.port}"))
