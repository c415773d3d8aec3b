"""A simulation of traffic in virtual time: callers with balancers, instances that take time, queue and fail.

Nothing is real here: no socket, no clock, no thread. The same seed gives the same calls, to the last digit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, heapreplace
from random import Random
from typing import Protocol

from masche.traffic.membership import Endpoint
from masche.traffic.outcome import Outcome


class Attempt(Protocol):
    """What a balancer hands out for one call."""

    @property
    def endpoint(self) -> Endpoint:
        """Where the call goes."""
        ...

    @property
    def is_panicking(self) -> bool:
        """Was it chosen among all because too few are available?"""
        ...

    def settle(self, outcome: Outcome, *, now: float, latency: float | None = None) -> None:
        """End it."""
        ...


class Chooser(Protocol):
    """What a simulated caller needs of a balancer."""

    def claim(self, *, now: float, rng: Random) -> Attempt | None:
        """Choose an instance and count the call as started."""
        ...


def _always_well(now: float, rng: Random) -> Outcome:  # noqa: ARG001 - of the behaviour's form
    return Outcome.SUCCESS


@dataclass
class VirtualServer:
    """One instance. ``work`` says how many seconds a call that starts now takes, ``fate`` what becomes of it;
    ``workers`` calls are worked on at once and the others wait in line (0: all at once).
    """

    work: Callable[[float, Random], float]
    fate: Callable[[float, Random], Outcome] = _always_well
    workers: int = 0
    under_way: int = 0
    most: int = 0
    _free_at: list[float] = field(default_factory=list[float])

    def serve(self, now: float, rng: Random) -> tuple[float, Outcome]:
        """Return when the call that arrives now is answered, and how."""
        begins = now
        outcome = self.fate(now, rng)
        if self.workers and len(self._free_at) == self.workers:
            begins = max(now, self._free_at[0])
        ends = begins + self.work(begins, rng)
        if self.workers:
            (heappush if len(self._free_at) < self.workers else heapreplace)(self._free_at, ends)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        return ends, outcome


@dataclass(frozen=True, slots=True)
class Call:
    """What became of one call; times in seconds of virtual time."""

    at: float
    caller: int
    endpoint: str
    outcome: Outcome
    latency: float
    is_panicking: bool


def simulate(
    choosers: Sequence[Chooser],
    servers: dict[str, VirtualServer],
    *,
    rate: float,
    seconds: float,
    rng: Random,
    timeout: float = float("inf"),
    begins: float = 0.0,
) -> list[Call]:
    """Let calls come by chance (Poisson), ``rate`` a second in all, each from a caller drawn by chance.

    Calls come whether or not earlier ones are answered (an open loop). One that lasts longer than ``timeout`` is
    settled as a TIMEOUT then, though the instance works on. What is under way at the end is carried to its end.
    """
    done: list[Call] = []
    ends: list[tuple[float, int, Attempt | None, str, Outcome, float, int]] = []
    number = 0
    now = begins + rng.expovariate(rate)
    while now < begins + seconds:
        while ends and ends[0][0] <= now:
            _end(heappop(ends), servers, done)
        caller = int(rng.random() * len(choosers))
        attempt = choosers[caller].claim(now=now, rng=rng)
        assert attempt is not None, "a balancer with instances serves"
        name = attempt.endpoint.id
        answered, outcome = servers[name].serve(now, rng)
        number += 2
        if answered - now > timeout:
            heappush(ends, (answered, number + 1, None, name, outcome, now, caller))
            answered, outcome = now + timeout, Outcome.TIMEOUT
        heappush(ends, (answered, number, attempt, name, outcome, now, caller))
        now += rng.expovariate(rate)
    while ends:
        _end(heappop(ends), servers, done)
    return done


def _end(
    event: tuple[float, int, Attempt | None, str, Outcome, float, int],
    servers: dict[str, VirtualServer],
    done: list[Call],
) -> None:
    """Settle; an instance has a call off its hands when it has answered, not when the caller has given up."""
    at, _, attempt, name, outcome, began, caller = event
    if attempt is None or outcome is not Outcome.TIMEOUT:
        servers[name].under_way -= 1
    if attempt is not None:
        attempt.settle(outcome, now=at)
        done.append(Call(began, caller, name, outcome, at - began, attempt.is_panicking))
