"""From what callers saw to Steering: weights of instances, ejections, shares of zones and detours.

It remembers between reports, and decides once per interval for all ports at once, so that a slow link is seen by every
service that uses it. Invariant: whatever was seen, in whatever order, weights stay between 1 and 100, shares between 1
and 1000, and no port is left without an instance. Pure: time comes from outside.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter

from masche.compiler.steer.costs import AT_HOME, Carried, Intervals, passages, summed
from masche.compiler.steer.desk import Desk
from masche.compiler.steer.laggards import Laggards
from masche.compiler.steer.links import Links
from masche.compiler.steer.moves import Decision, Move, MoveKind
from masche.compiler.steer.prospects import prospect
from masche.compiler.steer.seen import Key, Seen
from masche.compiler.steer.standing import Link, Standing
from masche.compiler.steer.terrain import Ground, Terrain
from masche.compiler.steer.verdicts import Bench
from masche.model.refs import PortRef
from masche.model.steering import NO_STEERING, Steer, Steering
from masche.model.view import SteeringMode, Traffic

INTERVAL = 0.9
"""Seconds, at least, between two steps of weights, zones and detours."""

MICROSECONDS = 1_000_000
LONGEST_WAIT = 15.0
"""Seconds that a call without a timeout is taken to have waited when it was given up."""


@dataclass(slots=True)
class _Port:
    """What is remembered of one port beside what the callers of each zone see."""

    bench: Bench = field(default_factory=Bench)
    laggards: Laggards = field(default_factory=Laggards)


@dataclass(slots=True)
class Steersman:
    """Give it what was ``saw``, and let it ``steer`` once per interval. Times are monotonic seconds."""

    _pending: dict[Key, list[Seen]] = field(default_factory=dict[Key, list[Seen]])
    _desks: dict[Key, Desk] = field(default_factory=dict[Key, Desk])
    _ports: dict[PortRef, _Port] = field(default_factory=dict[PortRef, _Port])
    _links: Links = field(default_factory=Links)
    _terrain: Terrain = field(default_factory=lambda: Terrain(ports={}))
    _steering: Steering = NO_STEERING
    _stepped_at: float = float("-inf")
    _is_whole: bool = True

    # -- what is heard ----------------------------------------------------------------------------------------------

    def saw(self, key: Key, seens: Iterable[Seen], *, now: float) -> None:
        """Take what callers of one zone saw of one port; it counts at the next ``steer``."""
        del now  # reports count when the interval ends, so that their order and delay within it do not matter
        self._pending.setdefault(key, []).extend(seens)

    def ports(self) -> tuple[PortRef, ...]:
        """The ports that something is known of: what a Terrain must cover."""
        return tuple(sorted({port for port, _ in (*self._pending, *self._desks)} | self._ports.keys()))

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
        """Do what ``steer`` does, and pause after every few instances, so that others may have the processor.

        To be finished before it is called again; what is seen meanwhile counts the next time.
        """
        self._terrain = terrain
        self._is_whole = now - self._stepped_at >= INTERVAL
        self._stepped_at = now if self._is_whole else self._stepped_at
        self._forget()
        yield from self._count(now=now)
        moves: list[Move] = []
        for port, desks in self._by_port().items():
            yield
            ground = terrain.ports[port]
            is_dry_run = ground.traffic.steering is SteeringMode.DRY_RUN
            moves += (replace(move, is_dry_run=is_dry_run) for move in self._decide(port, ground, desks, now=now))
        yield
        steering = Steering(steers=dict(self._steers()))
        if steering == self._steering:
            return Decision(moves=tuple(moves))
        self._steering = steering
        return Decision(steering=steering, moves=tuple(moves))

    def _by_port(self) -> Mapping[PortRef, list[Desk]]:
        """The Desks of each port, in order of port and zone."""
        found: dict[PortRef, list[Desk]] = {}
        for (port, _), desk in sorted(self._desks.items(), key=itemgetter(0)):
            found.setdefault(port, []).append(desk)
        return found

    def _forget(self) -> None:
        """Let go of ports that are gone or that nobody wants steered."""
        steered = {
            port for port, ground in self._terrain.ports.items() if ground.traffic.steering is not SteeringMode.OFF
        }
        self._pending = {key: seens for key, seens in self._pending.items() if key[0] in steered}
        self._desks = {key: desk for key, desk in self._desks.items() if key[0] in steered and not desk.is_idle}
        self._ports = {port: each for port, each in self._ports.items() if port in steered}

    def _count(self, *, now: float) -> Iterator[None]:
        pending, self._pending = sorted(self._pending.items()), {}  # first, so that no bad Report is met for ever
        heard: list[tuple[str, Intervals]] = []
        for (_, zone), seens in pending:
            heard.append((zone, summed(seens)))
            yield
        self._links.heard((each for zone, intervals in heard for each in passages(zone, intervals)), at=now)
        self._links.trim(now=now)
        for (key, seens), (_, intervals) in zip(pending, heard, strict=True):
            ground = self._terrain.ports[key[0]]
            desk = self._desks.setdefault(key, Desk(*key))
            wait_us = _wait(ground.traffic) * MICROSECONDS
            desk.costs.heard(intervals, partial(self._carried, key[1]), wait_us=wait_us, at=now)
            self._ports.setdefault(key[0], _Port()).bench.heard(seens, zone=key[1], at=now)
            yield
        for (port, _), desk in self._desks.items():
            desk.costs.keep(self._present(port), now=now)
            yield
        for port, each in self._ports.items():
            each.bench.keep(self._present(port), now=now)

    def _carried(self, source: str, target: str, via: str) -> Carried:
        """What the network did in this interval."""
        route = self._links.routes.get((source, target, via))
        return Carried(route.latest_us, route.latest_lost) if route else AT_HOME

    def _present(self, port: PortRef) -> frozenset[str]:
        return self._terrain.ports[port].names

    def _decide(self, port: PortRef, ground: Ground, desks: list[Desk], *, now: float) -> Iterator[Move]:
        yield from self._judge(port, ground, desks, now=now)
        if not self._is_whole:
            return
        bench = self._ports[port].bench
        avoiding = frozenset(desk.zone for desk in desks if desk.spread.bad)
        for desk in desks:
            yield from desk.weigh(ground, bench, self._links, now=now)
            outlook = prospect(self._terrain, port, desk.zone, desk, self._links, avoiding=avoiding, now=now)
            if outlook is not None:
                yield from desk.spread.step(outlook, now=now)

    def _judge(self, port: PortRef, ground: Ground, desks: list[Desk], *, now: float) -> Iterator[Move]:
        each = self._ports.setdefault(port, _Port())
        slow = each.laggards.found(ground, [(desk.zone, desk.costs) for desk in desks], now=now)
        moves = each.bench.judge(port, ground, slow, now=now)
        for move in moves:
            if move.kind in {MoveKind.EJECTED, MoveKind.PROBING}:
                for desk in desks:
                    desk.costs.forget(move.about)
        yield from moves

    def _steers(self) -> Iterator[tuple[Key, Steer]]:
        for (port, zone), desk in sorted(self._desks.items()):
            if self._terrain.ports[port].traffic.steering is SteeringMode.ON:
                steer = desk.steer(self._ports[port].bench)
                if steer != Steer():
                    yield (port, zone), steer

    # -- what is asked ----------------------------------------------------------------------------------------------

    def instances(self, port: PortRef) -> tuple[Standing, ...]:
        """How every instance of a port stands with the callers of each zone."""
        ground = self._terrain.ports.get(port)
        if ground is None or port not in self._ports:
            return ()
        bench = self._ports[port].bench
        is_dry_run = ground.traffic.steering is SteeringMode.DRY_RUN
        return tuple(
            replace(standing, is_dry_run=is_dry_run)
            for zone in sorted(zone for other, zone in self._desks if other == port)
            for standing in self._desks[port, zone].standings(ground, bench, self._links)
        )

    def shares(self, port: PortRef) -> dict[str, tuple[tuple[str, int], ...]]:
        """How the calls of each caller zone are spread over zones now, per mille, where steering moved some."""
        return {zone: desk.spread.zones() for (other, zone), desk in sorted(self._desks.items()) if other == port}

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
        desks = (desk for (_, zone), desk in self._desks.items() if zone == source)
        return any(target in desk.spread.bad or desk.spread.is_detoured(target) for desk in desks)


def _wait(traffic: Traffic) -> float:
    """How long a caller waits before it gives up."""
    return traffic.per_try_timeout or traffic.request_timeout or LONGEST_WAIT
