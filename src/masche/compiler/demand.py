"""What a workload of a large mesh is given unasked, and what waits until its proxy asks for it by name.

Unasked it is given what it called lately and what its own local ports lead to; the rest of its scope is on demand, so
that a proxy does not grow with the mesh. A small scope is given whole, for then there is no first call that waits.
Invariant: nothing waits that a proxy would not ask for: it asks for no target of a mirror, and for none of a route of
which a backend does not exist.
"""

from collections.abc import Collection, Iterator

from masche.compiler.clusters import of_backends, of_routes
from masche.model.refs import Name, PortRef
from masche.model.vantage import Seat
from masche.model.view import Forward, Outbound, Route, View


def breadth(view: View) -> int:
    """The number of Services in scope; 0 for who declares dependencies, and is given exactly those, however many."""
    return len({way.service.owner for way in view.outbound}) if view.vantage.dependencies is None else 0


def unasked(seat: Seat, called: Collection[Name]) -> frozenset[Name]:
    """The Services that one workload is given unasked; ``called`` are those that its like called lately."""
    return frozenset(called).union(local.service.owner for local in seat.local_ports)


def waiting(view: View, given: Collection[Name]) -> frozenset[PortRef]:
    """The destinations that are sent when they are asked for, if ``given`` are the Services given unasked."""
    needed: set[PortRef] = set()
    for way in view.outbound:
        needed.update(_destinations(way) if way.service.owner in given else _never_asked_for(way.routes))
    return frozenset(each.service for each in view.clusters) - needed


def _destinations(way: Outbound) -> Iterator[PortRef]:
    yield way.service
    yield from of_routes(way.routes)
    yield from of_backends(way.backends)


def _never_asked_for(routes: tuple[Route, ...]) -> Iterator[PortRef]:
    for route in routes:
        if isinstance(route.action, Forward):
            yield from (mirror.cluster for mirror in route.action.mirrors)
            yield from (mirror.cluster for backend in route.action.backends for mirror in backend.mirrors)
            if any(backend.cluster is None for backend in route.action.backends):
                yield from of_backends(route.action.backends)
