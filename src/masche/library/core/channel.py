"""What this process knows of each service that it calls, between the calls: instances, evidence, budgets and limits.

A Channel is one cluster of the control plane. It outlives changes of its instances, of whom it keeps what was learnt,
and is made anew within when its policy changes. Invariant: whatever reads or changes what is inside holds the lock, and
nothing waits while it does.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from threading import Lock

from masche.library.core.exchange import Over
from masche.library.core.limits import Gate, LimitedBudget
from masche.library.core.members import Place, members, places
from masche.library.core.plain_routes import PlainRoutes
from masche.library.core.ports import Known, Now
from masche.model.calling import Algorithm, CircuitBreaker, Traffic
from masche.model.told import Destination
from masche.model.view import Endpoints, Protocol
from masche.traffic.balancer import Balancer
from masche.traffic.breaker import Breaker
from masche.traffic.budget import BudgetRules, RetryBudget
from masche.traffic.callee import Callee
from masche.traffic.ejection import EjectionRules, Event, SharedVerdict, State
from masche.traffic.hedging import Hedger, HedgeRules
from masche.traffic.membership import Membership, Rules, SlowStart
from masche.traffic.pickers.chosen_by_chance import ChosenByChance
from masche.traffic.pickers.maglev import Maglev
from masche.traffic.pickers.picker import Picker
from masche.traffic.pickers.ring_hash import RingHash
from masche.traffic.pickers.round_robin import WeightedRoundRobin
from masche.traffic.pickers.told import Told

PANIC = 0.01
"""With fewer than this part well, anyone is better than nobody; the same in proxies (decision 10)."""

_log = logging.getLogger("masche.library")


class Channel:
    """One service, as this process calls it. ``name`` is its cluster's. ``is_usual``: its calls may begin as lone ones,
    for they neither stick to an instance nor are hedged.
    """

    __slots__ = (
        "_source",
        "callee",
        "destination",
        "forgotten",
        "gate",
        "is_sticky",
        "is_usual",
        "lock",
        "name",
        "places",
        "repeats",
        "troubled",
    )

    def __init__(self, destination: Destination, *, now: float) -> None:
        self.name = destination.name
        self.destination = destination
        self.lock = Lock()
        self.gate = Gate(_limits(destination))
        self.troubled = 0
        self.places: Mapping[str, Place] = {}
        self._source: tuple[object, ...] = ()
        self.forgotten: deque[Over] = deque()
        self._build(destination.cluster.traffic, Membership(), now)

    def __repr__(self) -> str:
        breaker = self.callee.breaker
        standing = [(each.id, breaker.state(each.id)) for each in self.callee.balancer.membership.endpoints]
        until = [breaker.until(name) for name, state in standing if state is State.EJECTED]
        parts = [f"{sum(state is State.ADMITTED for _, state in standing)} admitted"]
        if detours := sum(place.way is not None for place in self.places.values()):
            parts.append(f"{detours} by a detour")
        if until:
            parts.append(f"{len(until)} ejected until {max(until):.1f}")
        if probing := sum(state is State.PROBING for _, state in standing):
            parts.append(f"{probing} probing")
        if self.callee.balancer.is_panicking:
            parts.append("PANIC")
        if self.gate.active:
            parts.append(f"{self.gate.active} active")
        return f"<Channel {self.title}: {', '.join(parts)}>"

    @property
    def title(self) -> str:
        """Its name for people: ``shop/orders:80``, or what a foreign control plane calls it."""
        service = self.destination.cluster.service
        return str(service) if service.path == self.name else self.name

    def update(self, known: Known, *, caller: str, now: float) -> None:
        """Take over what is known now of the cluster, its policy and its instances."""
        destination = known.destinations[self.name]
        source = _source(destination, known)
        if source == self._source and destination is self.destination:
            return
        traffic = destination.cluster.traffic
        found = places(destination, destinations=known.destinations, endpoints=known.endpoints)
        endpoints, where = members(found, subset_size=traffic.subset_size, caller=caller)
        with self.lock:
            before = self.callee.balancer.membership
            after = before.updated(endpoints, now=now) if before.endpoints else Membership.of(endpoints)
            if traffic != self.destination.cluster.traffic:
                self._build(traffic, after, now)
            else:
                self.callee.members(after, now=now)
            self.places, self.destination, self._source = where, destination, source

    # What callers tell each other

    def hear(self, verdict: SharedVerdict, *, now: float) -> None:
        """Take note of another caller's verdict about an instance, ``host:port``."""
        with self.lock:
            self.callee.hear(verdict, now=now)
            events = self.callee.take_events()
        self.tell(events)

    def end_forgotten(self) -> None:
        """End the requests whose answers were neither read nor closed, and are gone."""
        while self.forgotten:
            over = self.forgotten.popleft()
            over(0, False)  # noqa: FBT003 - an Over has no names

    def verdicts(self, *, caller: str, now: float) -> tuple[SharedVerdict, ...]:
        """Whom this process has ejected on its own evidence, or suspects."""
        self.end_forgotten()
        with self.lock:
            return self.callee.verdicts(caller=caller, now=now)

    def tell(self, events: tuple[Event, ...]) -> None:
        """Say what became of instances, for those who read logs."""
        for event in events:
            _log.info("%s: %s", self.title, event)

    def _build(self, traffic: Traffic, membership: Membership, now: float) -> None:
        limit = traffic.breaker.max_retries
        budget = RetryBudget(BudgetRules.of(traffic.budget))
        self.repeats = None if limit is None else LimitedBudget(budget, limit)
        self.gate.rules = _limits(self.destination, traffic)
        self.is_sticky = traffic.algorithm.is_hash
        self.callee = Callee(
            Balancer(membership, picker=_picker(traffic.algorithm), rules=_rules(traffic)),
            breaker=Breaker(EjectionRules.of(traffic.outlier), name=self.title),
            budget=self.repeats or budget,
            hedger=Hedger(HedgeRules.of(traffic.hedging)),
            now=now,
        )
        self.is_usual = not (self.is_sticky or self.callee.hedger.is_on)


