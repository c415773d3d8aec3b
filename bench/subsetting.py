"""How even and how steady subsets are: 1000 callers, 1000 instances, 20 each, through restarts and changes of size.

A simulation of traffic: every caller sends the same amount, and nothing is connected. It is pure and deterministic, and
compares what ``masche.traffic.subsetting`` decides with four published ways to subset, on the same changes.

    python bench/subsetting.py [--callers 1000] [--instances 1000] [--size 20]

Churn is the number of connections made, in multiples of what cannot be avoided: whoever loses an instance needs
another, a new instance needs its fair share of callers, and a new caller needs its subset. It is below 1 where a new
instance is given fewer connections than its share, and more of the calls of each.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate, islice
from random import Random

from plots import line_plot
from rig.record import RESULTS, Record

from masche.compiler.steer.subsets import Subsets
from masche.library.core.members import members
from masche.model.refs import PortRef
from masche.model.told import Destination
from masche.model.view import Cluster, EndpointView, Locality, Protocol
from masche.traffic.membership import Endpoint
from masche.traffic.subsetting import Assignment, Slots, position

SERVERS = PortRef("shop", "servers", 80)
DESTINATION = Destination(
    name=SERVERS.path, cluster=Cluster(service=SERVERS, protocol=Protocol.HTTP, identities=("spiffe://mesh.local/s",))
)

MAX_TO_MEAN, CHURN, FEWER = 1.02, 1.2, 98.0

MEASURES = (
    "src/masche/traffic/subsetting.py",
    "src/masche/compiler/steer/subsets.py",
    "src/masche/library/core/members.py",
    "bench/subsetting.py",
)

NOTES = (
    "masche library: what each process chooses by its name alone (library/core/members.py), and the weights that "
    "steering gives instances (compiler/steer/subsets.py). A restart costs more there than it must when the new "
    "instance has another address, since nobody hands its place on; what `masche run` starts again keeps its "
    "ports. Even after: looks of the control plane, one a second, after the change that took it longest.",
    "Load is what an instance gets when every caller sends the same, spread by its shares; connections alone are "
    "whole numbers and less even. A churn below 1: new instances have fewer connections than their share, with "
    "more calls on each.",
)

Shares = dict[int, dict[str, float]]
"""For each caller the instances that it connects to, and the part of its calls that each gets."""
Way = Callable[[Slots, int, int], Shares]


# -- the ways to subset -----------------------------------------------------------------------------------------------


def masche(instances: Slots, callers: int, size: int) -> Shares:
    assignment = Assignment(instances, range(callers), size=size)
    found = {caller: assignment.of(caller) for caller in range(callers)}
    return {caller: dict(zip(each.ids, each.shares, strict=True)) for caller, each in found.items()}


@dataclass
class Library:
    """What processes with the library choose by their own names, and the weights that steering gives instances then.

    The Steersman's part is followed (``compiler.steer.subsets``). What it takes callers to choose is compared with what
    the library itself does (``library.core.members``), for some of them after every change.
    """

    subsets: Subsets = field(default_factory=Subsets)
    now: float = 0.0
    looks: list[int] = field(default_factory=list[int])
    """How often the control plane looked after each change, once a second, until all was even."""
    longest: float = 0.0
    """Milliseconds of processor time of its longest look."""

    def __call__(self, instances: Slots, callers: int, size: int) -> Shares:
        addresses = {name: f"10.0.{int(name[1:]) // 250}.{int(name[1:]) % 250}" for name in instances.taken}
        names = [f"library~web-{caller}.shop" for caller in range(callers)]
        self.now += 100.0  # who has left is forgotten by then
        self._steer(names, size, {name: f"{address}:15006" for name, address in addresses.items()})
        weights = {f"{address}:15006": self.subsets.weights.get(name, 100) for name, address in addresses.items()}
        known = {f"{address}:15006": name for name, address in addresses.items()}
        found: Shares = {}
        for caller, name in enumerate(names):
            chosen = {each: weights[each] for each in self.subsets.chosen_by(name)}
            total = sum(chosen.values())
            found[caller] = {known[each]: weight / total for each, weight in chosen.items()}
        for caller in range(0, callers, callers // 10):
            self._compare(names[caller], {known[each]: each for each in weights}, weights, found[caller], size)
        return found

    def _steer(self, names: list[str], size: int, addresses: dict[str, str]) -> None:
        for look in range(1, 200):
            self.now += 1.0
            self.subsets.hear(names, at=self.now)
            began = time.process_time()
            self.subsets.step(size, addresses, now=self.now)
            self.longest = max(self.longest, 1000 * (time.process_time() - began))
            if self.subsets.is_even:
                self.looks.append(look)
                return
        raise SystemExit("it does not become even")

    def _compare(
        self, caller: str, ids: dict[str, str], weights: dict[str, int], shares: dict[str, float], size: int
    ) -> None:
        views = tuple(
            EndpointView(address=each.partition(":")[0], port=15006, workload="", weight=weight)
            for each, weight in weights.items()
        )
        made, _ = members(
            [(Locality(zone="", priority=0, endpoints=views), DESTINATION)], subset_size=size, caller=caller
        )
        total = sum(each.weight for each in made)
        wrong = [name for name, share in shares.items() if abs(_weight(made, ids[name]) / total - share) > 1e-6]
        assert len(made) == len(shares), "the library chooses as many"
        assert not wrong, f"the library gives another share to {wrong}"


def _weight(made: Sequence[Endpoint], name: str) -> float:
    return sum(each.weight for each in made if each.id == name)


def ringsteady(instances: Slots, callers: int, size: int) -> Shares:
    """Ward, Wankadia, Guliani, ACM Queue 20(5), 2022: one ring, low-discrepancy places, equal shares."""
    ring = sorted((position(slot), each) for each, slot in instances.taken.items())
    places = sorted((position(caller), caller) for caller in range(callers))
    found: Shares = {}
    at = 0
    for place, caller in places:
        while at < len(ring) and ring[at][0] < place:
            at += 1
        found[caller] = {ring[(at + step) % len(ring)][1]: 1 / size for step in range(size)}
    return found


def deterministic(instances: Slots, callers: int, size: int) -> Shares:
    """Site Reliability Engineering (2016), chapter 20: a shuffle for each round of callers, cut into subsets."""
    found: Shares = {}
    names = sorted(instances.taken)
    per_round = len(names) // size
    shuffled = names
    for caller in range(callers):
        if caller % per_round == 0:
            shuffled = list(names)
            Random(caller // per_round).shuffle(shuffled)
        first = caller % per_round * size
        found[caller] = dict.fromkeys(shuffled[first : first + size], 1 / size)
    return found


def aperture(instances: Slots, callers: int, size: int) -> Shares:
    """Finagle's deterministic aperture: arcs of equal length on a ring of equal slices, cut slices in part."""
    names = sorted(instances.taken, key=lambda each: blake2b(each.encode()).digest())
    count = len(names)
    units = -(-size * callers // count)
    width = units * count / callers
    found: Shares = {}
    for caller in range(callers):
        first, last = caller * count / callers, caller * count / callers + width
        shares: dict[str, float] = {}
        for index in range(int(first), -int(-last // 1)):
            shares[names[index % count]] = (min(last, index + 1) - max(first, index)) / width
        found[caller] = shares
    return found


@dataclass
class Rendezvous:
    """gRFC A68: each caller takes the instances with the highest hash of both names."""

    ranks: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    known: set[str] = field(default_factory=set[str])

    def __call__(self, instances: Slots, callers: int, size: int) -> Shares:
        if not instances.taken.keys() <= self.known:
            self.known |= instances.taken.keys()
            self.ranks = {}
        hashes = {each: int.from_bytes(blake2b(each.encode(), digest_size=8).digest(), "big") for each in self.known}
        found: Shares = {}
        for caller in range(callers):
            if caller not in self.ranks:
                salt = Random(caller).getrandbits(64)
                scored = {
                    each: (of ^ salt) * 0x9E3779B97F4A7C15 % 2**64 * (salt | 1) % 2**64 for each, of in hashes.items()
                }
                self.ranks[caller] = sorted(scored, key=scored.__getitem__)
            alive = (each for each in self.ranks[caller] if each in instances.taken)
            found[caller] = dict.fromkeys(islice(alive, size), 1 / size)
        return found


# -- what happens -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """The state after a change, and how many connections the change cannot do without."""

    what: str
    instances: Slots
    callers: int
    least: float


def story(instances: int, callers: int, size: int, rng: Random) -> Iterator[Step]:
    """Restarts in place and one by one, instances that come and go by chance, callers that come and go."""
    slots = Slots().updated(f"i{number}" for number in range(instances))
    fresh = instances
    yield Step("start", slots, callers, 0)

    def per_instance() -> float:
        return callers * size / len(slots.taken)

    def changed(leave: int, join: int) -> Slots:
        nonlocal fresh
        gone = set(rng.sample(sorted(slots.taken), leave))
        new = [f"i{fresh + number}" for number in range(join)]
        fresh += join
        return slots.updated([each for each in slots.taken if each not in gone] + new)

    for _ in range(5):
        least = 10 * per_instance()
        slots = changed(10, 10)
        yield Step("restarts, replaced at once", slots, callers, least)
    for _ in range(5):
        least = 2 * per_instance()
        slots = changed(2, 0)
        yield Step("restarts, gone for a while", slots, callers, least)
        slots = changed(0, 2)
        yield Step("restarts, gone for a while", slots, callers, 2 * per_instance())
    for join in (instances // 10, instances // 20, instances // 10):
        slots = changed(0, join)
        yield Step("more instances", slots, callers, join * per_instance())
    for leave in (instances // 10, instances // 5, instances // 10, 1):
        least = leave * per_instance()
        slots = changed(leave, 0)
        yield Step("fewer instances", slots, callers, least)
    for by in (callers // 10, callers // 5, -callers // 4, -callers // 5, 1):
        callers += by
        yield Step("callers come and go", slots, callers, max(by, 0) * size)


@dataclass
class Seen:
    """What one way did through the story."""

    loads: list[float] = field(default_factory=list[float])
    worst: float = 0.0
    worst_count: float = 0.0
    made: Counter[str] = field(default_factory=Counter[str])
    least: dict[str, float] = field(default_factory=dict[str, float])
    made_at: list[int] = field(default_factory=list[int])
    least_at: list[float] = field(default_factory=list[float])

    def churn(self) -> dict[str, float]:
        return {what: self.made[what] / least for what, least in self.least.items() if least}

    def total(self) -> float:
        return sum(self.made.values()) / sum(self.least.values())


def follow(way: Way, steps: Sequence[Step], size: int) -> Seen:
    seen = Seen()
    before: Shares = {}
    for step in steps:
        after = way(step.instances, step.callers, size)
        load = dict.fromkeys(step.instances.taken, 0.0)
        for shares in after.values():
            for each, share in shares.items():
                load[each] += share
        mean = step.callers / len(step.instances.taken)
        seen.worst = max(seen.worst, max(load.values()) / mean)
        counts = Counter(each for shares in after.values() for each in shares)
        mean_count = sum(counts.values()) / len(step.instances.taken)
        seen.worst_count = max(seen.worst_count, max(counts.values()) / mean_count)
        seen.loads = sorted(load[each] / mean for each in step.instances.taken)
        if before:
            made = sum(len(each.keys() - before.get(caller, {}).keys()) for caller, each in after.items())
            seen.made[step.what] += made
            seen.made_at.append(made)
            seen.least_at.append(step.least)
            seen.least[step.what] = seen.least.get(step.what, 0.0) + step.least
        before = after
    return seen


# -- what is said -----------------------------------------------------------------------------------------------------


def plots(found: dict[str, Seen]) -> list[str]:
    """Loads at the end, least to most, and connections made so far, without the two that would hide the others."""
    line_plot(
        RESULTS / "subsetting-load.svg",
        "Load of each instance after all changes (simulation of traffic)",
        "instances, least loaded first",
        "load, in means",
        {name: [(float(index), load) for index, load in enumerate(seen.loads)][::5] for name, seen in found.items()},
    )
    shown = {name: seen for name, seen in found.items() if name not in {"aperture", "SRE book"}}
    made = {
        name: [(float(index), y) for index, y in enumerate(accumulate(seen.made_at))] for name, seen in shown.items()
    }
    least = [(float(index), y) for index, y in enumerate(accumulate(found["masche"].least_at))]
    line_plot(
        RESULTS / "subsetting-churn.svg",
        "Connections made through restarts and changes of size (simulation of traffic)",
        "changes",
        "connections made so far",
        {**made, "fair least": least},
    )
    return ["subsetting-load.svg", "subsetting-churn.svg"]


def main(callers: int, instances: int, size: int) -> None:
    record = Record("subsetting", "Subsetting: even load, few connections, little churn", MEASURES, is_simulation=True)
    steps = list(story(instances, callers, size, Random(1)))
    print(
        f"subsetting, simulation of traffic: {callers} callers, {instances} instances, {size} each, {len(steps)} steps"
    )
    library = Library()
    ways: dict[str, Way] = {
        "masche": masche,
        "masche library": library,
        "ringsteady": ringsteady,
        "aperture": aperture,
        "SRE book": deterministic,
        "rendezvous": Rendezvous(),
    }
    found = {name: follow(way, steps, size) for name, way in ways.items()}
    kinds = list(found["masche"].churn())
    title = (
        "Greatest load and most connections of an instance, in means, worst of all steps; connections made (churn), in "
        "multiples of the fair least"
    )
    rows = [_row(name, seen, kinds) for name, seen in found.items()]
    record.table(title, ["way", "load", "connections", "churn", *kinds], rows)
    _figures(record, found["masche"], fewer=100 * size / instances - 100)
    _library_figures(record, found["masche library"], library)
    for note in NOTES:
        record.note(note)
    record.plots = plots(found)
    record.raw = {
        name: {"max_to_mean": seen.worst, "churn": seen.total(), "churn_by": seen.churn(), "made": seen.made_at}
        for name, seen in found.items()
    }
    record.write()


def _row(name: str, seen: Seen, kinds: Sequence[str]) -> list[str]:
    churn = (f"{seen.churn()[kind]:.2f}" for kind in kinds)
    return [name, f"{seen.worst:.3f}", f"{seen.worst_count:.2f}", f"{seen.total():.2f}", *churn]


def _figures(record: Record, ours: Seen, *, fewer: float) -> None:
    worst = max(ours.churn().values())
    record.figure("connections", fewer, unit="%", target="-98 %", is_met=fewer <= -FEWER)
    record.figure("max_to_mean", round(ours.worst, 3), target="<= 1.02", is_met=ours.worst <= MAX_TO_MEAN)
    record.figure("churn", round(ours.total(), 2), target="<= 1.2", is_met=ours.total() <= CHURN)
    record.figure("worst_churn", round(worst, 2), target="<= 1.2", is_met=worst <= CHURN)


def _library_figures(record: Record, real: Seen, library: Library) -> None:
    record.figure("library_max_to_mean", round(real.worst, 3), target="<= 1.02", is_met=real.worst <= MAX_TO_MEAN)
    record.figure("library_churn", round(real.total(), 2), target="<= 1.2", is_met=real.total() <= CHURN)
    record.figure("library_worst_churn", round(max(real.churn().values()), 2))
    record.figure("library_even_after", max(library.looks[1:]), unit=" s")
    record.figure("control_plane_longest_look", round(library.longest), unit=" ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=1000)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--size", type=int, default=20)
    given = parser.parse_args()
    main(given.callers, given.instances, given.size)
