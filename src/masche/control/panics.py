"""Which Services have no healthy instance left, so that their callers call all of them: the panic rule of Envoy.

Pure. An instance is out when the mesh holds it for unhealthy, when steering ejected it for the callers of a zone, or
when a caller cut it off; nobody to call is worse than an instance that may fail, so then each is tried.
"""

from collections.abc import Iterable, Iterator, Mapping

from masche.compiler.steer.terrain import Ground, Terrain
from masche.control.ejections import Ejections
from masche.model.mesh import Mesh
from masche.model.refs import PortRef
from masche.model.steering import Steering


def ports(mesh: Mesh) -> tuple[PortRef, ...]:
    """All ports of all Services, sorted."""
    return tuple(
        PortRef(*name, each.port) for name, service in sorted(mesh.services.items()) for each in service.spec.ports
    )


def panicking(terrain: Terrain, steering: Steering, ejections: Ejections) -> Mapping[PortRef, str]:
    """The ports some of whose callers have nobody healthy to call, each with the sentence that says so."""
    cuts = _cuts(steering, ejections)
    return {
        port: f"{port}: no healthy instance; calls go to all {len(ground.sites)} of them"
        for port, ground in terrain.ports.items()
        if ground.sites and _is_panicking(ground, cuts.get(port, ()))
    }


def _cuts(steering: Steering, ejections: Ejections) -> Mapping[PortRef, tuple[frozenset[str], ...]]:
    """By port, who is out for the callers of some zone, and for some single caller."""
    found: dict[PortRef, tuple[frozenset[str], ...]] = {}
    for port, cut in (*_ejected(steering), *ejections.by_caller()):
        found[port] = (*found.get(port, ()), cut)
    return found


def _ejected(steering: Steering) -> Iterator[tuple[PortRef, frozenset[str]]]:
    for (port, _), steer in steering.steers.items():
        if steer.ejected:
            yield port, steer.ejected


def _is_panicking(ground: Ground, cuts: Iterable[frozenset[str]]) -> bool:
    return not ground.healthy or any(ground.healthy <= cut for cut in cuts)
