"""Benchmark 10: one of five servers answers 503 for a while, again and again. How many calls are lost to it each time?

Five servers in 10 +- 2 ms and five callers, 250 calls/s together, no retries. Every 30 s the next server answers
503 at once for 10 s, then is well again. Errors are counted per caller and per mesh for each flip; *back after* is the
time from the recovery until the server gets at least half of its fair share.

    python bench/brown_out.py [--flips 3] [--only masche]
"""

import argparse
import threading
import time
from collections import Counter
from collections.abc import Sequence
from statistics import median

from plots import line_plot
from rig.contender import Contender, Several, begin
from rig.library import CARRIED_OUT, LibraryMesh
from rig.load import Backend, Backends, Behaviour, Call, Plan
from rig.mesh import MascheMesh
from rig.peers import HandEnvoy, HaProxy, Nginx, settle
from rig.ports import free_port
from rig.record import RESULTS, Record

SERVERS, CALLERS, RATE = 5, 5, 250
EVERY, SICK_FOR = 30.0, 10.0
LEAD = 5.0
WELL = Behaviour(latency=10, jitter=2)
SICK = Behaviour(latency=0, status=503)


class Flip:
    """What one flip did: ``errors`` by caller, and seconds until the server had its share back."""

    def __init__(self, calls: Sequence[Call], server: str, sick_at: float, well_at: float) -> None:
        mine = [call for call in calls if sick_at <= call.sent < sick_at + EVERY - 1]
        self.errors = Counter(call.url for call in mine if call.is_failed)
        self.mesh = self.errors.total()
        self.failed = [(round(call.sent - sick_at, 3), call.url, call.status) for call in mine if call.is_failed]
        self.worst = max(self.errors.values(), default=0)
        self.back_after = _back_after(mine, server, well_at)


def _back_after(calls: Sequence[Call], server: str, well_at: float, step: float = 0.25) -> float:
    total, there = Counter[int](), Counter[int]()
    for call in calls:
        if call.sent >= well_at:
            number = int((call.sent - well_at) / step)
            total[number] += 1
            there[number] += call.backend == server and not call.is_failed
    for number in sorted(total):
        if there[number] >= total[number] / SERVERS / 2:
            return (number + 1) * step
    return float("inf")


def play(contender: Contender, flips: int) -> tuple[list[Flip], list[Call]]:
    ports = {f"server-{number}": free_port() for number in range(SERVERS)}
    backends = Backends({name: Backend(port=port, start=WELL) for name, port in ports.items()})
    try:
        contender.start(ports)
        settle(3)
        caller = begin(contender, Plan(urls=contender.urls, rate=RATE, seconds=LEAD + flips * EVERY, timeout=1.0))
        marks: list[tuple[str, float, float]] = []
        director = threading.Thread(target=_direct, args=(backends, caller.started_at, flips, marks))
        director.start()
        calls = caller.wait()
        director.join()
        return [Flip(calls, *mark) for mark in marks], calls
    finally:
        contender.close()
        backends.close()


def _direct(backends: Backends, began: float, flips: int, marks: list[tuple[str, float, float]]) -> None:
    for number in range(flips):
        name = f"server-{number % SERVERS}"
        time.sleep(max(0.0, began + LEAD + number * EVERY - time.time()))
        backends.become(name, SICK)
        sick_at = time.time() - began
        time.sleep(SICK_FOR)
        backends.become(name, WELL)
        marks.append((name, sick_at, time.time() - began))


def contenders() -> list[Contender]:
    return [
        MascheMesh("masche", callers=CALLERS),
        LibraryMesh(callers=CALLERS),
        Several(lambda: HandEnvoy("LEAST_REQUEST", is_detecting=True), CALLERS),
        Several(lambda: HandEnvoy("ROUND_ROBIN"), CALLERS),
        Several(HaProxy, CALLERS),
        Several(Nginx, CALLERS),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=3)
    parser.add_argument("--only", default="", help="names of contenders, by comma")
    given = parser.parse_args()
    wanted = {name for name in given.only.split(",") if name}
    record = Record(
        "brown-out",
        "One of five servers answers 503 for ten seconds, again and again",
        measures=CARRIED_OUT,
    )
    rows: list[list[str]] = []
    series: dict[str, list[tuple[float, float]]] = {}
    for contender in contenders():
        if wanted and contender.name not in wanted:
            continue
        print(contender.name, flush=True)
        flips, calls = play(contender, given.flips)
        worst, mesh = median(each.worst for each in flips), median(each.mesh for each in flips)
        back = median(each.back_after for each in flips)
        rows.append([contender.name, f"{worst:.0f}", f"{mesh:.0f}", f"{back:.2f}"])
        record.raw[contender.name] = [
            {
                "errors": dict(each.errors),
                "mesh": each.mesh,
                "failed": each.failed,
                "back_after": each.back_after,
            }
            for each in flips
        ]
        errors = Counter(int(call.sent) for call in calls if call.is_failed)
        series[contender.name] = [(float(at), float(errors[at])) for at in range(int(calls[-1].sent) + 1)]
        if contender.name.startswith("masche"):
            ours = "library_" if contender.name == "masche library" else ""
            record.figure(f"{ours}per_client", worst, target="<= 5", is_met=worst <= 5)
            record.figure(f"{ours}per_mesh", mesh, target="<= 10", is_met=mesh <= 10)
            record.figure(f"{ours}back_after", back, unit="s", target="<= 1 s", is_met=back <= 1)
    columns = ["contender", "errors of the worst caller per flip", "errors of all five per flip", "back after s"]
    record.table("Calls lost to a server that answers 503 (median of the flips)", columns, rows)
    path = RESULTS / "brown-out.svg"
    line_plot(path, "Brown-out: errors per second", "seconds", "errors per second", series)
    record.plots.append(path.name)
    record.write()


if __name__ == "__main__":
    main()
