"""How even and how steady subsets are: 1000 callers, 1000 instances, 20 each, through restarts and changes of size.

A simulation of traffic: every caller sends the same amount, and nothing is connected. It is pure and deterministic, and
compares what ``masche.traffic.subsetting`` decides with four published ways to subset, on the same changes.

    python bench/subsetting.py [--callers 1000] [--instances 1000] [--size 20]

Churn is the number of connections made, in multiples of what cannot be avoided: whoever loses an instance needs
another, a new instance needs its fair share of callers, and a new caller needs its subset. It is below 1 where a new
instance is given fewer connections than its share, and more of the calls of each.
"""

import argparse
import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import islice
from math import log10
from pathlib import Path
from random import Random

from masche.traffic.subsetting import Assignment, Slots, position

RESULTS = Path(__file__).parent / "results"
MAX_TO_MEAN, CHURN, FEWER = 1.02, 1.2, 98.0
Shares = dict[int, dict[str, float]]
"""For each caller the instances that it connects to, and the part of its calls that each gets."""
Way = Callable[[Slots, int, int], Shares]


# -- the ways to subset -----------------------------------------------------------------------------------------------


def masche(instances: Slots, callers: int, size: int) -> Shares:
    assignment = Assignment(instances, range(callers), size=size)
    found = {caller: assignment.of(caller) for caller in range(callers)}
    return {caller: dict(zip(each.ids, each.shares, strict=True)) for caller, each in found.items()}


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
    fewer: float = 100.0
    made: Counter[str] = field(default_factory=Counter[str])
    least: Counter[str] = field(default_factory=Counter[str])

    def churn(self) -> dict[str, float]:
        return {what: self.made[what] / least for what, least in self.least.items() if least}

    def total(self) -> float:
        return sum(self.made.values()) / sum(self.least.values())


def follow(way: Way, steps: Sequence[Step], size: int) -> Seen:
    seen = Seen()
    before: Shares = {}
    for step in steps:
        after = way(step.instances, step.callers, size)
        load: Counter[str] = Counter()
        for shares in after.values():
            load.update(shares)
        mean = step.callers / len(step.instances.taken)
        seen.worst = max(seen.worst, max(load.values()) / mean)
        connections = sum(len(each) for each in after.values())
        seen.fewer = min(seen.fewer, 100 * (1 - connections / (step.callers * len(step.instances.taken))))
        if not before:
            seen.loads = sorted(load[each] / mean for each in step.instances.taken)
        else:
            seen.made[step.what] += sum(
                len(each.keys() - before.get(caller, {}).keys()) for caller, each in after.items()
            )
            seen.least[step.what] += step.least
        before = after
    return seen


# -- what is said -----------------------------------------------------------------------------------------------------

COLOURS = ("#0b6e4f", "#c8553d", "#3d5a80", "#b08900", "#6d597a")


def plot(found: dict[str, Seen]) -> str:
    """Loads of all instances in order, left, and churn on a logarithmic scale, right."""
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 400" font-family="sans-serif" font-size="12">',
        '<rect width="900" height="400" fill="white"/>',
        '<text x="20" y="22" font-size="15">Subsetting (simulation of traffic)</text>',
        '<text x="20" y="46">load of each instance at the start, in means, least to most</text>',
        '<text x="500" y="46">connections made, in multiples of the least possible (log)</text>',
    ]
    for mark in (0.0, 0.5, 1.0, 1.5, 2.0):
        y = 360 - mark * 145
        lines.append(f'<path d="M50 {y} H450" stroke="#ddd"/><text x="20" y="{y + 4}">{mark}</text>')
    for number, (name, seen) in enumerate(found.items()):
        colour, count = COLOURS[number], len(seen.loads)
        points = " ".join(
            f"{50 + 400 * index / (count - 1):.1f},{360 - min(load, 2.1) * 145:.1f}"
            for index, load in enumerate(seen.loads)
            if index % 5 == 0 or index == count - 1
        )
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y, length = 70 + number * 55, 170 * log10(seen.total() / 0.5)
        lines.append(
            f'<text x="500" y="{y}" fill="{colour}">{name}: {seen.total():.2f}, worst load {seen.worst:.3f}</text>'
        )
        lines.append(f'<rect x="500" y="{y + 6}" width="{length:.0f}" height="16" fill="{colour}"/>')
    return "\n".join([*lines, "</svg>", ""])


def commit() -> str:
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main(callers: int, instances: int, size: int) -> None:
    steps = list(story(instances, callers, size, Random(1)))
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    print("subsetting, a simulation of traffic (deterministic; no clock is part of any figure)")
    print(f"{callers} callers, {instances} instances, {size} each, {len(steps)} steps, {machine}, commit {commit()}")
    ways: dict[str, Way] = {
        "masche": masche,
        "ringsteady": ringsteady,
        "aperture": aperture,
        "SRE book": deterministic,
        "rendezvous": Rendezvous(),
    }
    found = {name: follow(way, steps, size) for name, way in ways.items()}
    kinds = list(found["masche"].churn())
    print(f"{'way':<12}{'max/mean':>9}{'fewer %':>9}{'churn':>8}   " + ", ".join(kinds))
    for name, seen in found.items():
        each = "  ".join(f"{seen.churn()[kind]:.2f}" for kind in kinds)
        print(f"{name:<12}{seen.worst:>9.3f}{seen.fewer:>9.2f}{seen.total():>8.2f}   {each}")
    ours = found["masche"]
    is_met = ours.worst <= MAX_TO_MEAN and max(ours.churn().values()) <= CHURN
    start = 100 * (1 - size / instances)
    is_met &= start >= FEWER
    record = {
        "at": datetime.now(UTC).isoformat(),
        "commit": commit(),
        "machine": machine,
        "kind": "simulation of traffic",
        "callers": callers,
        "instances": instances,
        "size": size,
        "ways": {
            name: {"max_to_mean": seen.worst, "churn": seen.total(), "churn_by": seen.churn(), "loads": seen.loads}
            for name, seen in found.items()
        },
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "subsetting.json").write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / "subsetting.svg").write_text(plot(found))
    figures = f"connections=-{start:.1f}% max_to_mean={ours.worst:.3f} churn={ours.total():.2f}"
    print(f"RESULT subsetting {figures} worst_churn={max(ours.churn().values()):.2f} {'met' if is_met else 'short'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=1000)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--size", type=int, default=20)
    given = parser.parse_args()
    main(given.callers, given.instances, given.size)
