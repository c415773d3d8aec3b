"""From a workload's record to its Vantage: everything that may change what it is told, and nothing else.

Invariant: two workloads that no resource can tell apart have equal Vantages, so their configuration is made once.
"""

from collections.abc import Iterable, Mapping
from itertools import chain

from masche.compiler.east_west import is_east_west
from masche.compiler.remember import by_identity
from masche.model.mesh import Mesh
from masche.model.refs import Name
from masche.model.resources.core import Service
from masche.model.resources.rate_limit_policy import RateLimitPolicy
from masche.model.resources.security import AuthorizationPolicy, PeerAuthentication
from masche.model.resources.workload import Workload
from masche.model.vantage import Dialect, Placement, Vantage


def stand(
    mesh: Mesh,
    workload: Workload,
    *,
    placement: Placement,
    dialect: Dialect = Dialect.ENVOY,
    gateway: Name | None = None,
) -> Vantage:
    """Return where the workload stands; ``gateway`` names the Gateway that a gateway placement carries out."""
    namespace, dependencies = workload.metadata.namespace, workload.spec.dependencies
    by_namespace = _selecting_keys(
        mesh.services, mesh.authorization_policies, mesh.peer_authentications, mesh.rate_limit_policies
    )
    nobody: frozenset[str] = frozenset()
    keys = by_namespace.get(namespace, nobody) | by_namespace.get(mesh.config.spec.root_namespace, nobody)
    labels = ((key, value) for key, value in workload.metadata.labels.items() if key in keys)
    return Vantage(
        placement=placement,
        dialect=dialect,
        namespace=namespace,
        service_account=workload.spec.service_account,
        zone=workload.spec.zone,
        labels=tuple(sorted(labels)),
        dependencies=None if dependencies is None else tuple(sorted(set(dependencies))),
        gateway=gateway,
        is_east_west=placement is Placement.GATEWAY and is_east_west(mesh, workload),
    )


@by_identity
def _selecting_keys(
    services: Mapping[Name, Service],
    authorizations: Mapping[Name, AuthorizationPolicy],
    authentications: Mapping[Name, PeerAuthentication],
    limits: Mapping[Name, RateLimitPolicy],
) -> Mapping[str, frozenset[str]]:
    """Return the label keys on which something selects, by the namespace in which it stands."""
    keys: dict[str, set[str]] = {}
    by_service: Iterable[tuple[str, Iterable[str]]] = (
        (name.namespace, service.spec.selector) for name, service in services.items()
    )
    by_policy: Iterable[tuple[str, Iterable[str]]] = (
        (name.namespace, policy.spec.selector.match_labels)
        for name, policy in chain(authorizations.items(), authentications.items(), limits.items())
        if policy.spec.selector
    )
    for namespace, selector in chain(by_service, by_policy):
        keys.setdefault(namespace, set()).update(selector)
    return {namespace: frozenset(some) for namespace, some in keys.items()}
