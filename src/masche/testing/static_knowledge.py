"""What the mesh says, from given tables: a Knowledge without a control plane, a thread or a loop.

It is complete from its first ``put`` on; a cluster that was not put does not exist. ``check_knowledge`` holds for it as
it does for the real one.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Lock

from masche.library.core.ports import Known
from masche.library.knowledge.parts import assemble, is_same
from masche.library.knowledge.tree import NOWHERE
from masche.model.told import Destination, Table
from masche.model.view import Endpoints, VirtualHost
from masche.traffic.virtual_hosts import HostIndex
from masche.wire.types import CLUSTER, ENDPOINTS
from masche.xds.client_words import ABSENT, Key, Resource, Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that a control plane could tell: one table, clusters, and endpoints by the name of their assignment."""

    table: Table
    destinations: tuple[Destination, ...] = ()
    endpoints: Mapping[str, Endpoints] = field(default_factory=dict[str, Endpoints])

    def look(self, key: Key) -> Resource:
        """Return a resource as it stands in this world."""
        kind, name = key
        found: object = None
        if kind == CLUSTER:
            found = next((each for each in self.destinations if each.name == name), None)
        elif kind == ENDPOINTS:
            found = self.endpoints.get(name)
        return ABSENT if found is None else Resource(Standing.HELD, found)


class StaticKnowledge:
    """A Knowledge that knows what it was given. ``put`` may be called from any thread, at any time.

    Clusters that are to be resolved (LOGICAL_DNS) have nobody.
    """

    def __init__(self, world: World | None = None) -> None:
        self._lock = Lock()
        self._world: World | None = None
        self._index = HostIndex()
        self._known: dict[str, Known] = {}
        self._waiting: list[tuple[str, Future[Known]]] = []
        if world:
            self.put(world)

    def put(self, world: World) -> None:
        """Let this be the world from now on; who waited is answered."""
        with self._lock:
            self._world, self._index = world, HostIndex.of(world.table)
            waiting, self._waiting = self._waiting, []
        for authority, future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_result(self._look_up(authority, world))

    def tell(
        self, hosts: Iterable[VirtualHost], destinations: Iterable[Destination], endpoints: Mapping[str, Endpoints]
    ) -> None:
        """``put`` a world of these parts."""
        table = Table(name="static", hosts=tuple(hosts))
        self.put(World(table=table, destinations=tuple(destinations), endpoints=endpoints))

    def known(self, authority: str) -> Known | None:
        """Return what was put of an authority; None before the first ``put``."""
        world = self._world
        return None if world is None else self._look_up(authority, world)

    def want(self, authority: str) -> "Future[Known]":
        """Complete at once, or with the first ``put``."""
        future: Future[Known] = Future()
        with self._lock:
            world = self._world
            if world is None:
                self._waiting.append((authority, future))
        if world is not None:
            future.set_result(self._look_up(authority, world))
        return future

    def waiting_for(self) -> str:
        """Say that nothing was put yet, while that is so."""
        return "" if self._world else "a test to say what the mesh is"

    def _look_up(self, authority: str, world: World) -> Known:
        """Return the Known of a virtual host, the same object until something of it has changed."""
        with self._lock:
            found = self._index.find(authority)
            if found is None:
                return NOWHERE
            fresh = assemble(found.host, world.look).known
            assert fresh is not None, "nothing is ever missing from a world"
            before = self._known.get(found.domain)
            shared = next((each for each in self._known.values() if is_same(each, fresh)), fresh)
            self._known[found.domain] = before if before is not None and is_same(before, fresh) else shared
            return self._known[found.domain]

    def __repr__(self) -> str:
        return f"<StaticKnowledge {self._index!r}>"
