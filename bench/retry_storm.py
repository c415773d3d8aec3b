"""Benchmark 11: a storm of repeats. Three tiers, the last one is out for five seconds; what do repeats make of it?

front -> middle -> leaf; every hop repeats up to three times. Three leaves do 50 calls/s each; the load is 80 % of it.
For 5 s every leaf answers 503. *Amplification* is attempts at the leaf by calls that callers made while it was out.
*Recovery* is the time from the end of the outage until 95 % of the calls of a half second succeed. After that, twice
the capacity is asked for: *goodput* is what is answered well in these ten seconds, as a share of the capacity; what
still stood in queues at their end does not count.

Leaves did 100 calls/s each before: 600 calls/s through six proxies, or through Python in three places, take all of two
cores, and what was measured was how the machine shared them out. The table says how busy it was.

    python bench/retry_storm.py [--rounds 3] [--only masche]
"""

import argparse
import itertools
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Protocol

from plots import line_plot
from rig.contender import begin as begin_calls
from rig.library import CARRIED_OUT, LibraryMesh
from rig.load import Backend, Backends, Behaviour, Call, Plan
from rig.machine import processor_seconds
from rig.mesh import NAMESPACE, MascheMesh
from rig.peers import HandEnvoy, settle
from rig.ports import free_port
from rig.record import RESULTS, Record

LEAVES, PER_LEAF = 3, 50.0
SLOTS, LATENCY = 2, 40.0
"""Two at a time, 40 ms each: one leaf does 50 calls a second."""

CAPACITY = LEAVES * PER_LEAF
WELL = Behaviour(latency=LATENCY, slots=SLOTS, queue=20)
OUT = Behaviour(latency=5, status=503)
TIER = Behaviour(latency=1)
BEFORE, OUTAGE, AFTER, DOUBLE = 8.0, 5.0, 15.0, 10.0
TIMEOUT = 2.0
RETRIES = 3

ROUTES = "---".join(
    f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {service}, namespace: {NAMESPACE}}}
spec:
  parentRefs: [{{group: "", kind: Service, name: {service}}}]
  rules:
    - retry: {{attempts: {RETRIES}, codes: [503], backoff: 25ms}}
      backendRefs: [{{name: {service}, port: 80}}]
