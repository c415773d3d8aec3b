"""From a Mesh to what each proxy must hold: every View, Blob and table is made once and shared by all who need it.

The one invariant: two proxies with equal Vantages hold the very same Blobs, but for what a Seat makes their own. A
table that did not change stays the same object, which is how a stream knows without looking. No clock, no connection.
Where a workload may call many Services its Blobs are the same, but a wildcard is offered a part of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import is_

from masche.compiler import demand, encode
from masche.compiler.east_west import reach
from masche.compiler.endpoints import endpoints
from masche.compiler.envoy import endpoints as encoded_endpoints
from masche.compiler.envoy import shared, tunnels
from masche.compiler.view import view
from masche.model.blob import Blob
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.model.steering import NO_STEERING, Steering
from masche.model.vantage import Dialect, Seat, Vantage
from masche.model.view import Endpoints, View
from masche.wire.types import CLUSTER, ROUTES
from masche.xds.wanted import EMPTY, Table, Wanted

Place = tuple[Vantage, Seat]
EndpointKey = tuple[PortRef, str]
Assigned = tuple[Endpoints, Blob]
Given = frozenset[Name]

Habits = Mapping[Name, Given]
"""The Services that workloads called lately, by their namespace and service account."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """One Vantage's View and the Blobs that follow from it alone."""

    view: View
    blobs: tuple[Blob, ...]
    breadth: int

    @classmethod
    def of(cls, view: View) -> "Compiled":
        """Encode a View."""
        breadth = demand.breadth(view) if encode.asks_for_all(view.vantage.dialect) else 0
        return cls(view, encode.blobs(view), breadth)


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


@dataclass(frozen=True, slots=True)
class _Made:
    """What a proxy must hold, and the tables that it was joined from, by type."""

    wanted: Wanted
    sources: Mapping[str, list[Table]]

    def union(self, kind: str, tables: list[Table]) -> Table:
        """The tables as one: the same as before if they are the same."""
        before = self.sources.get(kind, [])
        if len(before) == len(tables) and all(map(is_, before, tables)):
            return self.wanted.table(kind)
        return _union(tables, self.wanted.table(kind))


