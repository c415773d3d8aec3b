"""A simulation, in virtual time, of how steering moves traffic: the real Steersman and compiler, simulated calls.

    make bench NAME=steering

It prints what each scenario showed, and keeps the figures and plots under ``bench/results``. The 99th percentile from
five seconds after a change on is compared with that of the last half minute before the link heals.
"""

import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from time import process_time

from plots import line_plot
from rig.record import Record

from masche.compiler.steer.seen import Seen
from masche.compiler.steer.steersman import Steersman
from masche.compiler.steer.terrain import Ground, Site, Terrain
from masche.model.mesh import Mesh
from masche.model.ports import Entry, Snapshot
from masche.model.refs import PortRef
from masche.model.yaml import load
from masche.registry.merge import from_snapshot
from masche.testing.simulated_zones import Cost, Second, Server, Simulation, mesh_of

RESULTS = Path(__file__).parent / "results"
AT_HOME_US, USUAL_US, SLOW_US = 100.0, 2_000.0, 200_000.0
BEGIN, END, UNTIL = 30.0, 90.0, 150.0
CHANGE = 0.02
"""A share that moves by less has not changed its direction."""

MEASURES = (
    "src/masche/compiler/steer", "src/masche/compiler/localities.py", "src/masche/compiler/locality.py",
    "src/masche/testing/simulated_zones.py", "bench/steering.py",
)  # fmt: skip

Figures = dict[str, float]


def a_mesh(text: str) -> Mesh:
    loaded = load(text, file="mesh.yaml", namespace="shop")
    assert not loaded.errors, loaded.errors
    entries = (Entry(ref=each.ref, resource=each, revision=1, created_revision=1) for each in loaded.resources)
    return from_snapshot(Snapshot(revision=1, entries=tuple(entries)))


def servers(instances: Mapping[str, int], **more: object) -> list[Server]:
    return [
        Server(name=f"shop/orders-{zone}{number}", zone=zone, **more)  # type: ignore[arg-type] # the fields of a Server
        for zone, count in instances.items()
        for number in range(count)
    ]


def world(instances: list[Server], callers: Mapping[str, int], network: Cost, **more: object) -> Simulation:
    gateways = more.pop("gateways", ())
    mesh = a_mesh(mesh_of(instances, callers, gateways))  # type: ignore[arg-type] # a list of zones
    made: dict[str, object] = {"rate": 25.0, **more}
    return Simulation(mesh=mesh, servers=instances, callers=callers, network_us=network, **made)  # type: ignore[arg-type] # the fields of a Simulation


def link(pair: str, us: Callable[[float], float]) -> Cost:
    """All links are as usual, but for one."""
    ends = set(pair)
    return lambda a, b, now: AT_HOME_US if a == b else (us(now) if {a, b} == ends else USUAL_US)


def slow_between(begin: float, end: float) -> Callable[[float], float]:
    return lambda now: SLOW_US if begin <= now < end else USUAL_US


def of(simulation: Simulation, zone: str = "a") -> list[Second]:
    return [second for second in simulation.seconds if second.zone == zone]


def pooled_p99(seconds: list[Second]) -> float:
    every = sorted(latency for second in seconds for latency in second.latencies)
    return every[int(0.99 * len(every))] if every else 0.0


def settled(
    seconds: list[Second], share: Callable[[Second], float], after: float, wanted: Callable[[float], bool]
) -> float:
    """Seconds from ``after`` until the share is as wanted, and stays so for five seconds."""
    later = [second for second in seconds if second.at >= after]
    for index in range(len(later) - 5):
        if all(wanted(share(second)) for second in later[index : index + 5]):
            return later[index].at - after
    return float("inf")


def turns(seconds: list[Second], key: tuple[str, str]) -> int:
    """How often the intended share changed its direction."""
    values = [second.intended.get(key, 0.0) for second in seconds if second.intended]
    steps = [b - a for a, b in pairwise(values) if abs(b - a) >= CHANGE]
    return sum(one * other < 0 for one, other in pairwise(steps))


def on_the_bad_way(second: Second) -> float:
    return second.intended.get(("b", ""), 0.0)


# ---------------------------------------------------------------------------------------------------------- scenarios


def slow_route(name: str, simulation: Simulation, base: float) -> Figures:
    """The link a-b goes from 2 to 200 ms for a minute."""
    seconds = of(simulation.run(UNTIL))
    best = pooled_p99([each for each in seconds if each.at >= END - 30 and each.at < END])
    plot(name, seconds)
    return {
        "moved_s": settled(seconds, on_the_bad_way, BEGIN, lambda share: share < 0.01),
        "back_s": settled(seconds, on_the_bad_way, END, lambda share: share > 0.9 * base),
        "p99_before_ms": pooled_p99([each for each in seconds if 10 <= each.at < BEGIN]) / 1000,
        "p99_after_5_s_ms": pooled_p99([each for each in seconds if BEGIN + 5 <= each.at < END]) / 1000,
        "p99_last_half_ms": best / 1000,
        "turns": turns(seconds, ("b", "")),
        "lost": sum(each.lost for each in seconds),
        "publications": simulation.publications,
    }