"""
    for service in ("front", "middle", "servers")
)

Start = Callable[[Mapping[str, str]], Backends]
"""Starts the servers, given the URL that each tier calls."""


class Chain(Protocol):
    """Three tiers with something between them. ``urls``: where the callers of the first tier call."""

    name: str
    urls: list[str]

    def start(self, ports: Mapping[str, int], begin: Start) -> Backends: ...

    def close(self) -> None: ...


class EnvoyChain:
    """One Envoy before each tier, three retries each, no budget: what one writes first."""

    def __init__(self, name: str, retries: int) -> None:
        self.name = name
        tiers = ("front", "middle", "leaf")
        self._envoys = {tier: HandEnvoy("LEAST_REQUEST", retries=retries, timeout=TIMEOUT) for tier in tiers}
        self.urls = self._envoys["front"].urls

    def start(self, ports: Mapping[str, int], begin: Start) -> Backends:
        for tier, envoy in self._envoys.items():
            envoy.start({name: port for name, port in ports.items() if name.startswith(tier)})
        return begin({"front": self._envoys["middle"].urls[0], "middle": self._envoys["leaf"].urls[0]})

    def close(self) -> None:
        for envoy in self._envoys.values():
            envoy.close()


class MascheChain(MascheMesh):
    """A sidecar beside every server of every tier, with the same number of retries asked for."""

    def start(self, ports: Mapping[str, int], begin: Start) -> Backends:  # type: ignore[override] - servers come last here
        self.stage.start_control_plane()
        services = {"front": "front", "middle": "middle", "leaf": "servers"}
        for name, port in ports.items():
            self.run(name, services[name.partition("-")[0]], port=port)
        nexts = {"front": self.url_of("front-0", "middle"), "middle": self.url_of("middle-0", "servers")}
        backends = begin(nexts)
        for service in services.values():
            self.until_ready(service, sum(services[name.partition("-")[0]] == service for name in ports))
        self.apply(ROUTES)
        self.urls = [self.caller("caller", "front")]
        return backends


class LibraryChain(LibraryMesh):
    """Both callers in the middle, and the first one, carry out the mesh themselves; the leaves have sidecars."""

    def start(self, ports: Mapping[str, int], begin: Start) -> Backends:  # type: ignore[override] - as above
        self.stage.start_control_plane()
        backends = begin({})
        for name, port in ports.items():
            if name.startswith("leaf"):
                self.run(name, "servers", port=port)
        self.until_ready("servers", LEAVES)
        for service, following in (("middle", "servers"), ("front", "middle")):
            words = ["serve", "rig.library_tier:app", "--service", service, "--namespace", NAMESPACE]
            extra = {"NEXT": f"http://{following}.{NAMESPACE}/", "PYTHONPATH": ":".join(sys.path)}
            self.stage.start(f"{service}-0", [*words, "--port", str(free_port())], extra)
            self.until_ready(service, 1)
        self.apply(ROUTES)
        self.urls = [self.caller("caller", "front")]
        return backends


CONTENDERS: Mapping[str, Callable[[], Chain]] = {
    "masche": lambda: MascheChain("masche"),
    "masche library": LibraryChain,
    "envoy, 3 retries": lambda: EnvoyChain("envoy, 3 retries", RETRIES),
    "envoy, none": lambda: EnvoyChain("envoy, none", 0),
}

OURS = {"masche": "", "masche library": "library_"}
"""What the names of the figures begin with."""

COLUMNS = (
    "contender",
    "attempts per call during the outage",
    "recovery s",
    "goodput at twice the capacity",
    "cores busy meanwhile, everything",
)


class Storm:
    """What one contender made of it. Times in seconds since the start."""

    def __init__(
        self, calls: Sequence[Call], attempts: Sequence[tuple[float, int]], out_at: float, well_at: float
    ) -> None:
        self.calls, self.attempts, self.out_at, self.well_at = calls, attempts, out_at, well_at
        offered = sum(out_at <= call.sent < well_at for call in calls)
        self.amplification = (self._attempts_at(well_at) - self._attempts_at(out_at)) / max(1, offered)
        self.recovery = self._recovery()
        self.goodput = 0.0
        self.cores = 0.0
        """How many cores the whole machine used while twice the capacity was asked for."""

    def _attempts_at(self, at: float) -> int:
        """Attempts at the leaves until then."""
        return max((count for when, count in self.attempts if when <= at + 0.05), default=0)

    def _recovery(self, step: float = 0.5) -> float:
        total, well = Counter[int](), Counter[int]()
        for call in self.calls:
            if call.sent >= self.well_at:
                number = int((call.sent - self.well_at) / step)
                total[number] += 1
                well[number] += not call.is_failed
        good = {number for number in total if well[number] >= 0.95 * total[number]}
        return next((number * step for number in sorted(total) if number in good), float("inf"))


def play(chain: Chain) -> Storm:
    names = ("front-0", "middle-0", *(f"leaf-{number}" for number in range(LEAVES)))
    ports = {name: free_port() for name in names}
    made: list[Backends] = []

    def begin(nexts: Mapping[str, str]) -> Backends:
        made.append(Backends({name: _backend(name, port, nexts) for name, port in ports.items()}))
        return made[0]

    try:
        backends = chain.start(ports, begin)
        settle(3)
        rate = 0.8 * CAPACITY
        caller = begin_calls(chain, Plan(urls=chain.urls, rate=rate, seconds=BEFORE + OUTAGE + AFTER, timeout=TIMEOUT))
        attempts: list[tuple[float, int]] = []
        marks: dict[str, float] = {}
        director = threading.Thread(target=_direct, args=(backends, caller.started_at, attempts, marks))
        director.start()
        calls = caller.wait()
        director.join()
        storm = Storm(calls, attempts, marks["out"], marks["well"])
        before = processor_seconds()
        doubled = begin_calls(chain, Plan(urls=chain.urls, rate=2 * CAPACITY, seconds=DOUBLE, timeout=TIMEOUT)).wait()
        storm.cores = (processor_seconds() - before) / (DOUBLE + _over(doubled))
        storm.goodput = sum(not call.is_failed and _ended(call) < DOUBLE for call in doubled) / DOUBLE / CAPACITY
        return storm
    finally:
        chain.close()
        for backends in made:
            backends.close()


def _ended(call: Call) -> float:
    """When a call was over, seconds since the start."""
    return call.sent + call.took_ms / 1e3


def _over(calls: Sequence[Call]) -> float:
    """How long the last of them lasted beyond the time in which calls were made."""
    return max(0.0, max(map(_ended, calls)) - DOUBLE)


def _backend(name: str, port: int, nexts: Mapping[str, str]) -> Backend:
    following = nexts.get(name.partition("-")[0], "")
    return Backend(port=port, start=TIER if following else WELL, calls=following, timeout_ms=TIMEOUT * 1000)


def _direct(backends: Backends, began: float, attempts: list[tuple[float, int]], marks: dict[str, float]) -> None:
    behaviours = {"out": (BEFORE, OUT), "well": (BEFORE + OUTAGE, WELL)}
    while (now := time.time() - began) < BEFORE + OUTAGE + AFTER:
        for name, (at, behaviour) in behaviours.items():
            if now >= at and name not in marks:
                for number in range(LEAVES):
                    backends.become(f"leaf-{number}", behaviour)
                marks[name] = time.time() - began
        counts = backends.counts()
        leaves = sum(each["arrived"] for name, each in counts.items() if name.startswith("leaf"))
        attempts.append((time.time() - began, leaves))
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names of contenders, by comma")
    parser.add_argument("--rounds", type=int, default=1, help="what is told of each is the median of so many")
    given = parser.parse_args()
    wanted = {name for name in given.only.split(",") if name}
    record = Record(
        "retry-storm",
        "The last of three tiers is out for five seconds",
        measures=(*CARRIED_OUT, "src/masche/agent/distress.py"),
    )
    found = {
        name: [_round(name, make) for _ in range(given.rounds)]
        for name, make in CONTENDERS.items()
        if not wanted or name in wanted
    }
    for name, storms in found.items():
        record.raw[name] = [_measured(storm) for storm in storms]
    for name, prefix in OURS.items():
        if name in found:
            _figures(record, prefix, _median(found[name]))
    record.table("A storm of repeats", COLUMNS, [_row(name, _median(storms)) for name, storms in found.items()])
    if given.rounds > 1:
        record.note(f"Medians of {given.rounds} rounds; the plot shows the last of them.")
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        record.note("All of it ran ahead of whatever else the machine did (real-time priority), every contender alike.")
    path = RESULTS / "retry-storm.svg"
    series = {name: _rates(storms[-1].attempts) for name, storms in found.items()}
    line_plot(path, "Retry storm: attempts per second at the leaf", "seconds", "attempts per second", series)
    record.plots.append(path.name)
    record.write()


def _round(name: str, make: Callable[[], Chain]) -> Storm:
    storm = play(make())
    print(name, _measured(storm), flush=True)
    return storm


def _measured(storm: Storm) -> dict[str, float]:
    return {name: getattr(storm, name) for name in ("amplification", "recovery", "goodput", "cores")}


def _median(storms: Sequence[Storm]) -> dict[str, float]:
    rounds = [_measured(storm) for storm in storms]
    return {name: median(each[name] for each in rounds) for name in rounds[0]}


def _row(name: str, found: Mapping[str, float]) -> list[str]:
    goodput = f"{100 * found['goodput']:.0f} %"
    return [name, f"{found['amplification']:.2f}", f"{found['recovery']:.1f}", goodput, f"{found['cores']:.1f}"]


def _figures(record: Record, prefix: str, found: Mapping[str, float]) -> None:
    amplification, recovery, goodput = found["amplification"], found["recovery"], found["goodput"]
    record.figure(f"{prefix}amplification", round(amplification, 3), target="<= 1.10", is_met=amplification <= 1.1)
    record.figure(f"{prefix}recovery", recovery, unit="s", target="<= 1 s", is_met=recovery <= 1)
    record.figure(f"{prefix}goodput", round(goodput, 3), target=">= 0.95", is_met=goodput >= 0.95)


def _rates(attempts: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
    by_half: dict[int, int] = {}
    for at, count in attempts:
        by_half[int(at * 2)] = count
    points = sorted(by_half.items())
    return [(half / 2, 2.0 * (count - before)) for (_, before), (half, count) in itertools.pairwise(points)]


if __name__ == "__main__":
    main()
