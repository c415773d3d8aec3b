"""Benchmarks 7, 8, 10 and 11 as simulations of traffic: what the pure package ``masche.traffic`` decides, without I/O.

Virtual time, seeded, deterministic: nothing is connected, so these figures are about decisions, not about speed. Peers
are built from the same parts in the same scenario. The same benchmarks with real proxies: slow-replica, antagonist,
brown-out, retry-storm.

    make bench NAME=simulation, or one of simulation-slow-replica, simulation-antagonist, simulation-brown-out,
    simulation-retry-storm; ARGS="--seeds 3"
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median

from plots import line_plot
from rig.record import RESULTS, Record, percentile

from masche.model.view import Retry
from masche.testing.antagonists import Antagonists, Chooser
from masche.testing.outstanding import Outstanding
from masche.testing.scenarios import (
    BrownOut,
    Flip,
    Make,
    SlowReplicaRun,
    Storm,
    StormRun,
    brown_out,
    slow_replica,
    storm,
)
from masche.traffic.balancer import Balancer
from masche.traffic.breaker import Breaker
from masche.traffic.budget import BudgetRules, RetryBudget
from masche.traffic.callee import Callee, CallRules
from masche.traffic.ejection import EjectionRules
from masche.traffic.hedging import Hedger, HedgeRules
from masche.traffic.membership import Membership, Rules
from masche.traffic.pickers.round_robin import RoundRobin, WeightedRoundRobin
from masche.traffic.pickers.told import Told

MEASURES = ("src/masche/traffic", "src/masche/testing/scenarios.py", "bench/simulation.py")
NEVER = EjectionRules(failures=0, failures_alone=0, error_percent=0, slow_ratio=0)
IN_A_ROW = EjectionRules(
    failures=5, failures_alone=0, error_percent=0, slow_ratio=0, base_ejection=30, max_ejection=300, good_trials=1,
    max_copy_percent=0, copy_patience=0.0,
)  # fmt: skip
"""Ejection by consecutive failures alone, with Envoy's defaults: five, for 30 s."""


def masche(group: Membership, *, timeout: float = 1.0, hedge: float = 0.0) -> Callee:
    return Callee(Balancer(group), rules=CallRules(timeout=timeout), hedger=Hedger(HedgeRules(max_extra_percent=hedge)))


def peer(group: Membership, *, kind: str, timeout: float = 1.0) -> Callee:
    """Round robin, least request of two, two by peak EWMA; or least request with ejection after failures in a row."""
    balancers: dict[str, Callable[[], Balancer]] = {
        "round robin": lambda: Balancer(group, picker=RoundRobin()),
        "two choices": lambda: Balancer(group, metric=Outstanding()),
        "peak EWMA": lambda: Balancer(group),
        "ejection": lambda: Balancer(group, metric=Outstanding()),
    }
    breaker = Breaker(IN_A_ROW if kind == "ejection" else NEVER)
    return Callee(balancers[kind](), rules=CallRules(timeout=timeout), breaker=breaker)


PEERS = {
    "round robin": "round robin",
    "least request": "two choices",
    "peak EWMA alone": "peak EWMA",
    "least request, ejection after 5 failures": "ejection",
}


# -- 7 ----------------------------------------------------------------------------------------------------------------