_NOTHING = _Made(Wanted({}), {})


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
    _shared: dict[Vantage, Wanted] = field(default_factory=dict[Vantage, Wanted])
    _narrowed: dict[tuple[Vantage, Given], _Narrowed] = field(default_factory=dict[tuple[Vantage, Given], _Narrowed])
    _own: dict[Place, _Own] = field(default_factory=dict[Place, _Own])
    _current: set[Vantage] = field(default_factory=set[Vantage])
    _wanted: dict[tuple[Place, ...], _Made] = field(default_factory=dict[tuple[Place, ...], _Made])

    def settle(self, mesh: Mesh, *, endpoints_alone: bool) -> None:
        """Take a new Mesh. ``endpoints_alone`` promises that no View can differ; what is equal keeps its Blobs.

        When a Mesh cannot be compiled everything stays as it was, and whatever went wrong is raised.
        """
        before = self.mesh, self._compiled, dict(self._endpoints)
        self.mesh = mesh
        self._current.clear()
        try:
            if not endpoints_alone:
                self._compiled = {vantage: self._renewed(vantage, old) for vantage, old in self._compiled.items()}
            self._refresh_endpoints()
        except BaseException:
            self.mesh, self._compiled, self._endpoints = before
            self._current.clear()
            raise

    def steer(self, steering: Steering) -> None:
        """Take new Steering; only endpoints can change, and only where it is another than before."""
        before, self.steering, self.unsteered = self.steering.steers, steering, {}
        changed = {key for key in before.keys() | steering.steers.keys() if before.get(key) != steering.steers.get(key)}
        zones = {zone for _, zone in changed}
        self._current = {vantage for vantage in self._current if vantage.zone not in zones}
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
        self._shared = {vantage: made for vantage, made in self._shared.items() if vantage in vantages}
        keys = {key for vantage, made in self._compiled.items() for key in _endpoint_keys(vantage, made.view)}
        self._endpoints = {key: made for key, made in self._endpoints.items() if key in keys}
        self._said = {said: made for said, made in self._said.items() if said[1] in keys}

    def view(self, vantage: Vantage) -> View:
        """The View from here."""
        return self._compile(vantage).view

    def endpoints(self, port: PortRef, zone: str) -> Endpoints:
        """The instances of a port as a caller of ``zone`` sees them."""
        return self._endpoints_of((port, zone))[0]

    def wanted(self, places: tuple[Place, ...]) -> Wanted:
        """Everything that a proxy serving these places must hold. An equal result is the same object as before."""
        parts = [part for place in places for part in (self._given_tables(place), self._own_tables(place))]
        kinds = sorted({kind for part in parts for kind in part})
        made = self._wanted.get(places, _NOTHING)
        before, sources = made.wanted, {kind: [part.table(kind) for part in parts] for kind in kinds}
        tables = {kind: made.union(kind, some) for kind, some in sources.items()}
        is_same = tables.keys() == before.keys() and all(table is before.table(kind) for kind, table in tables.items())
        self._wanted[places] = made = _Made(before if is_same else Wanted(tables), sources)
        return made.wanted

    def _compile(self, vantage: Vantage) -> Compiled:
        if (found := self._compiled.get(vantage)) is None:
            made = view(self.mesh, vantage)
            found = self._compiled[vantage] = Compiled.of(made)
        return found

    def _renewed(self, vantage: Vantage, old: Compiled) -> Compiled:
        made = view(self.mesh, vantage)
        return old if made == old.view else Compiled.of(made)

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

    def _shared_tables(self, vantage: Vantage) -> Wanted:
        if vantage in self._current and vantage in self._shared:
            return self._shared[vantage]
        compiled = self._compile(vantage)
        instances = (self._instances(vantage.dialect, key) for key in _endpoint_keys(vantage, compiled.view))
        before = self._shared.get(vantage, Wanted({}))
        led_to = tunnels.tables(reach(self.mesh)) if vantage.is_east_west else ()
        made = Wanted.of((*compiled.blobs, *instances, *led_to))
        self._shared[vantage] = kept = Wanted({kind: _same(table, before.table(kind)) for kind, table in made.items()})
        self._current.add(vantage)
        return kept

    def given(self, place: Place) -> Given | None:
        """The Services that a workload is given unasked; None when that is all that it may call."""
        vantage, seat = place
        if self._compile(vantage).breadth <= self.mesh.config.spec.on_demand_above:
            return None
        account = Name(vantage.namespace, vantage.service_account)
        return demand.unasked(seat, self.habits.get(account, frozenset()))

    def _given_tables(self, place: Place) -> Wanted:
        tables, given = self._shared_tables(place[0]), self.given(place)
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
            _same(clusters, before.clusters if before else EMPTY),
            _same(routes, before.routes if before else EMPTY),
        )
        return made

    def _own_tables(self, place: Place) -> Wanted:
        current = self._compile(place[0]).view
        found = self._own.get(place)
        if found is None or found.view is not current:
            found = self._own[place] = _Own(current, Wanted.of(encode.listeners(current, place[1])))
        return found.wanted


def _endpoint_keys(vantage: Vantage, made: View) -> Iterable[EndpointKey]:
    return ((cluster.service, vantage.zone) for cluster in made.clusters)


def _same(table: Table, before: Table) -> Table:
    return table if table.changed_since(before) or len(table) != len(before) else before


def _union(tables: list[Table], before: Table) -> Table:
    filled = [table for table in tables if table]
    if len(filled) == 1:
        return filled[0]
    return _same(Table((blob for table in filled for blob in table.values()), offered=_offered(filled)), before)


def _offered(tables: list[Table]) -> frozenset[str] | None:
    """What all of these tables offer together: a name for which only some wait is offered."""
    if all(table.offered is None for table in tables):
        return None
    return frozenset[str]().union(*(table.keys() if table.offered is None else table.offered for table in tables))
