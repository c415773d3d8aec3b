"""Benchmark 7: one of eleven servers becomes slow for half a minute. How many calls fail, and how many needlessly?

Eleven servers answer in 167 +- 5 ms; one goes to 2 s for 30 s. 1000 calls/s, open loop, given up after 1 s, no retries.
The window runs from 10 s before the change to 20 s after the recovery. A failure *before it could be known* was sent
before the first slow call had taken longer than the p99 of its peers; *probes* are those by which a contender finds out
whether the server is well again (at most two per second); the rest were avoidable.

    python bench/slow_replica.py [--rounds 7] [--quick] [--only masche]
"""

import argparse
import threading
import time
from collections import Counter
from collections.abc import Sequence
from statistics import median

from plots import line_plot
from rig import grpc_peer
from rig.contender import Contender, begin
from rig.grpc_peer import GrpcMesh
from rig.library import CARRIED_OUT, LibraryMesh
from rig.load import Backend, Backends, Behaviour, Call, Plan
from rig.mesh import MascheMesh
from rig.peers import HandEnvoy, HaProxy, Nginx, settle
from rig.ports import free_port
from rig.record import RESULTS, Record, percentile

SERVERS = 11
WELL = Behaviour(latency=167, jitter=5)
SLOW = Behaviour(latency=2000, jitter=5)
VICTIM = "server-3"
TIMEOUT = 1.0
KNOWN_AFTER = 0.172 + 0.005
"""Seconds after the change at which its first call has taken longer than those of its peers ever do."""

PROBES_PER_SECOND = 2.0
TARGET_TOTAL = 0.0005

TIMED = """
apiVersion: masche.dev/v1
kind: TrafficPolicy
metadata: {name: timed, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: servers}]
  timeouts: {request: 1s}
"""
"""The callers' patience, told to the mesh: then its proxies see a call fail at the moment the caller leaves."""

HEDGED = """
apiVersion: masche.dev/v1
kind: TrafficPolicy
metadata: {name: hedged, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: servers}]
  timeouts: {request: 1s}
  hedging: {enabled: true, after: 250ms}
"""


class Window:
    """One run of one contender. Times in seconds since its start."""

    def __init__(self, calls: Sequence[Call], slow_at: float, well_at: float) -> None:
        self.calls, self.slow_at, self.well_at = calls, slow_at, well_at
        failed = [call for call in calls if call.is_failed]
        self.failed = len(failed)
        self.unknowable = sum(slow_at - TIMEOUT <= call.sent <= slow_at + KNOWN_AFTER for call in failed)
        allowed = round(PROBES_PER_SECOND * (well_at - slow_at))
        self.probes = min(self.failed - self.unknowable, allowed)
        self.avoidable = self.failed - self.unknowable - self.probes
        self.share = self.failed / max(1, len(calls))
        during = sorted(call.took_ms for call in calls if slow_at + 2 <= call.sent <= well_at)
        self.p99 = percentile(during, 0.99)
        after = Counter(call.backend for call in calls if call.sent >= well_at + 10)
        self.returned = SERVERS * after[VICTIM] / max(1, after.total())

    def p99_over_time(self, step: float = 1.0) -> list[tuple[float, float]]:
        return [(at, percentile(each, 0.99)) for at, each in self._slices(step)]

    def _slices(self, step: float) -> list[tuple[float, list[float]]]:
        slices: dict[int, list[float]] = {}
        for call in self.calls:
            slices.setdefault(int(call.sent / step), []).append(call.took_ms)
        return [(number * step, sorted(each)) for number, each in sorted(slices.items())]

    def share_over_time(self, step: float = 1.0) -> list[tuple[float, float]]:
        total: Counter[int] = Counter(int(call.sent / step) for call in self.calls)
        there: Counter[int] = Counter(
            int(call.sent / step) for call in self.calls if call.backend == VICTIM or call.is_failed
        )
        return [(number * step, 100 * there[number] / total[number]) for number in sorted(total)]