def spill() -> Figures:
    network = link("ab", slow_between(BEGIN, END))
    return slow_route("spill", world(servers({"b": 3, "c": 3}), {"a": 10}, network), 0.5)


def own_zone() -> Figures:
    network = link("ab", slow_between(BEGIN, END))
    instances = servers({"a": 3, "b": 3, "c": 3}, capacity=200.0)
    return slow_route("own-zone", world(instances, {"a": 20, "b": 5, "c": 5}, network), 0.22)


def detour() -> Figures:
    network = link("ab", slow_between(BEGIN, END))
    return slow_route("detour", world(servers({"b": 3}), {"a": 10, "c": 3}, network, gateways=["c"]), 1.0)


def threshold() -> Figures:
    """Ten minutes at the very ratio from which a link counts as bad: 14 + 2 ms against 6 + 2 ms, with noise."""
    chance = Random(7)
    wobble = [14_000.0 * chance.lognormvariate(0.0, 0.2) for _ in range(601)]
    network: Cost = lambda a, b, now: AT_HOME_US if a == b else (6_000.0 if "c" in {a, b} else wobble[int(now)])  # noqa: E731 - one of three laws of a network
    simulation = world(servers({"b": 3, "c": 3}), {"a": 10}, network, rate=10.0).run(600)
    seconds = of(simulation)
    plot("threshold", seconds)
    return {"turns": turns(seconds, ("b", "")), "publications": simulation.publications}


def many_pairs() -> Figures:
    """11 zones, 110 directed pairs, uneven room, limited capacity, and six links that get slow and well again."""
    zones = "abcdefghijk"
    chance = Random(11)
    spells = {frozenset(chance.sample(zones, 2)): (chance.uniform(20, 80), chance.uniform(120, 180)) for _ in range(6)}
    usual = {frozenset((a, b)): chance.uniform(1_000.0, 6_000.0) for a in zones for b in zones if a < b}

    def network(a: str, b: str, now: float) -> float:
        if a == b:
            return AT_HOME_US
        begin, end = spells.get(frozenset((a, b)), (0.0, 0.0))
        return SLOW_US if begin <= now < end else usual[frozenset((a, b))]

    counts = {zone: 1 + 3 * (index % 2) for index, zone in enumerate(zones)}
    instances = servers(counts, capacity=45.0)
    simulation = world(instances, dict.fromkeys(zones, 6), network, rate=10.0).run(240)
    worst, variance = 0, 0.0
    for zone in zones:
        seconds = of(simulation, zone)
        calm = [second for second in seconds if second.at >= 200]
        worst = max(worst, *(turns(seconds, (other, "")) for other in zones))
        for other in zones:
            values = [second.intended.get((other, ""), 0.0) for second in calm]
            mean = sum(values) / len(values)
            variance = max(variance, sum((value - mean) ** 2 for value in values) / len(values))
    plot("many-pairs", of(simulation))
    before = pooled_p99([second for second in simulation.seconds if 10 <= second.at < 20])
    during = pooled_p99([second for second in simulation.seconds if 90 <= second.at < 120])
    return {
        "turns_worst_pair": worst,
        "share_variance_at_rest": variance,
        "p99_before_ms": before / 1000,
        "p99_during_ms": during / 1000,
        "publications": simulation.publications,
        "lost": sum(second.lost for second in simulation.seconds),
    }


def slow_instance() -> Figures:
    """One of five takes 40 ms instead of 2 for a minute; 50 proxies."""
    law = slow_between(BEGIN, END)
    instances = servers({"a": 4}, capacity=500.0)
    instances.append(
        Server(
            name="shop/orders-slow",
            zone="a",
            capacity=500.0,
            service_us=lambda now: 40_000.0 if law(now) == SLOW_US else USUAL_US,
        )
    )
    simulation = world(instances, {"a": 50}, lambda _a, _b, _now: AT_HOME_US, rate=10.0).run(UNTIL)
    seconds = of(simulation)
    plot("slow-instance", seconds)
    return {
        "p99_before_ms": pooled_p99([each for each in seconds if 10 <= each.at < BEGIN]) / 1000,
        "p99_after_5_s_ms": pooled_p99([each for each in seconds if BEGIN + 5 <= each.at < END]) / 1000,
        "publications": simulation.publications,
    }


