"""A simulation of steering where instances queue: callers that choose as Envoy's least request does, servers that do so
many calls at a time, half of them slowed down by a neighbour, and the real Steersman and compiler between them.

It is there for what a load does to decisions: a server is slow because it has much to do, too, and what it is spared
the others get. Nothing is real here but the decisions: no socket, no clock, no thread. The same seed gives the same
calls, to the last digit.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

from masche.compiler.endpoints import endpoints
from masche.compiler.steer.seen import Seen
from masche.compiler.steer.steersman import Steersman
from masche.compiler.steer.terrain import survey
from masche.model.mesh import Mesh
from masche.model.steering import Steering
from masche.testing.simulated_zones import PORT

TIMEOUT = 5.0
"""Seconds after which a call is given up."""

LATE = 0.1
"""Seconds that a report, and new weights, are under way."""

ZONE = "a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long a server works on a call, in seconds, plus or minus ``jitter``."""

    work: float
    jitter: float = 0.0


Paces = Callable[[str, float], Pace]
"""The pace of a server at a second."""


@dataclass(slots=True, eq=False)
class _Call:
    """One call, ``since`` when; ``seconds`` it took."""

    caller: "_Caller"
    server: "_Server"
    since: float
    seconds: float = 0.0


@dataclass(slots=True, eq=False)
class _Server:
    name: str
    slots: int
    working: int = 0
    queue: deque[_Call] = field(default_factory=deque[_Call])


@dataclass(slots=True, eq=False)
class _Tally:
    """What a caller saw of one server since its last report."""

    active: int = 0
    answers: int = 0
    timeouts: int = 0
    took: float = 0.0


@dataclass(slots=True, eq=False)
class _Caller:
    """A proxy: of two servers it takes the one with fewer calls under way, or where weights differ goes by a schedule
    with weight / (calls under way + 1), as Envoy's least request does.
    """

    name: str
    rng: Random
    servers: Sequence[_Server]
    tallies: dict[str, _Tally] = field(default_factory=dict[str, _Tally])
    weights: Mapping[str, int] = field(default_factory=dict[str, int])
    _schedule: list[tuple[float, int, _Server]] = field(default_factory=list[tuple[float, int, _Server]])
    _number: int = 0

    def tally(self, server: _Server) -> _Tally:
        return self.tallies.setdefault(server.name, _Tally())

    def given(self, weights: Mapping[str, int]) -> None:
        """Take new weights, and begin the schedule anew."""
        self.weights, self._schedule = weights, []
        for server in self.rng.sample(self.servers, len(self.servers)):
            self._plan(server, 0.0)

    def choose(self) -> _Server:
        if len(set(self.weights.values())) > 1:
            deadline, _, server = heappop(self._schedule)
            self._plan(server, deadline)
            return server
        one, other = self.rng.choice(self.servers), self.rng.choice(self.servers)
        return other if self.tally(other).active < self.tally(one).active else one

    def _plan(self, server: _Server, now: float) -> None:
        self._number += 1
        turn = now + (self.tally(server).active + 1) / self.weights[server.name]
        heappush(self._schedule, (turn, self._number, server))

    def report(self) -> Iterator[Seen]:
        for server in self.servers:
            tally = self.tally(server)
            latency_us = tally.took / tally.answers * 1e6 if tally.answers else 0.0
            if tally.answers or tally.timeouts or tally.active:
                yield Seen(
                    workload=server.name, zone=ZONE, caller=self.name, answers=tally.answers, errors=tally.timeouts,
                    timeouts=tally.timeouts, active=tally.active, latency_us=latency_us, service_us=latency_us,
                )  # fmt: skip
            tally.answers, tally.timeouts, tally.took = 0, 0, 0.0


