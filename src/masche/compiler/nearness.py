"""How a call from one workload to another goes: within the proxy of a machine that serves both, or by mutual TLS.

Decided from where both are registered and from MeshConfig, as the proxies are told it. Invariant: only two workloads
of one node proxy are ever near each other; whoever is near a workload need not be encrypted towards it, and is known by
its network namespace.
"""

from masche.model.mesh import Mesh
from masche.model.refs import Name
from masche.model.resources.mesh_config import SameMachine
from masche.model.resources.workload import Workload
from masche.model.vantage import Placement


def node_of(workload: Workload | None) -> str:
    """The node proxy that serves a workload, by its id; "" for one that has a proxy of its own, or none."""
    if workload is None or workload.status is None or workload.spec.placement is not Placement.NODE:
        return ""
    return workload.status.proxy


def is_near(mesh: Mesh, caller: Name, callee: Name) -> bool:
    """Whether both are served by one node proxy, as a workload is that calls itself."""
    node = node_of(mesh.workloads.get(caller))
    return bool(node) and node == node_of(mesh.workloads.get(callee))


def is_local(mesh: Mesh) -> bool:
    """Whether calls between workloads that are near each other stay within their proxy, and are not encrypted."""
    return mesh.config.spec.same_machine is SameMachine.LOCAL
