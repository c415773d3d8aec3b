"""Benchmark 8: neighbours that take the processor away, under a rising load (the recipe of Prequal, NSDI 2024).

As many callers as servers, each with a balancer of its own: none sees all of a server's load. Ten servers were given 10
calls/s each, which two cores carry in any placement: what is measured is who chooses well. Where no antagonist runs a
server is twice as fast as it was promised; every five seconds another half of them has one. The load rises from 0.7 to
1.4 of what was promised, ten seconds a step; calls are given up after 5 s. The figures are ratios of the p99, the
median of the steps' and that of all calls of the ramp.

    python bench/antagonist.py [--only masche]
"""

import argparse
import random
import threading
import time
from collections.abc import Iterator
from statistics import median

from plots import line_plot
from rig.contender import Contender, Several, begin
from rig.library import CARRIED_OUT, LibraryAtBothEnds, LibraryMesh
from rig.load import Backend, Backends, Behaviour, Call, Plan
from rig.mesh import MascheMesh
from rig.peers import HandEnvoy, HaProxy, Nginx, WeightedEnvoy, settle
from rig.ports import free_port
from rig.record import RESULTS, Record, percentile

CALLERS, SERVERS, PROMISED = 10, 10, 10.0
FREE = Behaviour(latency=100, jitter=25, slots=2)
ANTAGONIZED = Behaviour(latency=200, jitter=50, slots=2)
STEPS = (0.7, 0.85, 1.0, 1.15, 1.3, 1.4)
STEP, CHANGE = 10.0, 5.0
TIMEOUT = 5.0
TARGETS = {"envoy least request": 0.65, "envoy weighted round robin": 0.30}


def play(contender: Contender) -> dict[float, list[Call]]:
    """The calls of each step."""
    ports = {f"server-{number}": free_port() for number in range(SERVERS)}
    backends = Backends({name: Backend(port=port, start=FREE) for name, port in ports.items()})
    ended = threading.Event()
    director = threading.Thread(target=_direct, args=(backends, list(ports), ended))
    try:
        contender.start(ports)
        settle(3)
        director.start()
        begin(
            contender, Plan(urls=contender.urls, rate=STEPS[0] * SERVERS * PROMISED, seconds=5, timeout=TIMEOUT)
        ).wait()
        return {
            step: begin(
                contender, Plan(urls=contender.urls, rate=step * SERVERS * PROMISED, seconds=STEP, timeout=TIMEOUT)
            ).wait()
            for step in STEPS
        }
    finally:
        ended.set()
        if director.is_alive():
            director.join()
        contender.close()
        backends.close()


def _direct(backends: Backends, names: list[str], ended: threading.Event) -> None:
    chance = random.Random(7)
    while not ended.is_set():
        troubled = set(chance.sample(names, len(names) // 2))
        for name in names:
            backends.become(name, ANTAGONIZED if name in troubled else FREE)
        wakes = time.monotonic() + CHANGE
        while time.monotonic() < wakes and not ended.is_set():
            ended.wait(0.1)


def p99(calls: list[Call]) -> float:
    return percentile(sorted(TIMEOUT * 1000 if call.is_failed else call.took_ms for call in calls), 0.99)


def contenders() -> Iterator[Contender]:
    """One after the other: each takes its ports when it is to begin, for what is free now may be taken by then."""
    yield MascheMesh("masche", callers=CALLERS)
    yield LibraryMesh(callers=CALLERS)
    yield LibraryAtBothEnds(callers=CALLERS)
    yield Several(lambda: HandEnvoy("LEAST_REQUEST"), CALLERS)
    yield Several(WeightedEnvoy, CALLERS)
    yield Several(lambda: HandEnvoy("ROUND_ROBIN"), CALLERS)
    yield Several(HaProxy, CALLERS)
    yield Several(Nginx, CALLERS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="", help="names of contenders, by comma")
    given = parser.parse_args()
    wanted = {name for name in given.only.split(",") if name}
    record = Record(
        "antagonist",
        "Neighbours that take the processor away",
        measures=CARRIED_OUT,
    )
    found: dict[str, list[dict[float, float]]] = {}
    whole: dict[str, list[float]] = {}
    failed: dict[str, int] = {}
    for _ in range(given.rounds):
        for contender in contenders():
            if wanted and contender.name not in wanted:
                continue
            print(contender.name, flush=True)
            steps = play(contender)
            found.setdefault(contender.name, []).append({step: p99(calls) for step, calls in steps.items()})
            whole.setdefault(contender.name, []).append(p99([call for calls in steps.values() for call in calls]))
            failed[contender.name] = sum(call.is_failed for calls in steps.values() for call in calls)
    middle = {name: {step: median(each[step] for each in rounds) for step in STEPS} for name, rounds in found.items()}
    rows = [
        [name, *(f"{steps[step]:.0f}" for step in STEPS), f"{median(whole[name]):.0f}", str(failed[name])]
        for name, steps in middle.items()
    ]
    record.table("p99 in ms by load (1: what was promised)", ["contender", *map(str, STEPS), "ramp", "failed"], rows)
    record.raw = {
        name: [{str(step): value for step, value in each.items()} for each in rounds] for name, rounds in found.items()
    }
    for ours in ("masche", "masche library", "masche library at both ends"):
        for peer, limit in TARGETS.items():
            if ours in middle and peer in middle:
                ratio = median(middle[ours][step] / middle[peer][step] for step in STEPS)
                name = f"{ours.partition(' ')[2]}_ratio_to_{peer.removeprefix('envoy ')}".lstrip("_").replace(" ", "_")
                record.figure(name, round(ratio, 3), target=f"<= {limit}", is_met=ratio <= limit)
                ramp = median(whole[ours]) / median(whole[peer])
                record.figure(f"{name}_ramp", round(ramp, 3), target=f"<= {limit}", is_met=ramp <= limit)
    path = RESULTS / "antagonist.svg"
    line_plot(
        path,
        "Antagonists: p99 by load",
        "load (1: promised)",
        "p99 in ms",
        {name: list(steps.items()) for name, steps in middle.items()},
    )
    record.plots.append(path.name)
    record.write()


if __name__ == "__main__":
    main()
