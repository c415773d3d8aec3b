"""What an authority leads to, in parts: a Listener with its table, and in it the virtual hosts that are called.

Kept by ``knowledge``, whose loop alone changes it; other threads may ask ``Tree.answer`` at any time. Invariant: a
Place is called by one domain of its table, so that a million hosts behind ``*`` are one Place.
"""

from collections.abc import Mapping
from typing import Final

from masche.library.core.ports import Known
from masche.library.knowledge.names import NameWatch
from masche.library.knowledge.parts import NAMES, is_same, settled
from masche.model.told import Table, Told
from masche.model.view import VirtualHost
from masche.traffic.virtual_hosts import HostIndex
from masche.wire.types import CLUSTER, ENDPOINTS, LISTENER, ROUTES
from masche.xds.client import Watch
from masche.xds.client_words import Key, Resource, Standing

NOWHERE: Final = Known(host=VirtualHost(hosts=(), routes=()), destinations={}, endpoints={})
"""What is known of an authority that no virtual host has: no route, which is a 404."""

KINDS = {
    LISTENER: "the Listener",
    ROUTES: "the RouteConfiguration",
    CLUSTER: "the cluster",
    ENDPOINTS: "the endpoints of",
    NAMES: "the addresses of",
}


class Place:
    """A virtual host that is called, by the domain by which it was found."""

    __slots__ = ("asked_at", "known", "missing", "source", "watches")

    def __init__(self, source: VirtualHost, *, now: float) -> None:
        self.source = source
        self.known: Known | None = None
        self.missing: tuple[Key, ...] = ()
        self.watches: dict[Key, Watch | NameWatch] = {}
        self.asked_at = now

    def close(self) -> None:
        """Want nothing of it any more."""
        for watch in self.watches.values():
            watch.close()


class Tree:
    """One Listener, its table, and the places in it. ``trouble`` says why there is no table and will be none."""

    __slots__ = (
        "_hosts",
        "_shared",
        "asked_at",
        "index",
        "listener",
        "name",
        "places",
        "routes",
        "routes_name",
        "table",
        "told",
        "trouble",
    )

    def __init__(self, name: str, *, now: float) -> None:
        self.name = name
        self.listener: Watch | None = None
        self.routes: Watch | None = None
        self.routes_name = ""
        self.told: Told | None = None
        self.table: Table | None = None
        self.index: HostIndex | None = None
        self.places: dict[str, Place] = {}
        self.trouble = ""
        self.asked_at = now
        self._hosts: dict[int, tuple[VirtualHost, VirtualHost]] = {}
        self._shared: dict[int, Known] = {}

    @property
    def why_nothing(self) -> str:
        """Why there is no table and will be none; empty while there is one, or may be."""
        return "" if self.index else self.trouble

    def take(self, told: Told, table: Table) -> HostIndex:
        """Go over to another table."""
        self.told, self.table = told, table
        self._hosts.clear()
        self._shared.clear()
        self.index = HostIndex.of(table)
        return self.index

    def lose(self) -> None:
        """The Listener is gone, and all that it led to."""
        for place in self.places.values():
            place.close()
        self.places, self.index, self.table, self.told = {}, None, None, None

    def host(self, place: Place) -> VirtualHost:
        """Return a place's virtual host with what its Listener says; the one that is known already if it is equal."""
        assert self.told is not None, "a place is in a table, which comes from a Listener"
        _, host = self._hosts.setdefault(id(place.source), (place.source, settled(place.source, self.told)))
        known = place.known
        return known.host if known is not None and known.host == host else host

    def shared(self, known: Known) -> Known:
        """The same object for the same virtual host, by whatever name it is called."""
        other = self._shared.get(id(known.host))
        if other is not None and other.host is known.host and is_same(other, known):
            return other
        self._shared[id(known.host)] = known
        return known

    def answer(self, authority: str) -> tuple[str, Known | None]:
        """Return the domain under which an authority is found, and what is known of it."""
        index = self.index
        found = index.find(authority) if index else None
        if found is None:
            return "", NOWHERE if index else None
        place = self.places.get(found.domain)
        return found.domain, place.known if place else None

    def close(self) -> None:
        """Want nothing of it any more."""
        for place in self.places.values():
            place.close()
        for watch in (self.listener, self.routes):
            if watch:
                watch.close()


class Said:
    """What readers see at one moment: ``answers`` by authority, and what was answered ``before`` a table changed."""

    __slots__ = ("answers", "before")

    def __init__(self, before: Mapping[str, Known]) -> None:
        self.answers: dict[str, Known] = {}
        self.before = before


def trouble(kind: str, name: str, resource: Resource) -> str:
    """Say why a resource without a value will have none, as far as is known; empty while it may still come."""
    match resource.standing:
        case Standing.ABSENT:
            return f"the control plane has no {KINDS[kind].removeprefix('the ')} {name}"
        case Standing.REFUSED:
            return f"{KINDS[kind]} {name} of the control plane is refused: {resource.why}"
        case Standing.HELD:
            return f"{KINDS[kind]} {name} of the control plane is not one for clients"
        case Standing.ASKED:
            return ""
