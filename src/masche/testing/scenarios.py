"""What goes wrong in a service, as simulations in virtual time: a slow replica, brown-outs, an outage below two tiers.

Each takes how a caller's Callee is made, so that ways to call are compared in the same scenario, and returns what
became of the calls. Nothing is real here, and the same seed gives the same figures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from masche.testing.virtual_calls import Answer, Caller, Serve, World
from masche.traffic.callee import Callee
from masche.traffic.deadline import Deadline
from masche.traffic.ejection import State
from masche.traffic.membership import Endpoint, Membership
from masche.traffic.outcome import Outcome
from masche.traffic.pushback import Pushback

Make = Callable[[Membership], Callee]
"""Makes what one caller remembers of one service."""


def members(names: Sequence[str]) -> Membership:
    """A membership of equal instances."""
    return Membership.of(Endpoint(id=name) for name in names)


# -- a slow replica ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowReplica:
    """Instances at 167 +- 5 ms; after ``lead`` seconds one takes ``slowness`` seconds, for ``slow_for`` seconds."""

    instances: int = 11
    rate: float = 1000.0
    lead: float = 10.0
    slow_for: float = 30.0
    tail: float = 20.0
    slowness: float = 2.0
    usual: tuple[float, float] = (0.162, 0.172)
    victim: str = "i03"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowReplicaRun:
    """``knowable_at``: when the first slow call had taken longer than its peers ever do."""

    caller: Caller
    knowable_at: float
    scenario: SlowReplica

    @property
    def unknowable(self) -> int:
        """Failed calls that were sent before anything could be known."""
        return sum(each.at <= self.knowable_at for each in self.caller.failed)

    @property
    def probes(self) -> int:
        """Failed calls by which it was found out whether the instance is well again: two a second at the most."""
        return min(len(self.caller.failed) - self.unknowable, self._most_probes())

    @property
    def avoidable(self) -> int:
        """All other failed calls."""
        return len(self.caller.failed) - self.unknowable - self.probes

    def _most_probes(self) -> int:
        return round(2 * self.scenario.slow_for) if self.caller.copies == 0 else 0


def slow_replica(
    make: Make, *, seed: int = 1, scenario: SlowReplica | None = None, method: str = "GET"
) -> SlowReplicaRun:
    """Run it. Whoever sends copies has no need of calls as probes, so none of its failures counts as one."""
    of = scenario or SlowReplica()
    world, rng = World(), Random(seed)  # noqa: S311 - a simulation
    slow_from, slow_until = of.lead, of.lead + of.slow_for
    first: list[float] = []

    def serve(name: str, _: Deadline, answer: Answer) -> None:
        is_slow = name == of.victim and slow_from <= world.now < slow_until
        if is_slow and not first:
            first.append(world.now)
        takes = of.slowness if is_slow else rng.uniform(*of.usual)
        world.at(world.now + takes, partial(answer, Outcome.SUCCESS, None))

    caller = Caller(world, make(members([f"i{each:02}" for each in range(of.instances)])), serve, seed=seed)
    ends = slow_until + of.tail
    world.steadily(of.rate, 0.0, ends, partial(caller.call, method=method))
    world.run(ends + 5.0)
    return SlowReplicaRun(caller=caller, knowable_at=(first or [slow_from])[0] + of.usual[1], scenario=of)


# -- brown-outs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BrownOut:
    """One instance after the other answers 503 at once for ``sick_for`` seconds, one every ``every`` seconds.

    ``delay``: seconds after which the others hear what a caller found out; None: nobody tells anything.
    """

    instances: int = 5
    callers: int = 5
    rate: float = 250.0
    every: float = 30.0
    sick_for: float = 10.0
    flips: int = 4
    delay: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """Errors of the worst caller and of all; seconds until the last caller that ejected the instance readmitted it."""

    worst: int
    mesh: int
    readmitted: float


def brown_out(make: Make, *, seed: int = 1, scenario: BrownOut | None = None, method: str = "GET") -> list[Flip]:
    """Run it; one Flip for each instance that failed for a while."""
    of = scenario or BrownOut()
    world, rng = World(), Random(seed)  # noqa: S311 - a simulation
    names = [f"i{each}" for each in range(of.instances)]

    def serve(name: str, _: Deadline, answer: Answer) -> None:
        number, since = divmod(world.now, of.every)
        is_sick = number >= 1 and since < of.sick_for and name == names[int(number) % of.instances]
        takes = 0.0005 if is_sick else rng.uniform(0.008, 0.012)
        world.at(world.now + takes, partial(answer, Outcome.REFUSED if is_sick else Outcome.SUCCESS, None))

    ends = of.every * (of.flips + 1)
    callers = [
        Caller(world, make(members(names)), serve, seed=1000 * seed + each, name=f"shop/web-{each}")
        for each in range(of.callers)
    ]
    for number, caller in enumerate(callers):
        then = None if of.delay is None else partial(_tell, caller, callers, of.delay)
        world.steadily(of.rate / of.callers, number / of.rate, ends, partial(caller.call, then, method=method))
    world.run(ends + 2.0)
    return [_flip(callers, of, number) for number in range(1, of.flips + 1)]


def _tell(caller: Caller, callers: Sequence[Caller], delay: float, outcome: Outcome, _: Pushback | None) -> None:
    """After a fault, tell the other callers what is known."""
    world = caller.world
    if not outcome.is_fault or not (found := caller.callee.verdicts(caller=caller.name, now=world.now)):
        return

    def arrive() -> None:
        for other in callers:
            for verdict in found if other is not caller else ():
                other.callee.hear(verdict, now=world.now)

    world.at(world.now + delay, arrive)


def _flip(callers: Sequence[Caller], of: BrownOut, number: int) -> Flip:
    begins, ends = of.every * number, of.every * (number + 1)
    well_at = begins + of.sick_for
    errors = [sum(begins <= each.at < ends for each in caller.failed) for caller in callers]
    changes = [[each for each in caller.events if begins <= each.at < ends] for caller in callers]
    back = [
        next((each.at - well_at for each in reversed(made) if each.state is State.ADMITTED), of.every - of.sick_for)
        for made in changes
        if made
    ]
    return Flip(worst=max(errors), mesh=sum(errors), readmitted=max(back, default=0.0))


# -- a storm of repeats -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """Three tiers. The leaf's instances do ``capacity`` calls a second in all, two at a time each, and refuse who finds
    ``queue`` waiting. For ``outage`` seconds they refuse everything. Asked for is ``load`` of the capacity; at the end
    twice the capacity for ``double`` seconds.
    """

    leaves: int = 3
    work: float = 0.020
    queue: int = 20
    load: float = 0.8
    lead: float = 8.0
    outage: float = 5.0
    after: float = 10.0
    double: float = 10.0
    tells: bool = True
    """Does a tier that has given up tell its callers not to repeat?"""

    @property
    def capacity(self) -> float:
        """Calls a second of all leaves."""
        return 2 * self.leaves / self.work


@dataclass(slots=True)
class Leaf:
    """An instance that works on two calls at a time, in order, and skips those whose deadline has passed."""

    world: World
    work: float
    queue: int
    is_out: bool = False
    arrived: list[float] = field(default_factory=list[float])
    _busy: int = 0
    _line: list[tuple[Deadline, Answer]] = field(default_factory=list[tuple[Deadline, Answer]])

    def serve(self, deadline: Deadline, answer: Answer) -> None:
        """Take a call, or refuse it at once."""
        self.arrived.append(self.world.now)
        if self.is_out or len(self._line) >= self.queue:
            self.world.at(self.world.now + 0.001, partial(answer, Outcome.REFUSED, None))
            return
        self._line.append((deadline, answer))
        self._next()

    def _next(self) -> None:
        while self._line and self._busy < 2:
            deadline, answer = self._line.pop(0)
            if not deadline.has_passed(now=self.world.now):
                self._busy += 1
                self.world.at(self.world.now + self.work, partial(self._end, answer))

    def _end(self, answer: Answer) -> None:
        self._busy -= 1
        answer(Outcome.SUCCESS, None)
        self._next()


@dataclass(frozen=True, slots=True, kw_only=True)
class StormRun:
    """``amplification``: attempts at the leaf during the outage, per call of a client. ``recovery``: seconds after the
    outage until 95 % of the calls of a tenth of a second succeed. ``goodput``: at twice the capacity, in capacities.
    ``arrivals``: (seconds, attempts a second at the leaf).
    """

    amplification: float
    recovery: float
    goodput: float
    arrivals: list[tuple[float, float]]


def storm(make: Make, *, seed: int = 1, scenario: Storm | None = None) -> StormRun:
    """Run it. ``make`` makes the callee of each tier."""
    of = scenario or Storm()
    world = World()
    leaves = {f"leaf-{each}": Leaf(world, of.work, of.queue) for each in range(of.leaves)}
    serve: Serve = lambda name, deadline, answer: leaves[name].serve(deadline, answer)  # noqa: E731 - the innermost of three
    names = list(leaves)
    for tier in ("middle", "front"):
        callers = {
            f"{tier}-{each}": Caller(world, make(members(names)), serve, seed=100 * seed + each) for each in range(3)
        }
        names, serve = list(callers), _through(callers, tells=of.tells)
    client = Caller(world, make(members(names)), serve, seed=seed)
    out_at, well_at = of.lead, of.lead + of.outage
    doubled_at = well_at + of.after
    ends = doubled_at + of.double
    for at, is_out in ((out_at, True), (well_at, False)):
        world.at(at, partial(_become, list(leaves.values()), is_out))
    world.steadily(of.load * of.capacity, 0.0, doubled_at, client.call)
    world.steadily(2 * of.capacity, doubled_at, ends, client.call)
    world.run(ends + 5.0)
    arrived = sorted(at for leaf in leaves.values() for at in leaf.arrived)
    offered = of.load * of.capacity * of.outage
    good = sum(each.outcome.is_success and doubled_at <= each.at + each.latency < ends for each in client.done)
    return StormRun(
        amplification=sum(out_at <= at < well_at for at in arrived) / offered,
        recovery=_recovery(client, well_at, doubled_at),
        goodput=good / of.double / of.capacity,
        arrivals=_rates(arrived, ends),
    )


def _through(callers: dict[str, Caller], *, tells: bool) -> Serve:
    """How a tier serves: by calling the next one, with what is left of the deadline."""

    def serve(name: str, deadline: Deadline, answer: Answer) -> None:
        heard: Answer = answer if tells else lambda outcome, _: answer(outcome, None)
        callers[name].call(heard, deadline=deadline)

    return serve


def _become(leaves: Sequence[Leaf], is_out: bool) -> None:
    for leaf in leaves:
        leaf.is_out = is_out


def _recovery(client: Caller, well_at: float, ends: float, step: float = 0.1) -> float:
    for number in range(int((ends - well_at) / step)):
        begins = well_at + number * step
        calls = [each for each in client.done if begins <= each.at < begins + step]
        if calls and sum(each.outcome.is_success for each in calls) >= 0.95 * len(calls):
            return number * step
    return ends - well_at


def _rates(arrived: Sequence[float], ends: float, step: float = 0.5) -> list[tuple[float, float]]:
    counts = [0] * int(ends / step)
    for at in arrived:
        if at < ends:
            counts[int(at / step)] += 1
    return [(number * step, count / step) for number, count in enumerate(counts)]
