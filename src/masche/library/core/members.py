"""Whom one caller may call of a service, and with which shares: what EDS said becomes a Membership.

Pure. Zones and priorities weigh as in Envoy: a locality's weight is its share of the calls, less where too few of it
are well ("locality weighted load balancing"); the first priority takes what its healthy part can bear and the rest goes
to the next ("priority levels"), both with Envoy's overprovisioning factor of 1.4. Invariant: nobody has a weight of 0,
so who is not to be called is not in it, and it is only empty when the service is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from masche.library.core.ways import Way
from masche.model.frozen import frozen
from masche.model.told import Destination, Discovery
from masche.model.view import Endpoints, EndpointView, Health, Locality
from masche.traffic import membership
from masche.traffic.subsetting import nearest

OVERPROVISIONING = 1.4
"""So many times what is well counts, before a zone or a priority is thought to lack anything (Envoy's default)."""

_HEALTH = {
    Health.HEALTHY: membership.Health.ADMITTED,
    Health.UNHEALTHY: membership.Health.UNHEALTHY,
    Health.DRAINING: membership.Health.DRAINING,
}


@frozen(kw_only=False)
class Place:
    """Where one instance is, and of which cluster it is: who may answer there. ``is_tls``: by mutual TLS. ``way``: the
    detour by which it is reached, None for the direct way.
    """

    view: EndpointView
    destination: Destination
    is_tls: bool
    way: Way | None = None

    @classmethod
    def of(cls, view: EndpointView, destination: Destination) -> "Place":
        """Say whether it is called by mutual TLS; by plaintext only where the control plane itself says so.

        What an instance's metadata say holds only in a cluster that knows of such instances, as with Envoy. Nobody is
        carried in plaintext, nor by whom nobody vouches for.
        """
        is_tls = destination.is_tls and (view.is_mtls or not destination.cluster.has_plaintext)
        return cls(view, destination, is_tls, Way(view.via, destination.east_west) if view.via else None)


def can_be_reached(view: EndpointView, destination: Destination) -> bool:
    """Say whether there is a way to it: a detour needs gateways that are known, and mutual TLS to the instance."""
    return not view.via or (destination.is_tls and view.is_mtls and bool(destination.east_west))


def instance_of(view: EndpointView) -> str:
    """Return the name of an instance, ``host:port``, whatever the way."""
    host = f"[{view.address}]" if ":" in view.address else view.address
    return f"{host}:{view.port}"


def id_of(view: EndpointView) -> str:
    """Return the name of an instance and the way to it: ``host:port``, or ``host:port@gateway`` for a detour.

    Two ways to one instance are two endpoints, as for Envoy: each has its weight, and a gateway that carries badly is
    ejected like an instance that answers badly, while the direct way is not.
    """
    return f"{instance_of(view)}@{view.via}" if view.via else instance_of(view)


def parted(name: str) -> tuple[str, str]:
    """Return instance (``host:port``) and gateway ("" for the direct way) of an ``id_of``."""
    instance, _, via = name.partition("@")
    return instance, via


def places(
    destination: Destination, *, destinations: Mapping[str, Destination], endpoints: Mapping[str, Endpoints]
) -> tuple[tuple[Locality, Destination], ...]:
    """Return the localities of a cluster, those of an aggregate one after the other: each member's come as priorities
    after those of the members before it ("aggregate cluster").
    """
    match destination.discovery:
        case Discovery.AGGREGATE:
            return tuple(_aggregated(destination, destinations, endpoints))
        case Discovery.LOGICAL_DNS if destination.name not in endpoints:
            resolved = EndpointView(
                address=destination.host, port=destination.port, workload=destination.host, is_mtls=destination.is_tls
            )
            return ((Locality(zone="", priority=0, endpoints=(resolved,)), destination),)
        case Discovery.EDS | Discovery.STATIC | Discovery.LOGICAL_DNS | Discovery.PASSTHROUGH:
            said = endpoints.get(destination.name) or destination.endpoints
            return tuple((each, destination) for each in said.localities) if said else ()


def _aggregated(
    destination: Destination, destinations: Mapping[str, Destination], endpoints: Mapping[str, Endpoints]
) -> Iterator[tuple[Locality, Destination]]:
    first = 0
    for name in destination.members:
        member = destinations.get(name)
        if member is None or member.discovery is Discovery.AGGREGATE:
            continue
        found = places(member, destinations=destinations, endpoints=endpoints)
        for locality, owner in found:
            yield replace(locality, priority=first + locality.priority), owner
        first += 1 + max((locality.priority for locality, _ in found), default=-1)


def members(
    found: Sequence[tuple[Locality, Destination]], *, subset_size: int = 0, caller: str = ""
) -> tuple[tuple[membership.Endpoint, ...], dict[str, Place]]:
    """Return who may be called, with their weights, and where each is; ``subset_size`` 0: everyone."""
    weights = _shares(found)
    chosen: dict[str, _Chosen] = {}
    where: dict[str, Place] = {}
    for (locality, destination), share in zip(found, weights, strict=True):
        total = sum(each.weight for each in locality.endpoints if each.health is Health.HEALTHY)
        total = total or sum(each.weight for each in locality.endpoints)
        for view in locality.endpoints if share > 0 else ():
            name = id_of(view)
            if name not in chosen and can_be_reached(view, destination):
                weight = share * (view.weight or 1) / (total or 1)
                chosen[name] = _Chosen(name, locality.zone, weight, _HEALTH[view.health])
                where[name] = Place.of(view, destination)
    kept = _subset(chosen, subset_size, caller)
    scale = len(kept) / (sum(each.weight for each in kept) or 1.0)
    return tuple([each.endpoint(scale) for each in kept]), where


class _Chosen:
    """Who will be an Endpoint, once it is known who else: these cost too much to be made twice."""

    __slots__ = ("health", "name", "weight", "zone")

    def __init__(self, name: str, zone: str, weight: float, health: membership.Health) -> None:
        self.name, self.zone, self.weight, self.health = name, zone, weight, health

    def endpoint(self, scale: float) -> membership.Endpoint:
        """Make the Endpoint, of ``scale`` times this weight."""
        weight = _rounded(self.weight * scale)
        return membership.Endpoint(id=self.name, address=self.name, zone=self.zone, weight=weight, health=self.health)


def _rounded(weight: float) -> float:
    """Without the noise of floats, by which equal weights would be unequal ones."""
    return round(weight, 9) or 1e-9


def _shares(found: Sequence[tuple[Locality, Destination]]) -> list[float]:
    """The part of all calls that each locality gets, in any unit."""
    loads = _loads([locality for locality, _ in found])
    totals: dict[int, float] = {}
    for locality, _ in found:
        totals[locality.priority] = totals.get(locality.priority, 0.0) + _effective(locality)
    return [
        loads[locality.priority] * _effective(locality) / total if (total := totals[locality.priority]) else 0.0
        for locality, _ in found
    ]


def _effective(locality: Locality) -> float:
    """A locality's weight, less where too few are well: "effective locality weight" in Envoy's documentation."""
    if not locality.endpoints:
        return 0.0
    weight = locality.weight or len(locality.endpoints)
    return weight * min(1.0, OVERPROVISIONING * _well([locality])) or weight * 1e-6


def _loads(localities: Iterable[Locality]) -> dict[int, float]:
    """Each priority's part of the calls: what its healthy part can bear, of what those before it leave."""
    levels: dict[int, list[Locality]] = {}
    for each in localities:
        levels.setdefault(each.priority, []).append(each)
    bears = {priority: min(1.0, OVERPROVISIONING * _well(level)) for priority, level in sorted(levels.items())}
    together = min(1.0, sum(bears.values()))
    if not together:
        return {priority: float(priority == min(levels)) for priority in levels}
    left = 1.0
    loads: dict[int, float] = {}
    for priority, part in bears.items():
        loads[priority] = min(left, part / together)
        left -= loads[priority]
    return loads


def _well(localities: Iterable[Locality]) -> float:
    """The healthy part of these instances. Who is leaving is not missed."""
    staying = [each for locality in localities for each in locality.endpoints if each.health is not Health.DRAINING]
    return sum(each.health is Health.HEALTHY for each in staying) / len(staying) if staying else 0.0


def _subset(chosen: Mapping[str, _Chosen], size: int, caller: str) -> list[_Chosen]:
    """So many of them, those nearest to this caller's name, so that a change of instances moves few callers; weights
    that the control plane steers make their load even. All ways to an instance are kept with it.
    """
    everyone = list(chosen.values())
    if not 0 < size < len(everyone):
        return everyone
    well = [each for each in everyone if each.health is membership.Health.ADMITTED] or everyone
    instances = {parted(each.name)[0] for each in well}
    kept = frozenset(nearest(caller, instances, size))
    return [each for each in well if parted(each.name)[0] in kept]
