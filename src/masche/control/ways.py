"""Which calls of an edge stay within a machine, as the picture shows them: told from where workloads run, not measured.

Invariant: an edge is only called local when no call of it can have gone another way.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from masche.api.traffic import Way
from masche.compiler.nearness import is_local, node_of
from masche.compiler.remember import by_identity
from masche.control.naming import naming
from masche.model.mesh import Mesh
from masche.model.refs import Name
from masche.model.resources.core import Service
from masche.model.resources.workload import Workload

Homes = frozenset[str]
"""The node proxies that serve some workloads; "" stands for proxies of one's own."""


def to_instance(mesh: Mesh, source: str, instance: Name) -> Way:
    """How the workloads of a node of the graph reach an instance."""
    node = node_of(mesh.workloads.get(instance))
    return _way(mesh, homes(mesh).get(source, frozenset()), frozenset({node}))


def of_edge(mesh: Mesh, source: str, destination: str, instances: Iterable[Way]) -> Way:
    """How an edge is: as the ways to its instances are, or to all that it could have, when it is not known to which."""
    if found := set(instances):
        return found.pop() if len(found) == 1 else Way.MIXED
    known = homes(mesh)
    return _way(mesh, known.get(source, frozenset()), known.get(destination, frozenset()))


def _way(mesh: Mesh, callers: Homes, callees: Homes) -> Way:
    shared = (callers & callees) - {""}
    if not shared or not is_local(mesh):
        return Way.TLS
    return Way.LOCAL if callers == callees == shared and len(shared) == 1 else Way.MIXED


def homes(mesh: Mesh) -> Mapping[str, Homes]:
    """Where the workloads of each node of the graph are."""
    return _homes(mesh.services, mesh.workloads)


@by_identity
def _homes(services: Mapping[Name, Service], workloads: Mapping[Name, Workload]) -> Mapping[str, Homes]:
    names = naming(Mesh(services=services, workloads=workloads))
    found: dict[str, set[str]] = defaultdict(set)
    for name, workload in workloads.items():
        found[names.node(name)].add(node_of(workload))
    return {node: frozenset(some) for node, some in found.items()}
