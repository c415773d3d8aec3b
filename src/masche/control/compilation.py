"""From a Mesh to what each proxy must hold: every View, Blob and table is made once and shared by all who need it.

The one invariant: two proxies with equal Vantages hold the very same Blobs, but for what a Seat makes their own, and
for the endpoints that a node proxy serves itself. A table that did not change stays the same object, which is how a
stream knows without looking. No clock, no connection. Where a workload may call many Services its Blobs are the same,
but a wildcard is offered a part of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import is_
from typing import Any

from masche.compiler import demand, encode
from masche.compiler.east_west import reach
from masche.compiler.endpoints import endpoints
from masche.compiler.envoy import endpoints as encoded_endpoints
from masche.compiler.envoy import shared, tunnels
from masche.compiler.view import view
from masche.control.beside import Beside, EndpointKey, Served
from masche.control.unions import Union, same
from masche.model.blob import Blob
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.model.resources.mesh_config import SameMachine
from masche.model.steering import NO_STEERING, Steering
from masche.model.vantage import Dialect, Placement, Seat, Vantage
from masche.model.view import Endpoints, View
from masche.wire.types import CLUSTER, ENDPOINTS, ROUTES
from masche.xds.wanted import EMPTY, Table, Wanted

Place = tuple[Vantage, Seat]
Assigned = tuple[Endpoints, Blob]
Given = frozenset[Name]

Habits = Mapping[Name, Given]
"""The Services that workloads called lately, by their namespace and service account."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """One Vantage's View, the tables that follow from it alone, and the endpoints that belong to them.

    ``breadth`` is in how many Services it can be narrowed; 0 when it is given whole.
    """

    view: View
    tables: Wanted
    keys: frozenset[EndpointKey]
    breadth: int


@dataclass(frozen=True, slots=True)
class _Narrowed:
    """What is different where only some Services are given unasked, and what it was made of."""

    view: View
    sources: tuple[Table, Table]
    clusters: Table
    routes: Table


@dataclass(frozen=True, slots=True)
class _Own:
    """What one Seat adds, and the View it was made of."""

    view: View
    wanted: Wanted


Portion = tuple[Dialect, frozenset[EndpointKey]]
"""The endpoints that all who stand alike are given, in their dialect."""


_NOTHING = Union()


@dataclass(slots=True)
class Compilation:
    """The Mesh that is settled now, and everything made of it that somebody needs."""

    mesh: Mesh = field(default_factory=Mesh)
    steering: Steering = NO_STEERING
    unsteered: dict[EndpointKey, str] = field(default_factory=dict[EndpointKey, str])
    """Whose Steering went wrong since it was taken, and how: these have their endpoints unsteered."""
    habits: Habits = field(default_factory=dict[Name, Given])
    _compiled: dict[Vantage, Compiled] = field(default_factory=dict[Vantage, Compiled])
    _endpoints: dict[EndpointKey, Assigned] = field(default_factory=dict[EndpointKey, Assigned])
    _said: dict[tuple[Dialect, EndpointKey], tuple[Assigned, Blob]] = field(
        default_factory=dict[tuple[Dialect, EndpointKey], tuple[Assigned, Blob]]
    )
    _tables: dict[tuple[int, ...], tuple[tuple[Blob, ...], Wanted]] = field(
        default_factory=dict[tuple[int, ...], tuple[tuple[Blob, ...], Wanted]]
    )
    _key_sets: dict[frozenset[EndpointKey], frozenset[EndpointKey]] = field(
        default_factory=dict[frozenset[EndpointKey], frozenset[EndpointKey]]
    )
    _portions: dict[Portion, Wanted] = field(default_factory=dict[Portion, Wanted])
    _led: dict[Vantage, Wanted] = field(default_factory=dict[Vantage, Wanted])
    _beside: Beside = field(default_factory=Beside)
    _narrowed: dict[tuple[Vantage, Given], _Narrowed] = field(default_factory=dict[tuple[Vantage, Given], _Narrowed])
    _own: dict[Place, _Own] = field(default_factory=dict[Place, _Own])
    _current: set[Portion] = field(default_factory=set[Portion])
    _wanted: dict[tuple[Place, ...], Union] = field(default_factory=dict[tuple[Place, ...], Union])

    def settle(self, mesh: Mesh, *, endpoints_alone: bool) -> None:
        """Take a new Mesh. ``endpoints_alone`` promises that no View can differ; what is equal keeps its Blobs.

        When a Mesh cannot be compiled everything stays as it was, and whatever went wrong is raised.
        """
        before = self.mesh, self._compiled, dict(self._endpoints)
        self.mesh = mesh
        self._current.clear()
        try:
            if not endpoints_alone:
                likeness = _Likeness()
                self._compiled = {
                    vantage: self._renewed(vantage, old, likeness) for vantage, old in self._compiled.items()
                }
            self._refresh_endpoints()
        except BaseException:
            self.mesh, self._compiled, self._endpoints = before
            self._current.clear()
            raise

    def steer(self, steering: Steering) -> None:
        """Take new Steering; only endpoints can change, and only where it is another than before."""
        before, self.steering, self.unsteered = self.steering.steers, steering, {}
        changed = {key for key in before.keys() | steering.steers.keys() if before.get(key) != steering.steers.get(key)}
        self._current = {portion for portion in self._current if portion[1].isdisjoint(changed)}
        for key in changed & self._endpoints.keys():
            self._endpoints[key] = self._assigned(key, self._endpoints[key])

    def recall(self, habits: Habits) -> None:
        """Take what workloads called lately; only what is given unasked can change."""
        self.habits = habits

    def keep_only(self, places: Iterable[tuple[Place, ...]]) -> None:
        """Forget what no proxy needs any more."""
        proxies = frozenset(places)
        kept = {place for proxy in proxies for place in proxy}
        vantages = {vantage for vantage, _ in kept}
        self._wanted = {proxy: made for proxy, made in self._wanted.items() if proxy in proxies}
        self._own = {place: made for place, made in self._own.items() if place in kept}
        narrow = {(place[0], given) for place in kept if (given := self.given(place)) is not None}
        self._narrowed = {key: made for key, made in self._narrowed.items() if key in narrow}
        self._compiled = {vantage: made for vantage, made in self._compiled.items() if vantage in vantages}
        self._led = {vantage: made for vantage, made in self._led.items() if vantage in vantages}
        in_use = {id(made.tables) for made in self._compiled.values()}
        self._tables = {ids: made for ids, made in self._tables.items() if id(made[1]) in in_use}
        portions = {(vantage.dialect, made.keys) for vantage, made in self._compiled.items()}
        self._key_sets = {keys: keys for _, keys in portions}
        self._portions = {portion: made for portion, made in self._portions.items() if portion in portions}
        keys = frozenset[EndpointKey]().union(*(portion[1] for portion in portions))
        self._endpoints = {key: made for key, made in self._endpoints.items() if key in keys}
        self._said = {said: made for said, made in self._said.items() if said[1] in keys}
        self._beside.keep_only(keys, [served for proxy in proxies if (served := _served(proxy))])

    def view(self, vantage: Vantage) -> View:
        """The View from here."""
        return self._compile(vantage).view

    def endpoints(self, port: PortRef, zone: str) -> Endpoints:
        """The instances of a port as a caller of ``zone`` sees them."""
        return self._endpoints_of((port, zone))[0]

    def wanted(self, places: tuple[Place, ...]) -> Wanted:
        """Everything that a proxy serving these places must hold. An equal result is the same object as before."""
        before = self._wanted.get(places, _NOTHING)
        parts = chain.from_iterable(map(self._parts, places))
        made = self._wanted[places] = before.joining(chain(parts, self._local_tables(places)))
        return made.wanted

    def _parts(self, place: Place) -> Iterator[Wanted]:
        """What one workload needs: what its like need too, their endpoints, and what its Seat adds."""
        vantage, compiled = place[0], self._compile(place[0])
        yield self._given_tables(place, compiled.tables)
        yield self._portion((vantage.dialect, compiled.keys))
        if vantage.is_east_west:
            yield self._led_to(vantage)
        yield self._own_tables(place)

    def _local_tables(self, places: tuple[Place, ...]) -> Iterator[Wanted]:
        """The endpoints that a node proxy calls within itself, in place of those that everybody has."""
        served = _served(places)
        if served and self.mesh.config.spec.same_machine is SameMachine.LOCAL:
            portions = {self._compile(vantage).keys for vantage, _ in places}
            every = ((key, self._endpoints_of(key)[0]) for key in frozenset[EndpointKey]().union(*portions))
            yield Wanted({ENDPOINTS: Table(self._beside.blobs(every, served))})

    def _compile(self, vantage: Vantage) -> Compiled:
        if (found := self._compiled.get(vantage)) is None:
            found = self._compiled[vantage] = self._encoded_view(view(self.mesh, vantage), before=None)
        return found

    def _renewed(self, vantage: Vantage, old: Compiled, likeness: "_Likeness") -> Compiled:
        made = likeness.of(view(self.mesh, vantage), old.view)
        return old if made == old.view else self._encoded_view(made, before=old)

    def _encoded_view(self, made: View, *, before: Compiled | None) -> Compiled:
        """Encode a View. Who is given the same Blobs is given the same tables."""
        blobs = encode.blobs(made)
        ids = tuple(map(id, blobs))
        if (known := self._tables.get(ids)) is None:
            fresh, old = Wanted.of(blobs), before.tables if before else _NOTHING.wanted
            tables = Wanted({kind: same(table, old.table(kind)) for kind, table in fresh.items()})
            known = self._tables[ids] = (blobs, tables)
        keys = frozenset((cluster.service, made.vantage.zone) for cluster in made.clusters)
        return Compiled(made, known[1], self._key_sets.setdefault(keys, keys), _breadth(made))

    def _endpoints_of(self, key: EndpointKey) -> Assigned:
        if (found := self._endpoints.get(key)) is None:
            found = self._endpoints[key] = self._assigned(key)
        return found

    def _assigned(self, key: EndpointKey, held: Assigned | None = None) -> Assigned:
        """The endpoints as they are steered, or unsteered where that goes wrong: it keeps them from nobody."""
        try:
            return self._encoded(key, held)
        except Exception as error:  # whatever is wrong with a Steer, what is not steered still serves
            if key not in self.steering.steers:
                raise
            self.unsteered[key] = f"{type(error).__name__}: {error}"
        self.steering = Steering(steers={each: steer for each, steer in self.steering.steers.items() if each != key})
        return self._encoded(key, held)

    def _encoded(self, key: EndpointKey, held: Assigned | None) -> Assigned:
        made = endpoints(self.mesh, self.steering, *key)
        return held if held and held[0] == made else (made, encoded_endpoints.blob(made))

    def _refresh_endpoints(self) -> None:
        for key, held in list(self._endpoints.items()):
            self._endpoints[key] = self._assigned(key, held)

    def _instances(self, dialect: Dialect, key: EndpointKey) -> Blob:
        """The endpoints in a dialect; where it says them as a proxy's does it is the same Blob."""
        assigned = self._endpoints_of(key)
        before = self._said.get((dialect, key))
        if before is None or before[0] is not assigned:
            before = self._said[dialect, key] = (assigned, encode.instances(dialect, *assigned))
        return before[1]

    def _portion(self, portion: Portion) -> Wanted:
        """The endpoints of these Services, the same table for all who are given just these."""
        made = self._portions.get(portion)
        if made is None or portion not in self._current:
            dialect, keys = portion
            table = Table(self._instances(dialect, key) for key in sorted(keys))
            before = made.table(ENDPOINTS) if made else EMPTY
            if made is None or same(table, before) is not before:
                made = self._portions[portion] = Wanted({ENDPOINTS: table} if table else {})
            self._current.add(portion)
        return made

    def _led_to(self, vantage: Vantage) -> Wanted:
        """What a gateway between zones needs to lead to every instance that it reaches."""
        fresh, before = Wanted.of(tunnels.tables(reach(self.mesh))), self._led.get(vantage, _NOTHING.wanted)
        made = Wanted({kind: same(table, before.table(kind)) for kind, table in fresh.items()})
        self._led[vantage] = made
        return made

    def given(self, place: Place) -> Given | None:
        """The Services that a workload is given unasked; None when that is all that it may call.

        So it is always on a node: its clusters are those of all its workloads together, who each called something
        else; and a captured connection, of which no header is read, has nothing that could ask and wait.
        """
        vantage, seat = place
        if self._compile(vantage).breadth <= self.mesh.config.spec.on_demand_above:
            return None
        account = Name(vantage.namespace, vantage.service_account)
        return demand.unasked(seat, self.habits.get(account, frozenset()))

    def _given_tables(self, place: Place, tables: Wanted) -> Wanted:
        given = self.given(place)
        if given is None:
            return tables
        made = self._narrow(place[0], given, tables)
        return Wanted({**tables, CLUSTER: made.clusters, ROUTES: made.routes})

    def _narrow(self, vantage: Vantage, given: Given, tables: Wanted) -> _Narrowed:
        current, sources = self._compile(vantage).view, (tables.table(CLUSTER), tables.table(ROUTES))
        before = self._narrowed.get((vantage, given))
        if before and before.view is current and all(map(is_, before.sources, sources)):
            return before
        waiting = {port.path for port in demand.waiting(current, given)}
        clusters = Table(sources[0].values(), offered=frozenset(sources[0].keys() - waiting))
        routes = sources[1].replaced(put=[shared.narrowed(current, given)])
        made = self._narrowed[vantage, given] = _Narrowed(
            current,
            sources,
            same(clusters, before.clusters if before else EMPTY),
            same(routes, before.routes if before else EMPTY),
        )
        return made

    def _own_tables(self, place: Place) -> Wanted:
        current = self._compile(place[0]).view
        found = self._own.get(place)
        if found is None or found.view is not current:
            found = self._own[place] = _Own(current, Wanted.of(encode.listeners(current, place[1])))
        return found.wanted


def _breadth(made: View) -> int:
    vantage = made.vantage
    is_narrowed = encode.asks_for_all(vantage.dialect) and vantage.placement is not Placement.NODE
    return demand.breadth(made) if is_narrowed else 0


def _served(places: tuple[Place, ...]) -> Served:
    """The workloads of a node proxy; nobody for any other proxy, which has only one."""
    return frozenset(str(seat.workload) for vantage, seat in places if vantage.placement is Placement.NODE)


class _Likeness:
    """Compares what many Views share with what it was before, once for all of them."""

    def __init__(self) -> None:
        self._judged: dict[tuple[int, int], tuple[object, object, bool]] = {}

    def of(self, made: View, old: View) -> View:
        """The View with those of its large parts that are equal replaced by what they were."""
        kept: dict[str, Any] = {
            part: getattr(old, part)
            for part in ("outbound", "clusters")
            if self._is_alike(getattr(made, part), getattr(old, part))
        }
        return replace(made, **kept)

    def _is_alike(self, one: object, other: object) -> bool:
        known = self._judged.get((id(one), id(other)))
        if known is None:
            known = self._judged[id(one), id(other)] = (one, other, one == other)
        return known[2]
