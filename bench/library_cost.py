"""What a call costs in the library's own pipeline: match, pick, breaker, limits, record, trace; no network, no client.

The whole driver runs, with an exchange that answers at once and does nothing else, and a recorder that only counts.
The processor's time is taken, in rounds, and the best round counts: what disturbs a round is not the pipeline's. What
an empty call of a function costs in the same process says how fast the machine was meanwhile.

    python bench/library_cost.py [--calls 20000] [--rounds 7] [--profile]
"""

import argparse
import cProfile
import pstats
import sys
import time
from collections import deque
from concurrent.futures import Future
from random import Random
from statistics import median
from typing import Any

from rig.record import Record

from masche.library.core.exchange import Answer, Asked, Blame, Ending, Head, Target
from masche.library.core.facade import CallOptions, Facade
from masche.library.core.ports import Called, Known, Tried
from masche.library.core.sync_driver import SyncDriver
from masche.model.refs import PortRef
from masche.model.told import Destination
from masche.model.view import (
    Backend,
    Cluster,
    Endpoints,
    EndpointView,
    Forward,
    Locality,
    PathKind,
    Protocol,
    RequestMatch,
    Retry,
    Route,
    ValueKind,
    ValueMatch,
    VirtualHost,
)
from masche.traffic.request import Headers, Request

TARGETS_US = {10: 15.0, 1000: 25.0}
"""Microseconds per call, by the number of endpoints."""

UNDER_WAY = 16
"""So many answers are still being read when the next call is made."""

PORT = PortRef("shop", "orders", 80)
SENT: Headers = (
    ("accept", "*/*"),
    ("accept-encoding", "gzip, deflate"),
    ("user-agent", "bench/1"),
    ("content-type", "application/json"),
)
HEAD = Head(200, (("content-type", "application/json"), ("content-length", "2"), ("x-masche-service-us", "812")))


class Exchange:
    """A client that is answered before it asks."""

    is_spent = False

    def attempt(self, target: Target) -> Head:  # noqa: ARG002 - as it is called
        return HEAD

    def outside(self, request: Request) -> Ending:
        raise NotImplementedError

    def drop(self, raw: Head) -> None: ...

    def head(self, raw: Head) -> Head:
        return raw

    def blame(self, error: Exception) -> Blame:  # noqa: ARG002 - as it is called
        return Blame.OURS

    def finished(self, raw: Head, headers: Headers, ending: Ending) -> Ending:  # noqa: ARG002 - as it is called
        return ending

    def answered(self, answer: Answer) -> Ending:
        raise AssertionError(answer)

    def timed_out(self, why: str) -> Exception:
        return TimeoutError(why)


class World:
    """Everything that a call asks for, and answers at once."""

    spiffe_id = "spiffe://mesh.local/ns/shop/sa/web"

    def __init__(self, endpoints: int) -> None:
        self._known = known(endpoints)
        self.calls = self.attempts = 0

    def known(self, authority: str) -> Known | None:  # noqa: ARG002 - as it is called
        return self._known

    def want(self, authority: str) -> "Future[Known]":
        raise NotImplementedError

    def waiting_for(self) -> str:
        return ""

    def client_context(self, identities: tuple[str, ...], alpn: tuple[str, ...] = ()) -> Any:
        raise NotImplementedError

    def server_context(self, alpn: tuple[str, ...] = ()) -> Any:
        raise NotImplementedError

    def tried(self, tried: Tried) -> None:  # noqa: ARG002 - as it is called
        self.attempts += 1

    def called(self, called: Called) -> None:  # noqa: ARG002 - as it is called
        self.calls += 1