def play(contender: Contender, *, before: float, slow: float, after: float, rate: float) -> Window:
    """Run one contender through the whole window."""
    ports = {f"server-{number}": free_port() for number in range(SERVERS)}
    backends = Backends({name: Backend(port=port, start=WELL) for name, port in ports.items()})
    try:
        contender.start(ports)
        settle(3)
        begin(
            contender, Plan(urls=contender.urls, rate=rate / 5, seconds=5, timeout=TIMEOUT)
        ).wait()  # connections are open
        caller = begin(contender, Plan(urls=contender.urls, rate=rate, seconds=before + slow + after, timeout=TIMEOUT))
        marks: dict[str, float] = {}
        director = threading.Thread(target=_direct, args=(backends, caller.started_at, before, slow, marks))
        director.start()
        calls = caller.wait()
        director.join()
        return Window(calls, marks["slow"], marks["well"])
    finally:
        contender.close()
        backends.close()


def _direct(backends: Backends, began: float, before: float, slow: float, marks: dict[str, float]) -> None:
    for name, at, behaviour in (("slow", before, SLOW), ("well", before + slow, WELL)):
        time.sleep(max(0.0, began + at - time.time()))
        backends.become(VICTIM, behaviour)
        marks[name] = time.time() - began


def contenders() -> list[Contender]:
    return [
        MascheMesh("masche"),
        LibraryMesh(),
        HandEnvoy("LEAST_REQUEST"),
        HandEnvoy("LEAST_REQUEST", is_detecting=True, timeout=TIMEOUT),
        HandEnvoy("ROUND_ROBIN"),
        HaProxy(),
        Nginx(),
        GrpcMesh(),
        MascheMesh("masche with a timeout", policy=TIMED),
        MascheMesh("masche with hedging", policy=HEDGED),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="3 s, 8 s and 5 s instead of 10, 30 and 20")
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--only", default="", help="names of contenders, by comma")
    given = parser.parse_args()
    before, slow, after = (3, 8, 5) if given.quick else (10, 30, 20)
    wanted = {name for name in given.only.split(",") if name}
    record = Record(
        "slow-replica",
        "One of eleven servers becomes slow",
        measures=(*CARRIED_OUT, *grpc_peer.CARRIED_OUT),
    )
    runs: dict[str, list[Window]] = {}
    for number in range(given.rounds):
        for contender in contenders():
            if wanted and contender.name not in wanted:
                continue
            print(f"round {number + 1} of {given.rounds}: {contender.name}", flush=True)
            try:
                window = play(contender, before=before, slow=slow, after=after, rate=given.rate)
            except SystemExit as error:  # what was measured of the others is worth keeping
                record.note(f"{contender.name} could not be measured: {error}")
                continue
            runs.setdefault(contender.name, []).append(window)
    report(record, runs)


def report(record: Record, runs: dict[str, list[Window]]) -> None:
    rows: list[list[str]] = []
    for name, windows in runs.items():
        middle = {
            key: median(getattr(window, key) for window in windows)
            for key in ("failed", "unknowable", "probes", "avoidable", "share", "p99", "returned")
        }
        record.raw[name] = [
            {key: getattr(window, key) for key in (*middle, "slow_at", "well_at")} | {"calls": len(window.calls)}
            for window in windows
        ]
        rows.append(
            [
                name,
                *(f"{middle[key]:.0f}" for key in ("failed", "unknowable", "probes", "avoidable")),
                f"{100 * middle['share']:.3f} %",
                f"{middle['p99']:.0f}",
                f"{middle['returned']:.2f}",
            ]
        )
        if name in {"masche", "masche library"}:
            ours = "library_" if name == "masche library" else ""
            record.figure(f"{ours}avoidable", middle["avoidable"], target="0", is_met=middle["avoidable"] == 0)
            record.figure(
                f"{ours}failed_share",
                round(middle["share"], 6),
                target=f"<= {TARGET_TOTAL}",
                is_met=middle["share"] <= TARGET_TOTAL,
            )
        elif name == "masche with hedging":
            record.figure("hedged_failed", middle["failed"], target="<= 1", is_met=middle["failed"] <= 1)
    columns = [
        "contender",
        "failed",
        "before it could be known",
        "probes",
        "avoidable",
        "share",
        "p99 ms while slow",
        "its share 10 s after (1 is fair)",
    ]
    record.table("Calls that failed (median of the rounds)", columns, rows)
    for suffix, what, values in (
        ("latency", "p99 in ms", Window.p99_over_time),
        ("share", "percent of calls at the slow server or failed", Window.share_over_time),
    ):
        path = RESULTS / f"slow-replica-{suffix}.svg"
        series = {name: values(windows[0]) for name, windows in runs.items()}
        line_plot(path, f"Slow replica: {what}", "seconds", what, series)
        record.plots.append(path.name)
    record.write()


if __name__ == "__main__":
    main()
