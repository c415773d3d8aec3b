"""Benchmark 13: the link between two zones becomes slow and well again. How soon do calls take the best way there is?

Three zones on one machine with real proxies, mutual TLS and relays between the zones (bytes wait, nothing is dropped).
A round trip a-b takes 2 ms, then 200 ms, then 2 ms again; a-c and b-c take 10 ms. Servers take 20 ms. Callers are in a.
Three services live in one mesh at the same time:

    home     instances in a and b: calls stay at home
    spill    instances in b and c: calls leave b while the link to it is slow
    detour   instances in b alone, and a gateway in c that calls can pass

The best way's 99th percentile is that of the calls which did not take the slow link in the last ten seconds before it
heals; its median is shown beside what it should be: the one before, plus what the network takes longer on that way.
*Away* is the first moment after the change from which for five seconds the 99th percentile is within 1.3 times of it,
*back* the first moment after it heals from which for three seconds four fifths of the calls that went the direct way
before do so again. A *flap* is any change between mostly direct and mostly not, beyond one away and one back.

    python bench/slow_route.py [--rate 100] [--seconds 10,20,15] [--only masche] [--threshold 600]

With --threshold the link a-b is at the very ratio from which it counts as bad, with noise, for so many seconds.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median

from plots import line_plot
from rig.links import RelayedLinks
from rig.load import Backend, Backends, Behaviour, Call, Caller, Plan
from rig.mesh import MascheMesh
from rig.peers import HandEnvoy, settle
from rig.ports import free_port
from rig.record import RESULTS, Record, percentile
from rig.waiting import until

WELL_MS, SLOW_MS, OTHER_MS = 2.0, 200.0, 10.0
SERVICE = Behaviour(latency=20, jitter=1)
CASES: dict[str, dict[str, int]] = {"home": {"a": 2, "b": 1, "c": 2}, "spill": {"b": 2, "c": 2}, "detour": {"b": 1}}
"""Instances by zone; b and c have as many in all, so that ``spill`` begins with halves."""

BEST_EXTRA_MS = {"home": 0.0, "spill": OTHER_MS - WELL_MS, "detour": 2 * OTHER_MS - WELL_MS}
"""What the best way's network takes longer while a-b is slow than the quickest did before."""

NEAR, AWAY_FOR = 1.3, 5.0
AWAY_SECONDS, BACK_SECONDS = 5.0, 10.0
RETURNED, RETURNED_FOR = 0.8, 3.0
MOSTLY, HARDLY = 0.75, 0.25
AT_THE_THRESHOLD_MS = 40.0
"""(40 + 20) ms against (10 + 20) ms: twice."""

TIMEOUT = 5.0
MOVES = {"zone-moved", "detoured", "steered", "ejected", "readmitted", "panic"}
"""Kinds of events that say that traffic moved."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds: before the change, while the link is slow, and after it has healed."""

    before: float
    slow: float
    after: float

    @property
    def whole(self) -> float:
        return self.before + self.slow + self.after


