"""Which Workloads a Service selects, and so which identities may answer in its name.

A Service selects in its own namespace, and one without a selector selects nobody. Who selects whom does not depend on
addresses, states or the order of anything.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from masche.compiler.names import spiffe_id
from masche.compiler.remember import by_identity
from masche.model.refs import Name
from masche.model.resources.core import EndpointSlice, Service
from masche.model.resources.mesh_config import MeshConfig
from masche.model.resources.workload import Workload

Bucket = tuple[str, str, str]
"""A namespace and one label of it."""


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Say whether all labels of the selector are there."""
    return all(labels.get(key) == value for key, value in selector.items())


class Roster:
    """The Workloads of one table by namespace and label, and who each Service selects among them.

    A table that differs little from the one before it takes over what did not change, so that one new instance among
    50,000 costs a walk over the table and nothing else. The result never depends on where it was taken over from.
    """

    __slots__ = ("_buckets", "workloads")

    def __init__(self, workloads: Mapping[Name, Workload], buckets: Mapping[Bucket, tuple[Workload, ...]]) -> None:
        self.workloads = workloads
        self._buckets = buckets

    @classmethod
    def of(cls, workloads: Mapping[Name, Workload]) -> "Roster":
        """Sort everybody in."""
        return cls({}, {}).after(workloads)

    def after(self, workloads: Mapping[Name, Workload]) -> "Roster":
        """Return the Roster of another table, taking over from this one."""
        old = self.workloads
        come = [each for name, each in workloads.items() if old.get(name) is not each]
        gone = {name for name in old if name not in workloads} | {each.name for each in come if each.name in old}
        touched: defaultdict[Bucket, list[Workload]] = defaultdict(list)
        for name in gone:
            for bucket in _buckets_of(old[name]):
                touched[bucket] = []
        for each in come:
            for bucket in _buckets_of(each):
                touched[bucket].append(each)
        renewed = {
            bucket: _sorted([*(each for each in self._buckets.get(bucket, ()) if each.name not in gone), *new])
            for bucket, new in touched.items()
        }
        return Roster(workloads, {**self._buckets, **renewed})

    def members(self, service: Service) -> tuple[Workload, ...]:
        """Return the Workloads that a Service selects, sorted by name."""
        selector, namespace = service.spec.selector, service.metadata.namespace
        if not selector:
            return ()
        candidates = [self._buckets.get((namespace, key, value), ()) for key, value in selector.items()]
        return tuple(each for each in min(candidates, key=len) if matches(selector, each.metadata.labels))

    def labelled(self, namespace: str, key: str, value: str) -> tuple[Workload, ...]:
        """Return the Workloads of a namespace that have this label, sorted by name."""
        return self._buckets.get((namespace, key, value), ())


def _buckets_of(workload: Workload) -> Iterator[Bucket]:
    namespace = workload.metadata.namespace
    return ((namespace, key, value) for key, value in workload.metadata.labels.items())


def _sorted(workloads: list[Workload]) -> tuple[Workload, ...]:
    return tuple(sorted(workloads, key=lambda each: each.metadata.name))


_HELD = 4
_rosters: list[Roster] = []


def roster(workloads: Mapping[Name, Workload]) -> Roster:
    """Return the Roster of a table; the last few are remembered, by identity."""
    for known in _rosters:
        if known.workloads is workloads:
            return known
    made = _rosters[0].after(workloads) if _rosters else Roster.of(workloads)
    _rosters.insert(0, made)
    del _rosters[_HELD:]
    return made


@by_identity
def identities(
    services: Mapping[Name, Service], workloads: Mapping[Name, Workload], config: MeshConfig
) -> Mapping[Name, tuple[str, ...]]:
    """Return who may answer for each Service: its Workloads' accounts, whatever their state.

    A Service that selects nobody yet is answered for by the account that bears its name.
    """
    trust_domain, everybody = config.spec.trust_domain, roster(workloads)
    return MappingProxyType(
        {
            name: tuple(
                spiffe_id(trust_domain, name.namespace, account)
                for account in sorted({each.spec.service_account for each in everybody.members(service)} or {name.name})
            )
            for name, service in services.items()
        }
    )


@by_identity
def slices_by_service(slices: Mapping[Name, EndpointSlice]) -> Mapping[Name, tuple[EndpointSlice, ...]]:
    """Return the slices of each Service, sorted by name."""
    found: defaultdict[Name, list[EndpointSlice]] = defaultdict(list)
    for name, each in sorted(slices.items()):
        if each.service:
            found[Name(name.namespace, each.service)].append(each)
    return {service: tuple(some) for service, some in found.items()}
