"""Who is meant in a Report: people name Services and Workloads, a Report names proxies, ports and addresses.

Made once per Mesh. Invariant: what a proxy says counts only for workloads that its own machine registered for it; of
one that has just left, what it said last still counts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from masche.compiler.remember import by_identity
from masche.compiler.selection import matches, roster
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


MANY = 100
"""When more Workloads than this changed at once, everything is looked at anew."""

_last: list[tuple[Mapping[Name, Service], Mapping[Name, Workload], Naming]] = []


@by_identity
def _naming(services: Mapping[Name, Service], workloads: Mapping[Name, Workload]) -> Naming:
    made = after(*_last[0], workloads) if _last and _last[0][0] is services else None
    made = made or anew(services, workloads)
    _last[:] = [(services, workloads, made)]
    return made


def anew(services: Mapping[Name, Service], workloads: Mapping[Name, Workload]) -> Naming:
    """Look at everybody."""
    return Naming(
        services=_services(services, workloads),
        listeners={place: name for name, each in workloads.items() for place in _places(each)},
        zones={name: each.spec.zone for name, each in workloads.items()},
    )


def after(
    services: Mapping[Name, Service], old: Mapping[Name, Workload], known: Naming, workloads: Mapping[Name, Workload]
) -> Naming | None:
    """What ``anew`` would give, from what is ``known`` of the ``old`` Workloads; None when that is not simpler.

    Two Workloads at one place, as an old and a new holder of an address, are not simple.
    """
    come = {name: each for name, each in workloads.items() if old.get(name) is not each}
    gone = [name for name in old if name not in workloads or name in come]
    is_simple = len(known.listeners) == sum(len(each.spec.ports) for each in old.values())
    if not is_simple or len(come) + len(gone) > MANY:
        return None
    selected, listeners, zones = dict(known.services), dict(known.listeners), dict(known.zones)
    for name in gone:
        selected.pop(name, None)
        del zones[name]
        if any(listeners.pop(place, None) != name for place in _places(old[name])):
            return None
    for name, each in come.items():
        zones[name] = each.spec.zone
        if found := _service_of(services, each):
            selected[name] = found
        for place in _places(each):
            if listeners.setdefault(place, name) != name:
                return None
    return Naming(services=selected, listeners=listeners, zones=zones)


def _service_of(services: Mapping[Name, Service], workload: Workload) -> str:
    labels = workload.metadata.labels
    mine = [
        name
        for name, service in services.items()
        if name.namespace == workload.metadata.namespace
        and service.spec.selector
        and matches(service.spec.selector, labels)
    ]
    namesake = [name for name in mine if name.name == labels.get("app")]
    return str(min(namesake or mine)) if mine else ""


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
