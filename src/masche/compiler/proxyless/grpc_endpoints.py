"""Encode the instances of one port of a Service for gRPC clients without a proxy.

The very Blob that proxies get, unless something in it is a proxy's alone: a detour is taken as the direct way, and an
instance that could only be called in plaintext is left out. grpcio heeds the weights of localities and not those of
instances, so where instances of a zone are steered each is a locality of its own. Invariant: as long as anybody is
well, nobody else is called; when nobody is, anyone is better than nobody, as with a proxy.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from masche.compiler.envoy import endpoints as encoded
from masche.model.blob import Blob
from masche.model.view import Endpoints, EndpointView, Health, Locality

_PARTS = 1000
"""Into so many parts the weight of a zone is divided, so that shares of its instances are exact to a thousandth."""


def blob(source: Endpoints) -> Blob:
    """Return the ClusterLoadAssignment of one (Service, port)."""
    return encoded.blob(reachable(source))


def reachable(source: Endpoints) -> Endpoints:
    """Return what a client can use of it; the same object when that is all."""
    if not any(map(_is_beyond, source.localities)) and _is_plain(source.localities):
        return source
    direct = tuple(_direct(source.localities))
    tried = direct if _is_anyone_well(direct) else tuple(map(_tried, direct))
    if any(map(_is_steered, tried)):
        tried = tuple(part for each in tried for part in _apart(each))
    return replace(source, localities=tried)


def _is_beyond(locality: Locality) -> bool:
    return bool(locality.via) or any(each.via or not each.is_mtls for each in locality.endpoints)


def _is_plain(localities: Iterable[Locality]) -> bool:
    """Whether somebody is well, nobody is steered, and no address stands there twice, which gRPC refuses."""
    addresses = [(each.address, each.port) for locality in localities for each in locality.endpoints]
    is_clear = len(addresses) == len(set(addresses)) and not any(map(_is_steered, localities))
    return is_clear and _is_anyone_well(localities)


def _is_steered(locality: Locality) -> bool:
    return len({each.weight for each in locality.endpoints}) > 1


def _apart(locality: Locality) -> Iterator[Locality]:
    """Divide the zone's share among its instances by their weights; the workload is the name of each within the zone.

    Only those that are well count, since gRPC passes over a locality in which nobody is.
    """
    share = (locality.weight or len(locality.endpoints)) * _PARTS
    if not _is_steered(locality):
        yield replace(locality, weight=share)
        return
    total = sum(each.weight for each in locality.endpoints if each.health is Health.HEALTHY) or 1
    for each in locality.endpoints:
        weight = max(1, round(share * each.weight / total))
        yield replace(locality, endpoints=(each,), via=each.workload, weight=weight)


def _is_anyone_well(localities: Iterable[Locality]) -> bool:
    return any(each.health is Health.HEALTHY for locality in localities for each in locality.endpoints)


def _direct(localities: tuple[Locality, ...]) -> Iterator[Locality]:
    """Each zone once per priority: a detour's share goes the direct way."""
    spoken_for = _by_address(localities)
    for priority, zone in dict.fromkeys((each.priority, each.zone) for each in localities):
        some = [each for each in localities if (each.priority, each.zone) == (priority, zone)]
        named = dict.fromkeys(_without_detour(each) for locality in some for each in locality.endpoints if each.is_mtls)
        members = tuple(each for each in named if spoken_for[each.address, each.port] == each)
        if members:
            weight = sum(each.weight for each in some) if all(each.weight for each in some) else 0
            yield Locality(zone=zone, priority=priority, endpoints=members, weight=weight)


def _without_detour(endpoint: EndpointView) -> EndpointView:
    return replace(endpoint, via="")


def _by_address(localities: Iterable[Locality]) -> dict[tuple[str, int], EndpointView]:
    """Who stands for each address: somebody who is well, if there is one."""
    found: dict[tuple[str, int], EndpointView] = {}
    for each in (_without_detour(each) for locality in localities for each in locality.endpoints if each.is_mtls):
        known = found.setdefault((each.address, each.port), each)
        if known.health is not Health.HEALTHY and each.health is Health.HEALTHY:
            found[each.address, each.port] = each
    return found


def _tried(locality: Locality) -> Locality:
    return replace(locality, endpoints=tuple(replace(each, health=_hoped(each.health)) for each in locality.endpoints))


def _hoped(health: Health) -> Health:
    return Health.HEALTHY if health is Health.UNHEALTHY else health
