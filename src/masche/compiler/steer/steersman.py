"""From what callers saw to Steering: weights of instances, ejections, shares of zones and detours.

It remembers between reports, and decides once per interval for all ports at once, so that a slow link is seen by every
service that uses it. Invariant: whatever was seen, in whatever order, weights stay between 1 and 100, shares between 1
and 1000, and no port is left without an instance. Pure: time comes from outside.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import partial

from masche.compiler.steer.calm import Ways, is_calm, ways
from masche.compiler.steer.desk import Desk
from masche.compiler.steer.interval import Intervals, passages, summed
from masche.compiler.steer.laggards import Laggards
from masche.compiler.steer.links import Links
from masche.compiler.steer.moves import Decision, Move, MoveKind
from masche.compiler.steer.prospects import prospect
from masche.compiler.steer.seen import Key, Seen
from masche.compiler.steer.standing import Link, Standing
from masche.compiler.steer.terrain import Ground, Terrain
from masche.compiler.steer.track import AT_HOME, Carried
from masche.compiler.steer.verdicts import NOBODY, Bench
from masche.model.refs import PortRef
from masche.model.steering import NO_STEERING, Steer, Steering
from masche.model.view import SteeringMode, Traffic

INTERVAL = 0.9
"""Seconds, at least, between two steps of weights, zones and detours."""

MICROSECONDS = 1_000_000
WAKEFUL = 5.0
"""Seconds after the last report for which a port is still looked at: what is silent is known by then."""

LONGEST_WAIT = 15.0
"""Seconds that a call without a timeout is taken to have waited when it was given up."""


@dataclass(slots=True)
class _Port:
    """What is remembered of one port; ``heard_at`` is when callers last said anything of it."""

    bench: Bench = field(default_factory=Bench)
    laggards: Laggards = field(default_factory=Laggards)
    desks: dict[str, Desk] = field(default_factory=dict[str, Desk])
    ground: Ground | None = None
    heard_at: float = float("-inf")
    look_at: float = float("-inf")

    def rests(self, *, now: float) -> bool:
        """Whether nothing can move here until somebody reports again."""
        if now - self.heard_at <= WAKEFUL or not (self.bench.is_still and self.laggards.is_still):
            return False
        return all(desk.is_still for desk in self.desks.values())

    @property
    def remembers_until(self) -> float:
        """When the first thing that is remembered counts no more."""
        return min((desk.remembers_until for desk in self.desks.values()), default=float("inf"))


@dataclass(slots=True)
class Steersman:
    """Give it what was ``saw``, and let it ``steer`` once per interval. Times are monotonic seconds.

    A port of which nothing was reported for ``WAKEFUL`` seconds, and where everything is fair, is at rest: it is not
    looked at until somebody reports, or its memory ends.
    """

    suffering: Mapping[PortRef, Mapping[str, str]] = field(default_factory=dict[PortRef, Mapping[str, str]])
    """The instances that fail everybody by the word of their own agents; to be replaced before a look."""
    _pending: dict[PortRef, dict[str, list[Seen]]] = field(default_factory=dict[PortRef, dict[str, list[Seen]]])
    _ports: dict[PortRef, _Port] = field(default_factory=dict[PortRef, _Port])
    _links: Links = field(default_factory=Links)
    _terrain: Terrain = field(default_factory=lambda: Terrain(ports={}))
    _ways: dict[tuple[str, frozenset[str]], Ways] = field(default_factory=dict[tuple[str, frozenset[str]], Ways])
    _steering: Steering = NO_STEERING
    _steers: dict[Key, Steer] = field(default_factory=dict[Key, Steer])
    _stepped_at: float = float("-inf")
    _is_whole: bool = True

    # -- what is heard ----------------------------------------------------------------------------------------------

    def saw(self, key: Key, seens: Iterable[Seen], *, now: float) -> None:
        """Take what callers of one zone saw of one port; it counts at the next ``steer``."""
        del now  # reports count when the interval ends, so that their order and delay within it do not matter
        port, zone = key
        self._pending.setdefault(port, {}).setdefault(zone, []).extend(seens)

    def ports(self) -> tuple[PortRef, ...]:
        """The ports that something is known of: what a Terrain must cover."""
        return tuple(sorted(self._pending.keys() | self._ports.keys()))

    # -- what is decided --------------------------------------------------------------------------------------------

    def steer(self, terrain: Terrain, *, now: float) -> Decision:
        """Decide: what to publish, and the sentences that say why. To be called once a second.

        When it is called sooner, because of an ejection, verdicts are judged at once, and all else when it is time.
        """
        steps = self.steer_by_steps(terrain, now=now)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value

    def steer_by_steps(self, terrain: Terrain, *, now: float) -> Generator[None, None, Decision]:
        """Decide as ``steer`` does, but in short steps: whoever runs them may do other things between two.

        Nothing is half decided: what is returned at the end is of all ports.
        """
        self._terrain = terrain
        self._is_whole = now - self._stepped_at >= INTERVAL
        self._stepped_at = now if self._is_whole else self._stepped_at
        self._forget()
        pending, self._pending = self._pending, {}  # first, so that no bad Report is met for ever
        heard: dict[PortRef, dict[str, Intervals]] = {}
        for port, zones in sorted(pending.items()):
            heard[port] = self._note(zones)
            yield
        yield from self._links.heard(at=now)
        self._ways = {}
        moves: list[Move] = []
        for port in self._due(pending.keys(), now=now):
            self._hear(port, pending.get(port, {}), heard.get(port, {}), now=now)
            yield
            moves += self._moves(port, now=now)
            yield
        if self._steers == self._steering.steers:
            return Decision(moves=tuple(moves))
        self._steering = Steering(steers=dict(sorted(self._steers.items())))
        return Decision(steering=self._steering, moves=tuple(moves))

    def _forget(self) -> None:
        """Let go of ports that are gone or that nobody wants steered."""
        for port in [port for port in self._pending if not self._is_steered(port)]:
            del self._pending[port]
        for port in [port for port in self._ports if not self._is_steered(port)]:
            del self._ports[port]
            self._steers = {key: steer for key, steer in self._steers.items() if key[0] != port}

    def _is_steered(self, port: PortRef) -> bool:
        ground = self._terrain.ports.get(port)
        return ground is not None and ground.traffic.steering is not SteeringMode.OFF

    def _note(self, zones: Mapping[str, list[Seen]]) -> dict[str, Intervals]:
        """Sum up what was said of a port, and note what that says of the links."""
        heard = {zone: summed(seens) for zone, seens in sorted(zones.items())}
        for zone, intervals in heard.items():
            self._links.note(passages(zone, intervals))
        return heard

    def _due(self, reported: Set[PortRef], *, now: float) -> list[PortRef]:
        """The ports to look at: those that were reported on, that changed, or where something is in motion."""
        found = set(reported) | {port for port in self.suffering if self._is_steered(port)}
        for port, each in self._ports.items():
            if each.look_at <= now or each.ground is not self._terrain.ports[port]:
                found.add(port)
        return sorted(found)

    def _hear(
        self, port: PortRef, seens: Mapping[str, list[Seen]], heard: Mapping[str, Intervals], *, now: float
    ) -> None:
        if (each := self._ports.get(port)) is None:
            each = self._ports[port] = _Port()
        each.ground = ground = self._terrain.ports[port]
        each.heard_at = now if heard else each.heard_at
        wait_us = _wait(ground.traffic) * MICROSECONDS
        for zone, intervals in heard.items():
            if (desk := each.desks.get(zone)) is None:
                desk = each.desks[zone] = Desk(port, zone)
            callers = {seen.caller for seen in seens[zone]}
            desk.costs.heard(intervals, partial(self._carried, zone), callers=len(callers), wait_us=wait_us, at=now)
            if ground.addresses:
                desk.subsets.hear(callers, at=now)
            each.bench.heard(seens[zone], zone=zone, at=now)
        for desk in each.desks.values():
            desk.costs.keep(ground.names, now=now)
        each.bench.keep(ground.names, now=now)
        if self._is_whole:
            _even_out(each, ground, now=now)

    def _carried(self, source: str, target: str, via: str) -> Carried:
        """What the network did in this interval."""
        route = self._links.routes.get((source, target, via))
        return Carried(route.latest_us, route.latest_lost) if route else AT_HOME

    def _moves(self, port: PortRef, *, now: float) -> Iterator[Move]:
        """Decide for one port, and set what its callers are given."""
        each, ground = self._ports[port], self._terrain.ports[port]
        lively = self._lively(port, each, now=now)
        if not lively and each.laggards.is_still and not each.laggards.limit_us:
            self._settle(each, lively, now=now)
            each.look_at = now
            return
        is_dry_run = ground.traffic.steering is SteeringMode.DRY_RUN
        for move in self._decide(port, each, lively, now=now):
            yield replace(move, is_dry_run=True) if is_dry_run else move
        for zone, desk in list(each.desks.items()):
            if desk.is_idle and each.bench.is_still:
                del each.desks[zone]
            steer = None if is_dry_run else desk.steer(each.bench)
            if steer is not None:
                self._steers[port, zone] = steer
            else:
                self._steers.pop((port, zone), None)
        each.look_at = each.remembers_until if each.rests(now=now) else now
        if not each.desks and each.bench.is_still:
            del self._ports[port]

    def _lively(self, port: PortRef, each: _Port, *, now: float) -> Set[str]:
        """The caller zones at whose desks it is not plain that nothing would move, as nothing has moved."""
        ground = self._terrain.ports[port]
        if each.heard_at != now or port in self.suffering or not each.bench.is_calm(now=now):
            return each.desks.keys()
        return {
            zone
            for zone, desk in each.desks.items()
            if (port, zone) in self._steers
            or desk.subsets.weights
            or not is_calm(desk, ground, self._outward(zone, ground.zones), now=now)
        }

    def _outward(self, zone: str, targets: frozenset[str]) -> Ways:
        """What the links from a zone to others say in this look; the same for all ports."""
        key = (zone, targets)
        if (found := self._ways.get(key)) is None:
            found = self._ways[key] = ways(zone, targets, self._terrain, self._links)
        return found

    def _settle(self, each: _Port, lively: Set[str], *, now: float) -> None:
        """Do at all other desks what a look does where nothing moves."""
        ground = each.ground
        for zone, desk in each.desks.items() if self._is_whole else ():
            if ground is not None and zone not in lively:
                desk.settle(ground, now=now)

    def _decide(self, port: PortRef, each: _Port, lively: Set[str], *, now: float) -> Iterator[Move]:
        ground = self._terrain.ports[port]
        yield from _judge(port, each, ground, self.suffering.get(port, NOBODY), now=now)
        if not self._is_whole:
            return
        lively = lively if each.bench.is_calm(now=now) else each.desks.keys()
        self._settle(each, lively, now=now)
        avoiding = frozenset(zone for zone, desk in each.desks.items() if desk.spread.bad)
        for zone in sorted(lively):
            desk = each.desks[zone]
            yield from desk.weigh(ground, each.bench, self._links, now=now)
            outlook = prospect(self._terrain, desk, each.bench, self._links, avoiding=avoiding, now=now)
            if outlook is not None:
                yield from desk.spread.step(outlook, now=now)

    # -- what is asked ----------------------------------------------------------------------------------------------

    def instances(self, port: PortRef) -> tuple[Standing, ...]:
        """How every instance of a port stands with the callers of each zone."""
        ground, each = self._terrain.ports.get(port), self._ports.get(port)
        if ground is None or each is None:
            return ()
        is_dry_run = ground.traffic.steering is SteeringMode.DRY_RUN
        return tuple(
            replace(standing, is_dry_run=True) if is_dry_run else standing
            for _, desk in sorted(each.desks.items())
            for standing in desk.standings(ground, each.bench, self._links)
        )

    def shares(self, port: PortRef) -> dict[str, tuple[tuple[str, int], ...]]:
        """How the calls of each caller zone are spread over zones now, per mille, where steering moved some."""
        each = self._ports.get(port)
        return {zone: desk.spread.zones() for zone, desk in sorted(each.desks.items())} if each else {}

    def links(self) -> tuple[Link, ...]:
        """How the ways between zones stand."""
        return tuple(
            Link(
                source=source,
                target=target,
                via=via,
                network_us=route.network_us,
                usual_us=route.usual_us,
                lost=route.lost,
                is_bad=self._is_avoided(source, target),
            )
            for (source, target, via), route in sorted(self._links.routes.items())
        )

    def _is_avoided(self, source: str, target: str) -> bool:
        desks = (desk for each in self._ports.values() if (desk := each.desks.get(source)))
        return any(target in desk.spread.bad or desk.spread.is_detoured(target) for desk in desks)


def _wait(traffic: Traffic) -> float:
    """How long a caller waits before it gives up."""
    return traffic.per_try_timeout or traffic.request_timeout or LONGEST_WAIT


def _judge(port: PortRef, each: _Port, ground: Ground, suffering: Mapping[str, str], *, now: float) -> Iterator[Move]:
    """Shared verdicts; who gets another chance is judged anew."""
    desks = each.desks.values()
    if suffering and suffering.keys() >= ground.healthy:  # the service fails, and that says nothing of any of them
        for desk in desks:
            desk.costs.tracks.clear()
    if suffering and any(desk.costs.is_failing(but=suffering.keys()) for desk in desks):
        off = each.bench.ejected
        suffering = {name: why for name, why in suffering.items() if name in off}
    slow = each.laggards.found(ground, [(desk.zone, desk.costs) for desk in desks], off=each.bench.slow, now=now)
    for move in each.bench.judge(port, ground, slow, suffering=suffering, limit_us=each.laggards.limit_us, now=now):
        if move.kind in {MoveKind.EJECTED, MoveKind.PROBING}:
            for desk in desks:
                desk.costs.forget(move.about)
        elif move.kind is MoveKind.READMITTED:
            for desk in desks:
                desk.welcome(move.about, each.bench)
        yield move


def _even_out(each: _Port, ground: Ground, *, now: float) -> None:
    """Where callers choose some of the instances, even out what these get by it; not where a hash chooses among them,
    for another weight would move users.
    """
    size = 0 if ground.traffic.algorithm.is_hash else ground.traffic.subset_size
    off = each.bench.ejected if ground.addresses else NOBODY.keys()
    open_ = {name: place for name, place in ground.addresses.items() if name in ground.healthy and name not in off}
    for desk in each.desks.values():
        if ground.addresses or desk.subsets.weights:
            desk.subsets.step(size, open_, now=now)