def _source(destination: Destination, known: Known) -> tuple[Endpoints | None, ...]:
    """What the instances of a cluster are made of."""
    names = (destination.name, *destination.members)
    return tuple(known.endpoints.get(name) for name in names)


def _limits(destination: Destination, traffic: Traffic | None = None) -> CircuitBreaker:
    """How much may be under way. Of TCP it is connections; there are no requests to be limited."""
    found = (traffic or destination.cluster.traffic).breaker
    is_tcp = destination.cluster.protocol is Protocol.TCP
    return replace(found, max_requests=found.max_connections) if is_tcp else found


def _rules(traffic: Traffic) -> Rules:
    return Rules(slow_start=SlowStart(window=traffic.slow_start), panic_threshold=PANIC)


def _picker(algorithm: Algorithm) -> Picker:
    """The picker that an algorithm stands for; "least request" is whoever says that it has least to do, else two
    choices; both by peak EWMA, which counts requests under way and knows slow and failing instances besides. Weights
    count for all, as in Envoy.
    """
    match algorithm:
        case Algorithm.LEAST_REQUEST:
            return Told()
        case Algorithm.ROUND_ROBIN:
            return WeightedRoundRobin()
        case Algorithm.RANDOM:
            return ChosenByChance()
        case Algorithm.RING_HASH:
            return RingHash()
        case Algorithm.MAGLEV:
            return Maglev()


class Channels:
    """The Channels of one process, by the names of their clusters."""

    __slots__ = ("_by_name", "_caller", "_known_as", "_lock", "_taken")

    _KEPT = 256
    """So many Knowns are remembered as taken over."""

    def __init__(self, *, caller: str = "", known_as: Callable[[], str] = str) -> None:
        self._by_name: dict[str, Channel] = {}
        self._taken: dict[int, PlainRoutes] = {}
        self._lock = Lock()
        self._caller = caller
        self._known_as = known_as

    def __repr__(self) -> str:
        return f"<Channels {list(self._by_name.values())!r}>"

    def routes(self, known: Known, *, now: Now) -> PlainRoutes:
        """Take over what is known now, unless that was done, and return its routes. The cheap way is the usual one:
        this very Known was taken over already.
        """
        found = self._taken.get(id(known))
        return found if found is not None and found.known is known else self._take_over(known, now())

    def get(self, name: str) -> Channel | None:
        """Return the Channel of a cluster that was called before."""
        return self._by_name.get(name)

    def all(self) -> tuple[Channel, ...]:
        """Every Channel that was ever called."""
        return tuple(self._by_name.values())

    def hear(self, name: str, verdict: SharedVerdict, *, now: float) -> None:
        """Take note of a verdict about an instance of the cluster of that name, if it was ever called."""
        channel = self._by_name.get(name)
        if channel is not None:
            channel.hear(verdict, now=now)

    def verdicts(self, *, now: float) -> dict[str, tuple[SharedVerdict, ...]]:
        """What there is to tell other callers, by the name of the cluster."""
        found = {name: each.verdicts(caller=self._caller, now=now) for name, each in list(self._by_name.items())}
        return {name: verdicts for name, verdicts in found.items() if verdicts}

    def _take_over(self, known: Known, now: float) -> PlainRoutes:
        with self._lock:
            for name, destination in known.destinations.items():
                channel = self._by_name.get(name)
                if channel is None:
                    channel = self._by_name[name] = Channel(destination, now=now)
                channel.update(known, caller=self._known_as() or self._caller, now=now)
            if len(self._taken) >= self._KEPT:
                self._taken.clear()
            found = self._taken[id(known)] = PlainRoutes(known)
            return found
