"""Ports of a Service that lead nowhere, because no Workload which it selects has the targetPort.

Decided from the Mesh alone. Nothing is said while nobody who listens is selected: then there is no instance, which is
another matter. Invariant: a port that some selected Workload has, be it ready or not, is never spoken of.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from masche.compiler.endpoints import application_port
from masche.compiler.selection import roster
from masche.model.diagnostic import Diagnostic, Severity, Status
from masche.model.mesh import Mesh
from masche.model.refs import PortRef
from masche.model.resources.core import Service
from masche.model.resources.workload import Workload, WorkloadPort

MOST = 6
"""So many ports of the workloads are named."""


class Lack(NamedTuple):
    """Which port of a Service (``at``, counted from 0) leads nowhere, and why and what to do about it."""

    at: int
    port: int
    why: str
    fix: str


def lacking(mesh: Mesh, service: Service) -> Iterator[Lack]:
    """Yield the ports of a Service that no Workload which it selects has, in the order of the Service."""
    listening = [each for each in roster(mesh.workloads).members(service) if each.spec.ports]
    for at, each in enumerate(service.spec.ports if listening else ()):
        if each.protocol == "TCP" and not any(application_port(workload, each.target) for workload in listening):
            named = f"port {each.target}" if isinstance(each.target, int) else f"a port named {each.target!r}"
            why = f"port {each.port} leads to {named}, and {_selected(listening)} {_listens(listening)}"
            fix = f"write targetPort: {_nearest(listening)}, or let the workloads listen on {each.target}"
            yield Lack(at, each.port, why, fix)


def _selected(listening: list[Workload]) -> str:
    if len(listening) == 1:
        return f"{listening[0].name}, the only workload that it selects, has"
    return f"the {len(listening)} workloads that it selects have"


def _listens(listening: list[Workload]) -> str:
    found = [f"{port.port} ({port.name})" if port.name else str(port.port) for port in _ports(listening)]
    return ", ".join(found[:MOST]) + (f" and {len(found) - MOST} more" if len(found) > MOST else "") + " instead"


def _nearest(listening: list[Workload]) -> int:
    return next(iter(_ports(listening))).port


def _ports(listening: Iterable[Workload]) -> list[WorkloadPort]:
    """The ports that they have, by number, each number once."""
    by_number = {port.port: port for each in listening for port in each.spec.ports}
    return [port for _, port in sorted(by_number.items())]


def lack_of(mesh: Mesh, port: PortRef) -> Lack | None:
    """Return why a port leads nowhere; None when it leads somewhere, or when there is no such port."""
    service = mesh.services.get(port.owner)
    return next((each for each in lacking(mesh, service) if each.port == port.port), None) if service else None


def service_status(mesh: Mesh, service: Service) -> Status:
    """Return what there is to say of a Service."""
    return Status(
        ref=service.ref,
        diagnostics=tuple(
            Diagnostic(
                code="target-port-missing",
                where=f"{service.ref} spec.ports[{each.at}].targetPort",
                why=each.why,
                fix=each.fix,
                severity=Severity.WARNING,
                ref=service.ref,
            )
            for each in lacking(mesh, service)
        ),
    )