def slow(seeds: Sequence[int]) -> None:
    record = Record(
        "simulation-slow-replica", "Simulation: one of eleven instances becomes slow", MEASURES, is_simulation=True
    )
    ways: dict[str, tuple[Make, str]] = {
        "masche": (masche, "GET"),
        "masche, nothing idempotent": (masche, "POST"),
        "masche with 2 % hedges": (partial(masche, hedge=2.0), "GET"),
        **{name: (partial(peer, kind=kind), "POST") for name, kind in PEERS.items()},
    }
    found = {
        name: [slow_replica(make, seed=seed, method=method) for seed in seeds] for name, (make, method) in ways.items()
    }
    record.table(
        f"Failed of 60,000 calls, worst of {len(seeds)} runs",
        ["way", "failed", "share", "unknowable", "probes", "avoidable", "p99 while slow, ms", "extra load"],
        [[name, *_slow_row(runs)] for name, runs in found.items()],
    )
    ours, hedged = found["masche"], found["masche with 2 % hedges"]
    avoidable, share = max(run.avoidable for run in ours), 100 * max(_share(run) for run in ours)
    failed = max(len(run.caller.failed) for run in hedged)
    extra = 100 * max(run.caller.hedges / run.caller.calls for run in hedged)
    record.figure("avoidable", avoidable, target="0", is_met=avoidable == 0)
    record.figure("failed", round(share, 4), unit="%", target="<= 0.05 %", is_met=share <= 0.05)
    record.figure("failed_hedged", failed, target="<= 1 call", is_met=failed <= 1)
    record.figure("hedges", round(extra, 3), unit="%", target="<= 2 %", is_met=extra <= 2)
    record.note(
        "Extra load: hedges, and copies of idempotent calls, which show when the instance is well again: no call "
        "depends on a copy. Where nothing is idempotent calls themselves are the probes."
    )
    path = RESULTS / "simulation-slow-replica.svg"
    line_plot(
        path, "Slow replica (simulation): failed calls so far", "seconds", "failed calls",
        {name: _so_far(found[name][0]) for name in found if name != "round robin"},
    )  # fmt: skip
    record.plots.append(path.name)
    record.raw = {name: [_slow_raw(run) for run in runs] for name, runs in found.items()}
    record.write()


def _share(run: SlowReplicaRun) -> float:
    return len(run.caller.failed) / run.caller.calls


def _slow_row(runs: Sequence[SlowReplicaRun]) -> list[str]:
    worst = max(runs, key=lambda run: len(run.caller.failed))
    of, caller = worst.scenario, worst.caller
    during = sorted(each.latency for each in caller.done if of.lead + 1 <= each.at < of.lead + of.slow_for)
    return [
        str(len(caller.failed)), f"{100 * _share(worst):.3f} %", str(worst.unknowable), str(worst.probes),
        str(worst.avoidable), f"{1000 * percentile(during, 0.99):.0f}",
        f"{100 * (caller.attempts - caller.calls) / caller.calls:.2f} %",
    ]  # fmt: skip


def _slow_raw(run: SlowReplicaRun) -> dict[str, object]:
    return {
        "calls": run.caller.calls, "failed": len(run.caller.failed), "unknowable": run.unknowable,
        "probes": run.probes, "avoidable": run.avoidable, "hedges": run.caller.hedges, "copies": run.caller.copies,
        "events": [f"{each.at:.3f} {each}" for each in run.caller.events],
    }  # fmt: skip


def _so_far(run: SlowReplicaRun) -> list[tuple[float, float]]:
    failed = sorted(each.at for each in run.caller.failed)
    return [(second / 2, float(sum(at <= second / 2 for at in failed))) for second in range(121)]


# -- 8 ----------------------------------------------------------------------------------------------------------------


def _told(group: Membership) -> Chooser:
    return Chooser(Balancer(group, picker=Told()), is_told=True)


ANTAGONIST_WAYS: dict[str, Callable[[Membership], Chooser]] = {
    "masche, instances tell": _told,
    "masche, own calls only": lambda group: Chooser(Balancer(group)),
    "two choices": lambda group: Chooser(Balancer(group, metric=Outstanding())),
    "weighted round robin": lambda group: Chooser(
        Balancer(group, metric=Outstanding(), picker=WeightedRoundRobin(), rules=Rules()), is_weighted=True
    ),
    "round robin": lambda group: Chooser(Balancer(group, metric=Outstanding(), picker=RoundRobin())),
}


