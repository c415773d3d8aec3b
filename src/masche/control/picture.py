"""The graph that people look at: services with their instances, whoever else calls, and the calls between. Pure."""

from collections.abc import Iterable, Sequence

from masche.api.messages import ProxyStatus
from masche.api.traffic import Edge, Graph, Node, NodeKind, NodeWorkload
from masche.control.world import World
from masche.model.mesh import Mesh
from masche.model.refs import Name
from masche.model.resources.core import Service


def graph(world: World, proxies: Sequence[ProxyStatus], edges: tuple[Edge, ...], *, at: float, window: float) -> Graph:
    """Put nodes to the edges. A Service that nobody ever calls and that has no instance is drawn as well.

    A Service that selects exactly the instances of another with the same ``app`` label (a subset for a split) is drawn
    only when it is called.
    """
    called = {edge.destination for edge in edges} | {edge.source for edge in edges}
    by_node: dict[str, list[ProxyStatus]] = {}
    for proxy in proxies:
        by_node.setdefault(node_of(proxy), []).append(proxy)
    nodes = [*_services(world.newest, by_node, called, proxies), *_others(world.newest, by_node, called)]
    return Graph(
        revision=world.revision, at=at, window=window, nodes=tuple(sorted(nodes, key=lambda node: node.id)), edges=edges
    )


def node_of(proxy: ProxyStatus) -> str:
    """The node that a workload belongs to: its Service, or itself by its ``namespace/app``."""
    return proxy.service or caller_of(proxy.workload)


def caller_of(workload: str) -> str:
    """The node of a workload without a Service: its name without the part that tells instances apart."""
    namespace, _, name = workload.partition("/")
    stem, dash, suffix = name.rpartition("-")
    return f"{namespace}/{stem if dash and suffix.isalnum() and stem else name}"


def _services(
    mesh: Mesh, by_node: dict[str, list[ProxyStatus]], called: set[str], proxies: Sequence[ProxyStatus]
) -> Iterable[Node]:
    for name, service in mesh.services.items():
        key = str(name)
        workloads = by_node.pop(key, [])
        if not workloads and key not in called and _is_subset(mesh, key):
            continue
        workloads = workloads or list(_selected(mesh, service, proxies))
        yield Node(
            id=key,
            kind=NodeKind.SERVICE,
            namespace=name.namespace,
            name=name.name,
            ports=tuple(port.port for port in service.spec.ports),
            workloads=tuple(map(_instance, workloads)),
        )


def _selected(mesh: Mesh, service: Service, proxies: Sequence[ProxyStatus]) -> Iterable[ProxyStatus]:
    """The instances that a Service shares with another one, on whose node they would otherwise be drawn alone."""
    selector = service.spec.selector or {}
    for proxy in proxies:
        namespace, _, name = proxy.workload.partition("/")
        workload = mesh.workloads.get(Name(namespace, name)) if namespace == service.name.namespace else None
        if workload is not None and selector and selector.items() <= workload.metadata.labels.items():
            yield proxy


def _is_subset(mesh: Mesh, key: str) -> bool:
    """Whether another Service of the namespace selects with a part of this one's selector."""
    found = next(service for name, service in mesh.services.items() if str(name) == key)
    mine = found.spec.selector or {}
    return any(
        other is not found
        and other.name.namespace == found.name.namespace
        and other.spec.selector
        and other.spec.selector.items() < mine.items()
        for other in mesh.services.values()
    )


def _others(mesh: Mesh, by_node: dict[str, list[ProxyStatus]], called: set[str]) -> Iterable[Node]:
    services = {str(name) for name in mesh.services}
    for key in sorted((by_node.keys() | called) - services):
        workloads = by_node.get(key, [])
        namespace, _, name = key.partition("/")
        is_gateway = any(each.placement == "gateway" for each in workloads)
        kind = NodeKind.GATEWAY if is_gateway else NodeKind.CLIENT if workloads else NodeKind.EXTERNAL
        yield Node(id=key, kind=kind, namespace=namespace, name=name or key, workloads=tuple(map(_instance, workloads)))


def _instance(proxy: ProxyStatus) -> NodeWorkload:
    return NodeWorkload(
        workload=proxy.workload,
        state=proxy.state,
        placement=proxy.placement,
        machine=proxy.machine,
        zone=proxy.zone,
        identity=proxy.identity,
        certificate_expires_at=proxy.certificate_expires_at,
        is_connected=proxy.is_connected,
        is_in_sync=proxy.is_in_sync,
        is_exposed=proxy.is_exposed,
        last_error=proxy.last_error,
    )
