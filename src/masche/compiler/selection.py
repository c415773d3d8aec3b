"""Which Workloads a Service selects, and so which identities may answer in its name.

Decided once per pair of tables; a Service selects in its own namespace, and one without a selector selects nobody.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from masche.compiler.names import spiffe_id
from masche.compiler.remember import by_identity
from masche.model.refs import Name
from masche.model.resources.core import EndpointSlice, Service
from masche.model.resources.mesh_config import MeshConfig
from masche.model.resources.meta import Labels
from masche.model.resources.workload import Workload

Bucket = tuple[str, str, str]
"""A namespace and one label of it."""


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Say whether all labels of the selector are there."""
    return all(labels.get(key) == value for key, value in selector.items())


@by_identity
def selected(
    services: Mapping[Name, Service], workloads: Mapping[Name, Workload]
) -> Mapping[Name, tuple[Workload, ...]]:
    """Return the Workloads of each Service, sorted by name."""
    buckets = _buckets(workloads.values())
    return MappingProxyType(
        {name: _pick(buckets, name.namespace, service.spec.selector) for name, service in services.items()}
    )


def _buckets(workloads: Iterable[Workload]) -> Mapping[Bucket, list[Workload]]:
    buckets: defaultdict[Bucket, list[Workload]] = defaultdict(list)
    for workload in sorted(workloads, key=lambda each: each.name):
        for key, value in workload.metadata.labels.items():
            buckets[workload.metadata.namespace, key, value].append(workload)
    return buckets


def _pick(buckets: Mapping[Bucket, list[Workload]], namespace: str, selector: Labels) -> tuple[Workload, ...]:
    if not selector:
        return ()
    candidates = [buckets.get((namespace, key, value), []) for key, value in selector.items()]
    smallest = min(candidates, key=len)
    return tuple(each for each in smallest if matches(selector, each.metadata.labels))


@by_identity
def identities(
    services: Mapping[Name, Service], workloads: Mapping[Name, Workload], config: MeshConfig
) -> Mapping[Name, tuple[str, ...]]:
    """Return who may answer for each Service: its Workloads' accounts, whatever their state.

    A Service that selects nobody yet is answered for by the account that bears its name.
    """
    trust_domain = config.spec.trust_domain
    return MappingProxyType(
        {
            name: tuple(
                sorted({spiffe_id(trust_domain, name.namespace, each.spec.service_account) for each in members})
            )
            or (spiffe_id(trust_domain, name.namespace, name.name),)
            for name, members in selected(services, workloads).items()
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