class Run:
    """What one caller saw of one case. ``slow_at`` and ``well_at`` in seconds since it began."""

    def __init__(self, case: str, calls: Sequence[Call], slow_at: float, well_at: float) -> None:
        self.case, self.calls, self.slow_at, self.well_at = case, calls, slow_at, well_at
        self.failed = sum(call.is_failed for call in calls)
        self.before = self.p99(0, slow_at)
        self.usual = median(self._took(0, slow_at))
        self._best = sorted(took for took in self._took(well_at - 10, well_at) if took < SLOW_MS)
        if len(self._best) < 0.1 * len(self._of(well_at - 10, well_at)):
            self._best = []  # it found no other way
        self.best = percentile(self._best, 0.99)

    def _of(self, begin: float, end: float) -> list[Call]:
        return [call for call in self.calls if begin <= call.sent < end]

    def p99(self, begin: float, end: float) -> float:
        return percentile(sorted(self._took(begin, end)), 0.99)

    def _took(self, begin: float, end: float) -> list[float]:
        return [call.took_ms for call in self._of(begin, end)]

    def _near_usual(self) -> float:
        """The median before the change of the zone that was nearest then."""
        near = "a" if self.case == "home" else "b"
        took = sorted(call.took_ms for call in self._of(0, self.slow_at) if f"-{near}-" in call.backend)
        return percentile(took, 0.5)

    # -- which way calls went -----------------------------------------------------------------------------------------

    def is_direct(self, call: Call) -> bool:
        """Whether it went straight to zone b (for ``home``: stayed at home)."""
        if self.case == "detour":
            return not self.usual + BEST_EXTRA_MS["detour"] / 2 < call.took_ms < SLOW_MS
        return f"-{'a' if self.case == 'home' else 'b'}-" in call.backend

    def direct(self, begin: float, end: float) -> float:
        """The share of the calls that went the direct way."""
        calls = self._of(begin, end)
        return sum(map(self.is_direct, calls)) / len(calls) if calls else 0.0

    # -- what is asked ------------------------------------------------------------------------------------------------

    @property
    def away(self) -> float:
        return _first(self.well_at - self.slow_at - AWAY_FOR, self._is_near)

    def _is_near(self, at: float) -> bool:
        return self.p99(self.slow_at + at, self.slow_at + at + AWAY_FOR) <= NEAR * self.best

    @property
    def back(self) -> float:
        wanted = RETURNED * self.direct(0, self.slow_at)
        length = self.calls[-1].sent - self.well_at - RETURNED_FOR
        return _first(length, lambda at: self._is_back(self.well_at + at, wanted))

    def _is_back(self, at: float, wanted: float) -> bool:
        return self.direct(at, at + RETURNED_FOR) >= wanted

    @property
    def flaps(self) -> int:
        usual = self.direct(0, self.slow_at)
        is_direct, changes = True, 0
        for at in range(int(self.calls[-1].sent)):
            share = self.direct(at, at + 1) / usual if usual else 0.0
            if (share < HARDLY) if is_direct else (share > MOSTLY):
                is_direct, changes = not is_direct, changes + 1
        return max(0, changes - 2)

    def over_time(self, value: Callable[[float, float], float]) -> list[tuple[float, float]]:
        return [(at, value(at, at + 1)) for at in range(int(self.calls[-1].sent))]

    def figures(self) -> dict[str, float]:
        return {
            "calls": len(self.calls),
            "failed": self.failed,
            "p99_before_ms": self.before,
            "p99_first_5_s_ms": self.p99(self.slow_at, self.slow_at + AWAY_SECONDS),
            "p99_after_5_s_ms": self.p99(self.slow_at + AWAY_SECONDS, self.well_at),
            "p99_best_way_ms": self.best,
            "p50_best_way_ms": percentile(self._best, 0.5),
            "p50_it_should_be_ms": self._near_usual() + BEST_EXTRA_MS[self.case],
            "away_s": self.away,
            "back_s": self.back,
            "flaps": self.flaps,
        }


def _first(length: float, holds: Callable[[float], bool], step: float = 0.25) -> float:
    """The first of the moments up to ``length`` at which something holds; infinity when there is none."""
    moments = (number * step for number in range(max(1, int(length / step))))
    return next((at for at in moments if holds(at)), float("inf"))


# -- who takes part -------------------------------------------------------------------------------------------------


def servers(case: str) -> dict[str, str]:
    """The zones of a case's instances, by name."""
    return {f"{case}-{zone}-{n}": zone for zone, count in CASES[case].items() for n in range(count)}


EVERY_SERVER = {name: zone for case in CASES for name, zone in servers(case).items()}