def antagonist(seeds: Sequence[int]) -> None:
    record = Record(
        "simulation-antagonist", "Simulation: neighbours that take the processor away",
        (*MEASURES, "src/masche/testing/antagonists.py"), is_simulation=True,
    )  # fmt: skip
    p99: dict[str, list[float]] = {}
    rows: list[list[str]] = []
    for name, make in ANTAGONIST_WAYS.items():
        runs = [Antagonists(make, seed=seed) for seed in seeds]
        for run in runs:
            run.run()
        steps = runs[0].ramp.steps
        by_step = [1000 * median(percentile(run.took[at], 0.99) for run in runs) for at in range(len(steps))]
        whole = 1000 * median(percentile(sorted(each for took in run.took for each in took), 0.99) for run in runs)
        p99[name] = [*by_step, whole]
        record.raw[name] = {"p99_ms": dict(zip([*map(str, steps), "ramp"], p99[name], strict=True))}
        timed_out = sum(run.failed for run in runs) / len(runs)
        rows.append([name, *(f"{each:.0f}" for each in p99[name]), f"{timed_out:.0f}"])
    ramp = Antagonists(ANTAGONIST_WAYS["two choices"]).ramp
    record.table(
        f"p99 in ms by load (1: what is guaranteed), median of {len(seeds)} runs",
        ["way", *map(str, ramp.steps), "whole ramp", "timed out"],
        rows,
    )
    ours = p99["masche, instances tell"]
    for name, target in (("two choices", 0.65), ("weighted round robin", 0.30)):
        ratios = [mine / other for mine, other in zip(ours, p99[name], strict=True)]
        short = name.replace(" ", "_")
        record.figure(f"to_{short}", round(ratios[-1], 3), target=f"<= {target}", is_met=ratios[-1] <= target)
        record.figure(f"to_{short}_step_median", round(median(ratios[:-1]), 3), target=f"<= {target}",
                      is_met=median(ratios[:-1]) <= target)  # fmt: skip
        record.figure(f"to_{short}_worst_step", round(max(ratios[:-1]), 3))
    local = [mine / other for mine, other in zip(p99["masche, own calls only"], p99["two choices"], strict=True)]
    record.figure("own_calls_only_to_two_choices", round(local[-1], 3))
    record.note(
        f"{ramp.clients} clients, {ramp.servers} servers; a server has {ramp.cores:g} cores guaranteed, and "
        f"{ramp.spare:g} times as many where no antagonist runs: on half of the machines, others every "
        f"{ramp.change:g} s. The work of a call is {1000 * ramp.work:.0f} ms on average; alone on a free machine the "
        "p99 is 185 ms, so no way to balance can be better than about half of two choices at the lowest load."
    )
    record.note(
        "Instances tell: each answer says how many requests its server has under way (pickers/told.py), as servers on "
        "the library placement do, and no Envoy does. Own calls only: two choices by peak EWMA, which alone does not "
        "reach 0.65: one client of a hundred calls each server about every two seconds, too seldom to see an "
        "antagonist come and go. The figures without a target show where the ratio over the whole ramp hides steps."
    )
    path = RESULTS / "simulation-antagonist.svg"
    line_plot(
        path, "Antagonists (simulation): p99 by load", "load (1: guaranteed)", "p99 in ms",
        {name: list(zip(ramp.steps, values[:-1], strict=True)) for name, values in p99.items()},
    )  # fmt: skip
    record.plots.append(path.name)
    record.write()


# -- 10 ---------------------------------------------------------------------------------------------------------------


def brown(seeds: Sequence[int]) -> None:
    record = Record(
        "simulation-brown-out", "Simulation: one of five instances answers 503 every 30 s", MEASURES, is_simulation=True
    )
    shared = BrownOut(delay=0.020)
    larger = BrownOut(delay=0.020, callers=10, rate=1000.0)
    alone = BrownOut()
    ways: dict[str, tuple[Make, BrownOut, str]] = {
        "masche": (masche, alone, "GET"),
        "masche, verdicts shared": (masche, shared, "GET"),
        "masche, shared, 10 callers, 1000/s": (masche, larger, "GET"),
        "masche, nothing idempotent": (masche, alone, "POST"),
        **{name: (partial(peer, kind=kind), alone, "POST") for name, kind in PEERS.items()},
    }
    found = {
        name: [flip for seed in seeds for flip in brown_out(make, seed=seed, scenario=of, method=method)]
        for name, (make, of, method) in ways.items()
    }
    record.table(
        "Errors of a flip, worst of all; seconds until the instance was readmitted by all",
        ["way", "worst caller", "mesh", "readmitted"],
        [[name, *_flip_row(flips)] for name, flips in found.items()],
    )
    client = max(flip.worst for flip in found["masche"])
    mesh = max(flip.mesh for name in found if "shared" in name for flip in found[name])
    back = max(flip.readmitted for name in found if name.startswith("masche") and "idem" not in name
               for flip in found[name])  # fmt: skip
    record.figure("errors_per_client", client, target="<= 5", is_met=client <= 5)
    record.figure("errors_per_mesh_shared", mesh, target="<= 10", is_met=mesh <= 10)
    record.figure("readmitted", round(back, 2), unit="s", target="<= 1 s", is_met=back <= 1)
    record.note(
        "Five callers, 250 calls/s together; an instance answers 503 at once for 10 s. Shared: what a caller learns by "
        "a fault reaches the others 20 ms later. Readmission by the breaker, which the ways without one do not have."
    )
    record.raw = {name: [[flip.worst, flip.mesh, flip.readmitted] for flip in flips] for name, flips in found.items()}
    record.write()


