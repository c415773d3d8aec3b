"""Encode the instances of one port of a Service for gRPC clients without a proxy.

The very Blob that proxies get, unless something in it is a proxy's alone: a detour is taken as the direct way, and an
instance that could only be called in plaintext is left out. Invariant: as long as anybody is well, nobody else is
called; when nobody is, anyone is better than nobody, as with a proxy.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from masche.compiler.envoy import endpoints as encoded
from masche.model.blob import Blob
from masche.model.view import Endpoints, EndpointView, Health, Locality


def blob(source: Endpoints) -> Blob:
    """Return the ClusterLoadAssignment of one (Service, port)."""
    return encoded.blob(reachable(source))


def reachable(source: Endpoints) -> Endpoints:
    """Return what a client can use of it; the same object when that is all."""
    if not any(map(_is_beyond, source.localities)) and _is_plain(source.localities):
        return source
    direct = tuple(_direct(source.localities))
    return replace(source, localities=direct if _is_anyone_well(direct) else tuple(map(_tried, direct)))


def _is_beyond(locality: Locality) -> bool:
    return bool(locality.via) or any(each.via or not each.is_mtls for each in locality.endpoints)


def _is_plain(localities: Iterable[Locality]) -> bool:
    """Whether somebody is well, and no address stands there twice: gRPC refuses such an assignment."""
    addresses = [(each.address, each.port) for locality in localities for each in locality.endpoints]
    return _is_anyone_well(localities) and len(addresses) == len(set(addresses))


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