def known(endpoints: int) -> Known:
    """A service with five rules, of which the last one matches."""
    to = Forward(
        backends=(Backend(cluster=PORT),),
        timeout=15.0,
        retry=Retry(attempts=2, codes=(503,), any_method=True, max_backoff=0.25),
    )
    rules = [RequestMatch(path=f"/other-{number}") for number in range(3)]
    rules.append(RequestMatch(headers=(ValueMatch(name="x-version", kind=ValueKind.EXACT, value="2"),)))
    rules.append(RequestMatch(path_kind=PathKind.PREFIX, path="/"))
    routes = tuple(Route(name=f"shop/orders rules[{at}]", match=each, action=to) for at, each in enumerate(rules))
    views = tuple(
        EndpointView(address=f"10.0.{number // 250}.{number % 250 + 1}", port=8080, workload=f"shop/orders-{number}")
        for number in range(endpoints)
    )
    cluster = Cluster(service=PORT, protocol=Protocol.HTTP, identities=("spiffe://mesh.local/ns/shop/sa/orders",))
    return Known(
        host=VirtualHost(hosts=("orders",), routes=routes),
        destinations={PORT.path: Destination(name=PORT.path, cluster=cluster)},
        endpoints={PORT.path: Endpoints(service=PORT, localities=(Locality(zone="a", priority=0, endpoints=views),))},
    )


def run(driver: SyncDriver, calls: int) -> None:
    """Make so many calls, of which some are still being read when the next ones begin."""
    exchange = Exchange()
    reading: deque[Ending] = deque()
    for number in range(calls):
        request = Request(method="GET", target=f"/items/{number}?full=1", authority="orders", headers=SENT)
        reading.append(driver.call(Asked(request, 5.0), exchange))
        if len(reading) > UNDER_WAY:
            reading.popleft().over(received=2)
    for each in reading:
        each.over()


def driver(endpoints: int) -> SyncDriver:
    world = World(endpoints)
    facade = Facade(
        knowledge=world, identity=world, recorder=world, options=CallOptions(caller="shop/web"), rng=Random(1)
    )
    return SyncDriver(lambda: facade)


def measure(endpoints: int, calls: int, rounds: int) -> list[float]:
    """Microseconds of the processor per call, for each round."""
    made = driver(endpoints)
    run(made, calls)
    found: list[float] = []
    for _ in range(rounds):
        began = time.process_time()
        run(made, calls)
        found.append((time.process_time() - began) / calls * 1e6)
    return found


def empty_call(count: int = 1_000_000) -> float:
    """Nanoseconds of the processor for a call of a function that does nothing."""

    def nothing() -> None: ...

    began = time.process_time()
    for _ in range(count):
        nothing()
    return (time.process_time() - began) / count * 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--profile", action="store_true", help="say where the time goes, instead of how much it is")
    given = parser.parse_args()
    if given.profile:
        profile(given.calls)
        return 0
    record = Record(
        name="library-cost",
        title="What a call costs in the library's own pipeline",
        measures=("src/masche/library/core", "src/masche/traffic"),
    )
    found = {endpoints: measure(endpoints, given.calls, given.rounds) for endpoints in TARGETS_US}
    machine_ns = min(empty_call() for _ in range(3))
    for endpoints, rounds in found.items():
        target = TARGETS_US[endpoints]
        name = f"us_per_call_{endpoints}_endpoints"
        record.figure(name, min(rounds), unit="us", target=f"<= {target:g}", is_met=min(rounds) <= target)
    record.figure("empty_function_call", machine_ns, unit="ns")
    record.table(
        "Microseconds of the processor per call",
        ("endpoints", "best round", "median round", "target"),
        [
            (str(each), f"{min(rounds):.1f}", f"{median(rounds):.1f}", f"{TARGETS_US[each]:g}")
            for each, rounds in found.items()
        ],
    )
    record.raw = {"rounds_us": {str(each): rounds for each, rounds in found.items()}, "calls": given.calls}
    record.write()
    return 0


def profile(calls: int) -> None:
    made = driver(10)
    run(made, 1000)
    with cProfile.Profile() as profiler:
        run(made, calls)
    pstats.Stats(profiler, stream=sys.stdout).sort_stats("tottime").print_stats(40)


if __name__ == "__main__":
    sys.exit(main())
