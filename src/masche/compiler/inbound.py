"""How calls to a workload are received: what its ports speak, who must show a certificate, what is allowed.

Invariant: when two Services disagree about what a port speaks, it is carried as bytes, so that no rule about requests
ever allows what it cannot see.
"""

from collections import defaultdict

from masche.compiler.peer import effective
from masche.compiler.policy import policies
from masche.compiler.protocol import ports, protocol
from masche.compiler.selection import matches
from masche.model.mesh import Mesh
from masche.model.refs import PortRef
from masche.model.vantage import Vantage
from masche.model.view import Inbound, InboundPort, Protocol


def inbound(mesh: Mesh, vantage: Vantage) -> Inbound:
    """Return the receiving side of a vantage."""
    authentication = effective(mesh, namespace=vantage.namespace, labels=dict(vantage.labels))
    return Inbound(
        mtls=authentication.mode,
        port_mtls=authentication.ports,
        ports=_ports(mesh, vantage),
        policies=policies(mesh, vantage),
        origins=authentication.origins,
    )


def _ports(mesh: Mesh, vantage: Vantage) -> tuple[InboundPort, ...]:
    spoken: defaultdict[int | str, list[tuple[PortRef, Protocol]]] = defaultdict(list)
    labels = dict(vantage.labels)
    for name, service in mesh.services.items():
        if name.namespace == vantage.namespace and service.spec.selector and matches(service.spec.selector, labels):
            for port in ports(service):
                spoken[port.target].append((PortRef(*name, port.port), protocol(port)))
    return tuple(
        InboundPort(
            target=target,
            protocol=_agreed({each for _, each in some}),
            services=tuple(sorted(ref for ref, _ in some)),
        )
        for target, some in sorted(spoken.items(), key=lambda item: str(item[0]))
    )


def _agreed(protocols: set[Protocol]) -> Protocol:
    if len(protocols) == 1:
        return next(iter(protocols))
    return Protocol.TCP if Protocol.TCP in protocols else Protocol.HTTP