def cost() -> Figures:
    """300 services of ten instances in three zones, all called from each zone: processor time of a look, in us.

    Making up what was seen is not part of it.
    """
    zones, chance, steersman = "abc", Random(3), Steersman()
    sites = {
        PortRef("shop", f"service-{number}", 80): tuple(
            Site(f"shop/service-{number}-{instance}", zones[instance % 3]) for instance in range(10)
        )
        for number in range(300)
    }
    terrain = Terrain(
        ports={port: Ground(sites=some) for port, some in sites.items()}, callers=dict.fromkeys(zones, 1000)
    )
    spent: list[float] = []
    for now in range(40):
        seens = {
            (port, zone): [_seen(site, zone, chance) for site in some]
            for port, some in (sites.items() if now < 20 else ())
            for zone in zones
        }
        began = process_time()
        for key, some in seens.items():
            steersman.saw(key, some, now=float(now))
        steersman.steer(terrain, now=float(now))
        spent.append((process_time() - began) / (len(sites) * 10 * len(zones)) * 1e6)
    return {"reporting_us": median(spent[10:20]), "at_rest_us": median(spent[30:])}


def _seen(site: Site, zone: str, chance: Random) -> Seen:
    service = USUAL_US * chance.lognormvariate(0.0, 0.1)
    latency = service + (AT_HOME_US if site.zone == zone else USUAL_US)
    return Seen(workload=site.workload, zone=site.zone, caller=zone, answers=10, latency_us=latency, service_us=service)


# ------------------------------------------------------------------------------------------------------------ results


def plot(name: str, seconds: list[Second]) -> None:
    seconds = [second for second in seconds if second.intended]
    keys = sorted({key for second in seconds for key in second.intended})
    shares = {
        (f"{zone} by {via}" if via else zone): [
            (each.at, 100 * each.intended.get((zone, via), 0.0)) for each in seconds
        ]
        for zone, via in keys
        if any(each.intended.get((zone, via), 0.0) >= 0.03 for each in seconds)
    }
    title = f"simulation: {name}: where the calls of zone a go"
    line_plot(RESULTS / f"steering-{name}-shares.svg", title, "s", "% of the calls", shares)
    lines = {
        "p50": [(each.at, each.quantile_us(0.5) / 1000) for each in seconds],
        "p95": [(each.at, each.quantile_us(0.95) / 1000) for each in seconds],
    }
    line_plot(RESULTS / f"steering-{name}-latency.svg", f"simulation: {name}: latency of zone a", "s", "ms", lines)


SCENARIOS: dict[str, Callable[[], Figures]] = {
    "spill": spill,
    "own-zone": own_zone,
    "detour": detour,
    "threshold": threshold,
    "many-pairs": many_pairs,
    "slow-instance": slow_instance,
}
"""By the names of their plots."""


def record_of(results: Mapping[str, Figures]) -> Record:
    """The figures of all scenarios, with their targets."""
    record = Record(
        name="steering",
        title="Steering of weights, zones and detours, simulated",
        measures=MEASURES,
        is_simulation=True,
        raw=dict(results),
        plots=[f"steering-{name}-{kind}.svg" for name in SCENARIOS for kind in ("shares", "latency")],
    )
    for name in ("spill", "own-zone", "detour"):
        each = results[name]
        away, near = each["p99_after_5_s_ms"], 1.3 * each["p99_last_half_ms"]
        record.figure(f"{name}-away", each["moved_s"], unit="s", target="<= 5 s", is_met=each["moved_s"] <= 5)
        record.figure(f"{name}-back", each["back_s"], unit="s", target="<= 10 s", is_met=each["back_s"] <= 10)
        record.figure(f"{name}-p99", away, unit="ms", target="<= 1.3x of its last half minute", is_met=away <= near)
        record.figure(f"{name}-turns", each["turns"], target="<= 1", is_met=each["turns"] <= 1)
    turns, pairs = results["threshold"]["turns"], results["many-pairs"]
    record.figure("threshold-turns", turns, target="0 in 10 minutes", is_met=turns == 0)
    record.figure("pairs-turns", pairs["turns_worst_pair"], target="<= 2", is_met=pairs["turns_worst_pair"] <= 2)
    variance = pairs["share_variance_at_rest"]
    record.figure("pairs-variance", variance, target="<= 0.0001", is_met=variance <= 1e-4)
    busy, rest = results["cost"]["reporting_us"], results["cost"]["at_rest_us"]
    record.figure("cost-reporting", busy, unit="us", target="<= 10 us per instance", is_met=busy <= 10)
    record.figure("cost-at-rest", rest, unit="us", target="<= 1 us per instance", is_met=rest <= 1)
    lost = sum(each.get("lost", 0.0) for each in results.values())
    record.figure("lost", lost, target="0", is_met=lost == 0)
    return record


def main() -> int:
    results = {name: scenario() for name, scenario in SCENARIOS.items()} | {"cost": cost()}
    record = record_of(results)
    rows = [[name, *(f"{key}={value:.3g}" for key, value in found.items())] for name, found in results.items()]
    widest = max(map(len, rows))
    record.table("simulated", [""] * widest, [row + [""] * (widest - len(row)) for row in rows])
    record.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
