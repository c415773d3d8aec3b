"""Until when an answer is of use, carried from hop to hop: whoever calls on behalf of a call has what is left of it.

A Deadline is an instant; headers carry what is left, rounded down. Invariant: a deadline never grows, neither by
rounding nor by what a header says. What cannot be parsed says nothing, and the local timeout holds.
Formats: gRPC over HTTP2 ("TimeoutValue: positive integer as ASCII string of at most 8 digits", units H M S m u n) and
Envoy's ``x-envoy-expected-rq-timeout-ms``, in which 0 means none.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf

from masche.traffic.request import Headers

GRPC_TIMEOUT = "grpc-timeout"
EXPECTED_TIMEOUT = "x-envoy-expected-rq-timeout-ms"
SHORTEST = 0.001
"""With less than this left (seconds), nothing is sent any more: no answer can come in time."""

_GRPC = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_MILLISECONDS = re.compile(r"[0-9]{1,10}", re.ASCII)
_UNITS = (("n", 10**9), ("u", 10**6), ("m", 10**3), ("S", 1))
_LONG_UNITS = {"H": 3600, "M": 60}
_LARGEST = 99_999_999


@dataclass(slots=True, order=True, unsafe_hash=True)
class Deadline:
    """The instant ``at`` (monotonic seconds; infinite: none). Never changed, and so it may be hashed; not frozen, for
    two are made for every call.
    """

    at: float = inf

    def __repr__(self) -> str:
        return "<Deadline none>" if self.at == inf else f"<Deadline at {self.at:.3f}>"

    def left(self, *, now: float) -> float:
        """Seconds until then, never negative."""
        return max(0.0, self.at - now)

    def has_passed(self, *, now: float) -> bool:
        """Is there too little left for any call?"""
        return self.at - now < SHORTEST

    def within(self, timeout: float, *, now: float) -> "Deadline":
        """The earlier of this one and ``timeout`` seconds from now; a timeout of 0 means none."""
        return Deadline(now + timeout) if timeout > 0 and now + timeout < self.at else self

    def per_try(self, timeout: float, *, now: float) -> float:
        """How long one try may take: ``timeout`` (0: none), but never longer than what is left."""
        left = self.left(now=now)
        return min(timeout, left) if timeout > 0 else left


NO_DEADLINE = Deadline()


def incoming(headers: Headers, *, timeout: float = 0.0, now: float) -> Deadline:
    """The deadline of a request that came in: the earliest that a header says, ``timeout`` (0: none) at the most."""
    return Deadline(min((now + left for left in _said(headers)), default=inf)).within(timeout, now=now)


def outgoing(deadline: Deadline, *, is_grpc: bool, now: float) -> Headers:
    """The header that hands on what is left; none without a deadline.

    Raises ValueError when the deadline has passed: such a call must not be sent, and no header could say it.
    """
    if deadline.has_passed(now=now):
        raise ValueError("the deadline has passed; nothing is left to hand on")
    return () if deadline.at == inf else handed_on(deadline.at - now, is_grpc=is_grpc)


def handed_on(left: float, *, is_grpc: bool) -> Headers:
    """The header that hands on what is left, ``SHORTEST`` seconds at least."""
    if is_grpc:
        return ((GRPC_TIMEOUT, grpc_timeout(left)),)
    return ((EXPECTED_TIMEOUT, str(_floor(left, 1000))),)


def grpc_timeout(seconds: float) -> str:
    """Write a duration in the finest unit that fits in eight digits, rounded down; 1n at least, 99999999H at most."""
    for unit, per_second in _UNITS:
        if (value := _floor(min(seconds, 1e12), per_second)) <= _LARGEST:
            return f"{max(1, value)}{unit}"
    return f"{min(_LARGEST, int(min(seconds, 1e12) // 3600))}H"


def parse_grpc_timeout(value: str) -> float | None:
    """Read seconds; None when it is not of the format. ``0`` of any unit is no time at all, not no limit."""
    match = _GRPC.fullmatch(value)
    if match is None:
        return None
    number, unit = int(match[1]), match[2]
    if long := _LONG_UNITS.get(unit):
        return float(number * long)
    return number / dict(_UNITS)[unit]


def parse_expected_timeout(value: str) -> float | None:
    """Read seconds; None when it is not a number of milliseconds, or 0, which means that there is no limit."""
    return int(value) / 1000 or None if _MILLISECONDS.fullmatch(value) else None


def _said(headers: Headers) -> Iterator[float]:
    for name, value in headers:
        if name == GRPC_TIMEOUT:
            said = parse_grpc_timeout(value)
        elif name == EXPECTED_TIMEOUT:
            said = parse_expected_timeout(value)
        else:
            continue
        if said is not None:
            yield said


def _floor(seconds: float, per_second: int) -> int:
    """Whole units in a duration, so that reading them back never gives more, whatever the rounding of floats."""
    value = int(seconds * per_second)
    return value - 1 if value / per_second > seconds else value
