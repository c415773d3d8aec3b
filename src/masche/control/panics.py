"""Which Services have hardly a healthy instance left, so that their callers call all: the panic rule of Envoy.

Pure. An instance is out when the mesh holds it for unhealthy, when steering ejected it for the callers of a zone, or
when a caller cut it off; nobody to call is worse than an instance that may fail, so then each is tried.
"""

from collections.abc import Iterable, Iterator, Mapping

from masche.compiler.envoy.balancing import PANIC_PERCENT
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
    found = {port: _fewest(ground, cuts.get(port, ())) for port, ground in terrain.ports.items() if ground.sites}
    return {
        port: f"{port}: {_left(left)}; calls go to all {len(terrain.ports[port].sites)} of them"
        for port, left in found.items()
        if 100 * left < PANIC_PERCENT * len(terrain.ports[port].sites)
    }


def _left(count: int) -> str:
    return f"only {count} healthy" if count else "no healthy instance"


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


def _fewest(ground: Ground, cuts: Iterable[frozenset[str]]) -> int:
    """How many healthy instances are left to the caller who has the fewest."""
    return min(len(ground.healthy - cut) for cut in (frozenset[str](), *cuts))
