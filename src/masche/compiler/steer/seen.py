"""What callers saw of one instance: the only thing that Steering is made of."""

from dataclasses import dataclass

from masche.model.refs import PortRef

Key = tuple[PortRef, str]
"""A (Service, port) and the zone of the callers."""


@dataclass(slots=True, kw_only=True)
class Seen:
    """What one caller saw of one instance by one way in one interval. Means in microseconds; 0.0 is unknown.

    ``via`` is the zone of the gateway that carried a detour, "" for the direct way. ``answers`` are requests that were
    answered well; ``errors`` are the others, and ``timeouts`` are those of the errors that were given up unanswered.
    ``active`` were waiting at the end of the interval. ``latency_us`` is the caller's time, ``service_us`` what the
    instance's proxy said of its own part, ``rtt_us`` the round trip that TCP measured. ``caller`` names who saw it (a
    proxy, say), and ``is_ejected`` says that this caller has cut the instance off now.
    Nobody changes one; it is not frozen only because thousands are made in every interval, at a third of the cost.
    """

    workload: str
    zone: str = ""
    via: str = ""
    caller: str = ""
    answers: int = 0
    errors: int = 0
    timeouts: int = 0
    active: int = 0
    latency_us: float = 0.0
    service_us: float = 0.0
    rtt_us: float = 0.0
    is_ejected: bool = False