class Masche:
    """One control plane, a sidecar beside everything, and a gateway in zone c."""

    name, warm = "masche", 8.0

    def __init__(self, links: RelayedLinks) -> None:
        self.links, self.mesh = links, MascheMesh()
        self.backends: Backends | None = None

    def start(self) -> dict[str, str]:
        """Return the URL of each case."""
        places, mesh = self.links.places, self.mesh
        ports = {name: free_port() for name in EVERY_SERVER}
        self.backends = Backends({name: Backend(port=port, start=SERVICE) for name, port in ports.items()})
        mesh.stage.start_control_plane()
        mesh.stage.start("carrier", ["gateway", "--east-west", *places.gateway_options("c")])
        for name, zone in EVERY_SERVER.items():
            mesh.run(name, name.split("-")[0], port=ports[name], options=places.run_options(zone))
        for case in CASES:
            mesh.until_ready(case, len(servers(case)))
        urls = {case: mesh.caller(f"caller-of-{case}", case, options=places.run_options("a")) for case in CASES}
        until(self._is_whole, "not every proxy holds what it should")
        return urls

    def _is_whole(self) -> bool:
        proxies = self.mesh.stage.status().proxies
        carriers = [each for each in proxies if each.workload.startswith("masche-system/")]
        return bool(carriers) and all(each.state == "READY" and each.is_in_sync for each in proxies)

    def told(self, began: float) -> list[str]:
        """What was said about traffic that moved, by seconds since then."""
        found = self.mesh.client.events(after=0, limit=1000).events
        return [f"{each.at - began:.1f} s: {each.message}" for each in found if each.kind in MOVES]

    def close(self) -> None:
        self.mesh.close()
        if self.backends:
            self.backends.close()


class ByHand:
    """One Envoy per case with a static configuration, in zone a, without TLS and with nothing beside the servers."""

    warm = 2.0

    def __init__(self, policy: str, links: RelayedLinks) -> None:
        self.links, self.name = links, f"envoy {policy.lower().replace('_', ' ')}"
        places = links.places
        hosts = {name: places.outside(zone) for name, zone in EVERY_SERVER.items()}
        self.envoys = {case: HandEnvoy(policy, hosts=hosts, source=places.inside("a")) for case in CASES}
        self.backends: Backends | None = None

    def start(self) -> dict[str, str]:
        inside = self.links.places.inside
        ports = {name: free_port() for name in EVERY_SERVER}
        self.backends = Backends(
            {name: Backend(port=ports[name], start=SERVICE, host=inside(zone)) for name, zone in EVERY_SERVER.items()}
        )
        for case, each in self.envoys.items():
            each.start({name: ports[name] for name in servers(case)})
        return {case: each.urls[0] for case, each in self.envoys.items()}

    def told(self, began: float) -> list[str]:  # noqa: ARG002 - nobody here says anything
        return []

    def close(self) -> None:
        for each in self.envoys.values():
            each.close()
        if self.backends:
            self.backends.close()


# -- how it goes ----------------------------------------------------------------------------------------------------


def play(
    contender: Masche | ByHand, links: RelayedLinks, times: Times, rate: float
) -> tuple[dict[str, Run], list[str]]:
    """Let the link become slow and well again under one contender."""
    links.set("a", "b", round_trip_ms=WELL_MS)
    try:
        urls = contender.start()
        _warm(urls, rate, contender.warm)
        callers = {case: _caller(url, rate, times.whole) for case, url in urls.items()}
        began = time.time()
        marks: list[float] = []
        for at, length in ((times.before, SLOW_MS), (times.before + times.slow, WELL_MS)):
            time.sleep(max(0.0, began + at - time.time()))
            links.set("a", "b", round_trip_ms=length)
            marks.append(time.time())
        runs = {
            case: Run(case, each.wait(), *(mark - each.started_at for mark in marks)) for case, each in callers.items()
        }
        return runs, contender.told(began)
    finally:
        contender.close()


def _warm(urls: Mapping[str, str], rate: float, seconds: float) -> None:
    """Wait until all are reached, open connections, and let what measures the usual get to know it."""
    for url in urls.values():
        until(lambda url=url: not any(call.is_failed for call in _caller(url, 20, 0.5).wait()), f"{url} is not reached")
    for each in [_caller(url, rate, seconds) for url in urls.values()]:
        each.wait()


def _caller(url: str, rate: float, seconds: float) -> Caller:
    return Caller(Plan(urls=[url], rate=rate, seconds=seconds, timeout=TIMEOUT))


