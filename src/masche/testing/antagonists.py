"""Neighbours that take the processor away: the setting of Prequal (NSDI 2024), as a simulation in virtual time.

Each server is a container with ``cores`` of its machine guaranteed. Where no antagonist runs it may use what the
machine has to spare, ``spare`` times as much; on half of the machines, others every few seconds, an antagonist leaves
it the guaranteed ones. Queries need the processor alone: they share it equally, none has more than one core, and the
work of one is drawn from a normal distribution as wide as its mean, cut off at 0 (as in the paper, 5.1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from random import Random

from masche.testing.scenarios import members
from masche.testing.virtual_calls import World
from masche.traffic.balancer import Balancer, Claim
from masche.traffic.membership import Endpoint, Membership
from masche.traffic.orca import LoadReport
from masche.traffic.outcome import Outcome

CUT = 1.0833
"""The mean of a normal distribution as wide as its mean, cut off at 0, in means."""
FORGETS = 0.1
"""The part of what a server used and answered that weighted round robin forgets each second."""


class Machine:
    """One server: processor sharing among its queries."""

    __slots__ = ("_at", "_generation", "_progress", "_queries", "_world", "answered", "cores", "used")

    def __init__(self, world: World, cores: float) -> None:
        self._world = world
        self.cores = cores
        self.answered = 0
        self.used = 0.0
        self._progress = self._at = 0.0
        self._generation = 0
        self._queries: list[tuple[float, int, Callable[[], None]]] = []

    def __repr__(self) -> str:
        return f"<Machine {self.cores:g} cores, {self.under_way} queries>"

    @property
    def under_way(self) -> int:
        """Queries that it works on."""
        return len(self._queries)

    def become(self, cores: float) -> None:
        """Have so many cores from now on."""
        self._advance()
        self.cores = cores
        self._plan()

    def serve(self, work: float, then: Callable[[], None]) -> None:
        """Work on a query of ``work`` core seconds, then call ``then``."""
        self._advance()
        self._generation += 1
        heappush(self._queries, (self._progress + work, self._generation, then))
        self._plan()

    def _speed(self) -> float:
        return min(1.0, self.cores / len(self._queries)) if self._queries else 0.0

    def _advance(self) -> None:
        """Each query has come as far as every other one since it began: the progress of one is that of all."""
        elapsed, speed = self._world.now - self._at, self._speed()
        self._progress += elapsed * speed
        self.used += elapsed * speed * len(self._queries)
        self._at = self._world.now

    def _plan(self) -> None:
        self._generation += 1
        if self._queries:
            left = max(0.0, self._queries[0][0] - self._progress) / self._speed()
            self._world.at(self._world.now + left, partial(self._end, self._generation))

    def _end(self, generation: int) -> None:
        if generation != self._generation:
            return
        self._advance()
        while self._queries and self._queries[0][0] <= self._progress + 1e-9:
            self.answered += 1
            heappop(self._queries)[2]()
        self._plan()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ramp:
    """``steps``: load in multiples of what is guaranteed, ``seconds`` each; its first ``warm`` are not counted.
    ``work`` in core seconds; calls are given up after ``timeout`` seconds.
    """

    clients: int = 100
    servers: int = 100
    cores: float = 3.2
    spare: float = 3.0
    work: float = 0.060
    change: float = 5.0
    timeout: float = 5.0
    steps: tuple[float, ...] = (0.7, 0.85, 1.0, 1.15, 1.3, 1.5)
    seconds: float = 10.0
    warm: float = 3.0


@dataclass(frozen=True, slots=True)
class Chooser:
    """How a client chooses. ``is_told``: servers say with their answers how much they have under way. ``is_weighted``:
    it gets weights by what each server answered per core second used, once a second: weighted round robin as the paper
    has it.
    """

    balancer: Balancer
    is_told: bool = False
    is_weighted: bool = False


class Antagonists:
    """One way to choose on the ramp. ``took``: for each step the seconds that its calls took, ascending, those given up
    with the timeout.
    """

    def __init__(self, make: Callable[[Membership], Chooser], *, ramp: Ramp | None = None, seed: int = 1) -> None:
        self.ramp = of = ramp or Ramp()
        self.took: list[list[float]] = [[] for _ in of.steps]
        self.failed = self.calls = 0
        self._world, self._rng = World(), Random(seed)  # noqa: S311 - a simulation
        names = [f"s{each:03}" for each in range(of.servers)]
        self._machines = {name: Machine(self._world, of.cores) for name in names}
        self._seen: dict[str, tuple[float, float]] = {}
        group = members(names)
        self._clients = [make(group) for _ in range(of.clients)]
        self._ends = of.seconds * len(of.steps)

    def run(self) -> None:
        """Run it to its end."""
        self._antagonize()
        if self._clients[0].is_weighted:
            self._world.at(1.0, self._weigh)
        self._world.at(0.0, self._arrive)
        self._world.run(self._ends + self.ramp.timeout)
        for each in self.took:
            each.sort()

    def _antagonize(self) -> None:
        names = list(self._machines)
        troubled = set(self._rng.sample(names, len(names) // 2))
        for name, machine in self._machines.items():
            machine.become(self.ramp.cores * (1.0 if name in troubled else self.ramp.spare))
        if self._world.now < self._ends:
            self._world.at(self._world.now + self.ramp.change, self._antagonize)

    def _weigh(self) -> None:
        weights: dict[str, float] = {}
        for name, machine in self._machines.items():
            used, answered = self._seen.get(name, (0.0, 0.0))
            weights[name] = max(machine.answered - answered, 1.0) / max(machine.used - used, self.ramp.work)
            self._seen[name] = (
                used + FORGETS * (machine.used - used),
                answered + FORGETS * (machine.answered - answered),
            )
        group = Membership.of(Endpoint(id=name, weight=weight) for name, weight in weights.items())
        for client in self._clients:
            client.balancer.membership = group
        if self._world.now < self._ends:
            self._world.at(self._world.now + 1.0, self._weigh)

    def _arrive(self) -> None:
        now, of = self._world.now, self.ramp
        if now >= self._ends:
            return
        step = int(now / of.seconds)
        rate = of.steps[step] * of.servers * of.cores / of.work
        self._world.at(now + self._rng.expovariate(rate), self._arrive)
        client = self._clients[int(self._rng.random() * of.clients)]
        claim = client.balancer.claim(now=now, rng=self._rng)
        assert claim is not None, "there are servers"
        self.calls += 1
        work = max(0.0, self._rng.gauss(of.work / CUT, of.work / CUT))
        self._machines[claim.endpoint.id].serve(work, partial(self._answer, client, claim))
        self._world.at(now + of.timeout, partial(self._settle, claim, Outcome.TIMEOUT))

    def _answer(self, client: Chooser, claim: Claim) -> None:
        if client.is_told and not claim.is_settled:
            name = claim.endpoint.id
            client.balancer.told(name, LoadReport(self._machines[name].under_way), now=self._world.now)
        self._settle(claim, Outcome.SUCCESS)

    def _settle(self, claim: Claim, outcome: Outcome) -> None:
        if claim.is_settled:
            return
        now = self._world.now
        claim.settle(outcome, now=now)
        step, since = divmod(claim.started_at, self.ramp.seconds)
        if since >= self.ramp.warm:
            self.took[int(step)].append(now - claim.started_at)
            self.failed += outcome is Outcome.TIMEOUT
