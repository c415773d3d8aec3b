"""Who is meant in a Report: people name Services and Workloads, a Report names proxies, ports and addresses.

Made once per Mesh. Invariant: what a proxy says counts only for workloads that its own machine registered for it; of
one that has just left, what it said last still counts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from masche.compiler.remember import by_identity
from masche.compiler.selection import roster
from masche.control.picture import caller_of
from masche.control.registrations import Registration, Registrations
from masche.model.mesh import Mesh
from masche.model.refs import Name
from masche.model.resources.core import Service
from masche.model.resources.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """The Mesh as Reports need it.

    ``services`` has the Service of each Workload that one selects, ``listeners`` who takes mutual TLS at ``host:port``
    and ``zones`` where each Workload is.
    """

    services: Mapping[Name, str]
    listeners: Mapping[str, Name]
    zones: Mapping[Name, str]

    def node(self, workload: Name) -> str:
        """What people call a workload by: its Service, or else its name without what tells instances apart."""
        return self.services.get(workload) or caller_of(str(workload))

    def via(self, gateway: str) -> str:
        """The zone of the gateway at ``host:port`` that a detour passes; "" for none, the place if nobody knows it."""
        name = self.listeners.get(gateway)
        return self.zones[name] if name is not None else gateway


def naming(mesh: Mesh) -> Naming:
    """The names of a Mesh; equal tables are looked at once."""
    return _naming(mesh.services, mesh.workloads)


@by_identity
def _naming(services: Mapping[Name, Service], workloads: Mapping[Name, Workload]) -> Naming:
    return Naming(
        services=_services(services, workloads),
        listeners={place: name for name, each in workloads.items() for place in _places(each)},
        zones={name: each.spec.zone for name, each in workloads.items()},
    )


def _services(services: Mapping[Name, Service], workloads: Mapping[Name, Workload]) -> dict[Name, str]:
    """The first Service that selects a workload, the one called like its ``app`` label before others."""
    everybody = roster(workloads)
    found: dict[Name, Name] = {}
    for name in sorted(services):
        for workload in everybody.members(services[name]):
            if workload.metadata.labels.get("app") == name.name:
                found[workload.name] = name
            else:
                found.setdefault(workload.name, name)
    return {workload: str(service) for workload, service in found.items()}


def _places(workload: Workload) -> Iterator[str]:
    host = f"[{workload.spec.address}]" if ":" in workload.spec.address else workload.spec.address
    for port in workload.spec.ports:
        yield f"{host}:{port.mesh_port or port.port}"


def reporting(registrations: Registrations, proxy: str, machine: str) -> Registration | None:
    """The proxy of this machine, also when it left a moment ago; None when the machine has no such proxy."""
    found = registrations.get(proxy) or registrations.departed(proxy)
    return found if found is not None and found.machine == machine else None