def _flip_row(flips: Sequence[Flip]) -> list[str]:
    return [str(max(each.worst for each in flips)), str(max(each.mesh for each in flips)),
            f"{max(each.readmitted for each in flips):.2f}"]  # fmt: skip


# -- 11 ---------------------------------------------------------------------------------------------------------------

RETRIES = Retry(attempts=3, codes=(503,), backoff=0.025)
NO_LIMIT = BudgetRules(min_per_second=1e6, tolerance=1e9)
TOKENS = BudgetRules(min_per_second=10.0, tolerance=1e9)
"""20 % of the calls and ten a second, as in Finagle and linkerd."""


def _tier(group: Membership, *, budget: BudgetRules | None = None, retry: Retry | None = RETRIES) -> Callee:
    return Callee(Balancer(group), rules=CallRules(timeout=1.0, retry=retry), budget=RetryBudget(budget))


def retries(seeds: Sequence[int]) -> None:
    record = Record(
        "simulation-retry-storm", "Simulation: the last of three tiers is out for five seconds", MEASURES,
        is_simulation=True,
    )  # fmt: skip
    ways: dict[str, tuple[Make, Storm]] = {
        "masche": (_tier, Storm()),
        "masche, without telling tiers": (_tier, Storm(tells=False)),
        "token budget per tier": (partial(_tier, budget=TOKENS), Storm(tells=False)),
        "three retries per tier": (partial(_tier, budget=NO_LIMIT), Storm(tells=False)),
        "no retries": (partial(_tier, retry=None), Storm(tells=False)),
    }
    found = {name: [storm(make, seed=seed, scenario=of) for seed in seeds] for name, (make, of) in ways.items()}
    record.table(
        f"A storm of repeats, worst of {len(seeds)} runs",
        ["way", "attempts at the leaf per call", "recovery s", "goodput at twice the capacity"],
        [[name, *_storm_row(runs)] for name, runs in found.items()],
    )
    ours = found["masche"]
    amplification = max(run.amplification for run in ours)
    recovery, goodput = max(run.recovery for run in ours), min(run.goodput for run in ours)
    record.figure("amplification", round(amplification, 3), target="<= 1.10", is_met=amplification <= 1.10)
    record.figure("recovery", round(recovery, 2), unit="s", target="<= 1 s", is_met=recovery <= 1)
    record.figure("goodput", round(goodput, 3), target=">= 0.95", is_met=goodput >= 0.95)
    record.note(
        "A client, three callers in each of two tiers, three leaves of 100 calls/s at 80 % load; three retries of 503 "
        "at each hop, deadlines handed on, 1 s. A leaf refuses whom it finds more than 20 calls before."
    )
    path = RESULTS / "simulation-retry-storm.svg"
    line_plot(
        path, "Retry storm (simulation): attempts per second at the leaf", "seconds", "attempts per second",
        {name: runs[0].arrivals for name, runs in found.items() if name != "three retries per tier"},
    )  # fmt: skip
    record.plots.append(path.name)
    record.raw = {
        name: [
            {
                "amplification": run.amplification,
                "recovery": run.recovery,
                "goodput": run.goodput,
                "rates": run.arrivals,
            }
            for run in runs
        ]
        for name, runs in found.items()
    }
    record.write()


def _storm_row(runs: Sequence[StormRun]) -> list[str]:
    return [f"{max(run.amplification for run in runs):.2f}", f"{max(run.recovery for run in runs):.1f}",
            f"{100 * min(run.goodput for run in runs):.0f} %"]  # fmt: skip


BENCHMARKS: Mapping[str, Callable[[Sequence[int]], None]] = {
    "slow-replica": slow,
    "antagonist": antagonist,
    "brown-out": brown,
    "retry-storm": retries,
}


def main(only: str = "") -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=only or ",".join(BENCHMARKS), help="which, by comma")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, with as many seeds")
    given = parser.parse_args()
    for name in given.only.split(","):
        print(f"\n{name}: simulation, virtual time, {given.seeds} seeds", flush=True)
        BENCHMARKS[name](range(1, given.seeds + 1))


if __name__ == "__main__":
    main()