@dataclass(kw_only=True)
class Queues:
    """``callers`` make ``rate(second)`` calls a second in all; each of ``servers`` does ``slots`` at a time.

    Where ``is_steered`` is false, weights stay fair: least request alone.
    """

    mesh: Mesh
    servers: Sequence[str]
    callers: int
    rate: Callable[[float], float]
    pace: Paces
    slots: int = 2
    is_steered: bool = True
    seed: int = 1
    calls: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """When each call began and how long it took, in seconds."""

    def run(self, until: float) -> "Queues":
        """Run it from the beginning, and return itself with what happened."""
        self._rng, self._now, self._number = Random(self.seed), 0.0, 0  # noqa: S311 - a simulation, not a secret
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._until, self._steersman, self._terrain = until, Steersman(), survey(self.mesh, [PORT])
        self._servers = [_Server(name, self.slots) for name in self.servers]
        self._proxies = [_Caller(f"caller-{number}", self._rng, self._servers) for number in range(self.callers)]
        for proxy in self._proxies:
            proxy.given(dict.fromkeys(self.servers, 1))
            self._after(self._rng.random(), lambda each=proxy: self._report(each))
        self._after(0.0, lambda: self._arrive(0))
        self._after(1.0, self._steer)
        while self._events and self._events[0][0] <= until + TIMEOUT:
            self._now, _, happen = heappop(self._events)
            happen()
        return self

    def quantile(self, q: float, *, since: float = 0.0, until: float = float("inf")) -> float:
        """The seconds that the share ``q`` of the calls begun in this time did not exceed."""
        ordered = sorted(took for began, took in self.calls if since <= began < until)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        self._number += 1
        heappush(self._events, (self._now + seconds, self._number, happen))

    # -- calls ------------------------------------------------------------------------------------------------------

    def _arrive(self, number: int) -> None:
        if self._now >= self._until:
            return
        caller = self._proxies[number % self.callers]
        server = caller.choose()
        call = _Call(caller, server, self._now)
        caller.tally(server).active += 1
        server.queue.append(call)
        self._work(server)
        self._after(TIMEOUT, lambda: self._give_up(call))
        self._after(1 / self.rate(self._now), lambda: self._arrive(number + 1))

    def _work(self, server: _Server) -> None:
        while server.queue and server.working < server.slots:
            call = server.queue.popleft()
            if call.seconds:
                continue
            server.working += 1
            pace = self.pace(server.name, self._now)
            took = pace.work + self._rng.uniform(-pace.jitter, pace.jitter)
            self._after(took, lambda each=call: self._answer(server, each))

    def _answer(self, server: _Server, call: _Call) -> None:
        server.working -= 1
        self._work(server)
        if not call.seconds:
            tally = self._end(call)
            tally.answers += 1
            tally.took += call.seconds

    def _give_up(self, call: _Call) -> None:
        if not call.seconds:
            self._end(call).timeouts += 1

    def _end(self, call: _Call) -> _Tally:
        call.seconds = self._now - call.since
        self.calls.append((call.since, call.seconds))
        tally = call.caller.tally(call.server)
        tally.active -= 1
        return tally

    # -- steering ---------------------------------------------------------------------------------------------------

    def _report(self, proxy: _Caller) -> None:
        seens = [*proxy.report()]
        self._after(LATE, lambda: self._steersman.saw((PORT, ZONE), seens, now=self._now))
        self._after(1.0, lambda: self._report(proxy))

    def _steer(self) -> None:
        if self.is_steered:
            steering = self._steersman.steer(self._terrain, now=self._now).steering
            if steering is not None:
                self._after(LATE, lambda: self._apply(steering))
            self._after(1.0, self._steer)

    def _apply(self, steering: Steering) -> None:
        localities = endpoints(self.mesh, steering, PORT, ZONE).localities
        weights = {each.workload: each.weight for locality in localities for each in locality.endpoints}
        for proxy in self._proxies:
            proxy.given(weights)


class Neighbours:
    """Every ``change`` seconds another half of the servers has a neighbour that slows it down to ``slowed``."""

    def __init__(self, servers: Sequence[str], free: Pace, slowed: Pace, *, change: float, seed: int = 1) -> None:
        self._servers, self._free, self._slowed, self._change, self._seed = servers, free, slowed, change, seed
        self._troubled: dict[int, frozenset[str]] = {}

    def __call__(self, server: str, now: float) -> Pace:
        """The pace of a server at a second."""
        number = int(now / self._change)
        if (troubled := self._troubled.get(number)) is None:
            chance = Random(self._seed * 1000 + number)  # noqa: S311 - a simulation, not a secret
            troubled = self._troubled[number] = frozenset(chance.sample(self._servers, len(self._servers) // 2))
        return self._slowed if server in troubled else self._free
