"""What must be known before a virtual host can be called, and whether it is: clusters, their members, their endpoints.

Pure: decided from how single resources stand. The tree of gRFC A74, "a complete configuration or none", with the
aggregates of A37. Invariant: a Known is made only when nothing in it is still to come; what the control plane does not
have, or what was refused, is not waited for: it is left out, and calls to it fail.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from masche.library.core.ports import Known
from masche.model.frozen import frozen
from masche.model.told import INVALID, PASSTHROUGH, Destination, Discovery, Told
from masche.model.view import Endpoints, Forward, Route, VirtualHost
from masche.traffic.virtual_hosts import clusters_of
from masche.wire.types import CLUSTER, ENDPOINTS
from masche.xds.client_words import Key, Resource, Standing

NAMES = "dns"
"""Stands in the place of a type URL for what a name server says of ``host:port``."""

_NEVER_ASKED = frozenset({INVALID, PASSTHROUGH})
"""Names that mean something by themselves: there is no cluster of these names to be asked for."""

DEPTH = 16
"""How deep aggregates may be nested (gRFC A37)."""

Look = Callable[[Key], Resource | None]
"""How a resource stands; None when nobody asked for it yet."""


@frozen
class Assembly:
    """What came of it: all that the virtual host ``needs``, what of that is ``missing``, and a Known if nothing is."""

    needs: frozenset[Key]
    missing: tuple[Key, ...]
    known: Known | None


def assemble(host: VirtualHost, look: Look) -> Assembly:
    """Put together what is known of the clusters of a virtual host."""
    walk = _Walk(look)
    for name in dict.fromkeys(clusters_of(host)):
        walk.visit(name, ())
    complete = not walk.missing
    known = Known(host=host, destinations=walk.destinations, endpoints=walk.endpoints) if complete else None
    return Assembly(needs=frozenset(walk.needs), missing=tuple(walk.missing), known=known)


def is_same(one: Known, other: Known) -> bool:
    """Whether two say the same, looking first at what is the very same object."""
    return (
        (one.host is other.host or one.host == other.host)
        and one.destinations == other.destinations
        and one.endpoints == other.endpoints
    )


@dataclass(slots=True)
class _Walk:
    """One walk over the clusters of a virtual host."""

    look: Look
    needs: set[Key] = field(default_factory=set[Key])
    missing: dict[Key, None] = field(default_factory=dict[Key, None])
    destinations: dict[str, Destination] = field(default_factory=dict[str, Destination])
    endpoints: dict[str, Endpoints] = field(default_factory=dict[str, Endpoints])
    visited: dict[str, tuple[str, ...] | None] = field(default_factory=dict[str, "tuple[str, ...] | None"])

    def visit(self, name: str, above: tuple[str, ...]) -> tuple[str, ...] | None:
        """Take in a cluster. Return the clusters that it is in the end, in order; None if it cannot be used.

        An aggregate in itself, or too deep in others, is an error of the whole aggregate (gRFC A37).
        """
        if name in _NEVER_ASKED or name in above or len(above) >= DEPTH:
            return None
        destination = self.ask((CLUSTER, name))
        if not isinstance(destination, Destination):
            return ()
        if destination.discovery is Discovery.AGGREGATE:
            if name not in self.visited:
                self.visited[name] = self._aggregate(destination, (*above, name))
            return self.visited[name]
        self.destinations[name] = destination
        self._instances(destination)
        return (name,)

    def ask(self, key: Key) -> object:
        """Return the value of a resource; None when there is none, or none yet."""
        self.needs.add(key)
        resource = self.look(key)
        if resource is None or resource.standing is Standing.ASKED:
            self.missing[key] = None
            return None
        return resource.value

    def _aggregate(self, destination: Destination, above: tuple[str, ...]) -> tuple[str, ...] | None:
        leaves: list[str] = []
        for member in destination.members:
            found = self.visit(member, above)
            if found is None:
                return None
            leaves += found
        self.destinations[destination.name] = _flat(destination, leaves)
        return tuple(leaves)

    def _instances(self, destination: Destination) -> None:
        """Find the endpoints. Of what has none, and never will, nobody can be called: that is an answer too."""
        match destination.discovery:
            case Discovery.EDS:
                found = self.ask((ENDPOINTS, destination.assignment or destination.name))
            case Discovery.LOGICAL_DNS:
                found = self.ask((NAMES, f"{destination.host}:{destination.port}"))
            case Discovery.STATIC:
                found = destination.endpoints
            case Discovery.PASSTHROUGH | Discovery.AGGREGATE:
                return
        nobody = Endpoints(service=destination.cluster.service)
        self.endpoints[destination.name] = found if isinstance(found, Endpoints) else nobody


def _flat(destination: Destination, leaves: Iterable[str]) -> Destination:
    """The same aggregate of clusters that are none; "duplicates are dropped after the first occurrence" (A37)."""
    members = tuple(dict.fromkeys(leaves))
    return destination if members == destination.members else replace(destination, members=members)


def settled(host: VirtualHost, told: Told) -> VirtualHost:
    """Return a virtual host whose routes say what its Listener says for those that say nothing of their own."""
    if told.fault is None and not told.max_duration:
        return host
    return replace(host, routes=tuple(_settled_route(route, told) for route in host.routes))


def _settled_route(route: Route, told: Told) -> Route:
    action = route.action
    if isinstance(action, Forward) and told.max_duration:
        action = replace(action, timeout=min(action.timeout or told.max_duration, told.max_duration))
    return replace(route, fault=route.fault or told.fault, action=action)


def in_words(missing: Iterable[Key], kinds: Mapping[str, str]) -> str:
    """Say what is missing: ``the cluster outbound/shop/orders/80 and 2 more``."""
    keys = list(missing)
    if not keys:
        return ""
    kind, name = keys[0]
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"{kinds.get(kind, kind)} {name}{more}"