def hover(links: RelayedLinks, seconds: float, rate: float) -> Run:
    """Keep the link a-b where it is neither well nor bad, with noise, and return what ``spill`` saw."""
    contender, chance = Masche(links), Random(7)
    links.set("a", "b", round_trip_ms=WELL_MS)
    try:
        url = contender.start()["spill"]
        _warm({"spill": url}, rate, contender.warm)
        caller = _caller(url, rate, 10 + seconds)
        time.sleep(10)
        while time.time() < caller.started_at + 10 + seconds:
            links.set("a", "b", round_trip_ms=AT_THE_THRESHOLD_MS * chance.lognormvariate(0.0, 0.2))
            time.sleep(1)
        run = Run("spill", caller.wait(), 10, 10 + seconds)
        links.set("a", "b", round_trip_ms=WELL_MS)
        return run
    finally:
        contender.close()


# -- results --------------------------------------------------------------------------------------------------------


def judge(record: Record, runs: Mapping[str, Run]) -> None:
    """The figures of the mesh, with their targets."""
    for case, run in runs.items():
        found = run.figures()
        record.figure(
            f"{case}-away", found["away_s"], unit="s", target="<= 5 s", is_met=found["away_s"] <= AWAY_SECONDS
        )
        record.figure(
            f"{case}-back", found["back_s"], unit="s", target="<= 10 s", is_met=found["back_s"] <= BACK_SECONDS
        )
    failed, flaps = sum(run.failed for run in runs.values()), sum(run.flaps for run in runs.values())
    record.figure("failed", failed, target="0", is_met=failed == 0)
    record.figure("flaps", flaps, target="0", is_met=flaps == 0)


def show(record: Record, found: Mapping[str, Mapping[str, Run]]) -> None:
    """Tables, plots and raw figures of everybody."""
    columns = list(next(iter(next(iter(found.values())).values())).figures())
    rows = [
        [case, name, *(f"{value:.4g}" for value in runs[case].figures().values())]
        for case in CASES
        for name, runs in found.items()
    ]
    record.table("A link becomes slow and well again", ["case", "contender", *columns], rows)
    record.raw.update({name: {case: run.figures() for case, run in runs.items()} for name, runs in found.items()})
    for case in CASES:
        title = f"Slow route, {case}: 99th percentile of each second"
        path = RESULTS / f"slow-route-{case}.svg"
        line_plot(path, title, "s", "ms", {name: runs[case].over_time(runs[case].p99) for name, runs in found.items()})
        record.plots.append(path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=100, help="calls per second of each case")
    parser.add_argument("--seconds", default="10,20,15", help="before, while slow, after")
    parser.add_argument("--only", default="", help="names of contenders, by comma")
    parser.add_argument("--threshold", type=float, default=0.0, metavar="SECONDS", help="600 for the long form")
    given = parser.parse_args()
    before, slow, after = map(float, given.seconds.split(","))
    wanted = {name for name in given.only.split(",") if name}
    record = Record(
        "slow-route",
        "The link between two zones becomes slow",
        measures=("src/masche/compiler/steer", "src/masche/compiler/localities.py", "src/masche/control/helm.py"),
    )
    links = RelayedLinks(["a", "b", "c"])
    try:
        for zone in ("a", "b"):
            links.set(zone, "c", round_trip_ms=OTHER_MS)
        found: dict[str, dict[str, Run]] = {}
        for contender in (Masche(links), ByHand("ROUND_ROBIN", links), ByHand("LEAST_REQUEST", links)):
            if not wanted or contender.name in wanted:
                print(contender.name, flush=True)
                found[contender.name], told = play(
                    contender, links, Times(before=before, slow=slow, after=after), given.rate
                )
                for sentence in told:
                    record.note(sentence)
                settle(1)
        show(record, found)
        if "masche" in found:
            judge(record, found["masche"])
        if given.threshold:
            flaps = hover(links, given.threshold, given.rate).flaps
            record.figure("threshold-flaps", flaps, target="0", is_met=flaps == 0)
    finally:
        links.close()
    record.write()


if __name__ == "__main__":
    main()
