"""How loaded one instance is, as one caller sees it: what a metric must offer, and the plainest one, outstanding calls.

A ``Metric`` knows the group, a ``Gauge`` one instance of it. Asking a gauge changes nothing; a call that starts and a
call that settles change it, each exactly once.
"""

from typing import Protocol

from masche.traffic.outcome import Outcome


class Ticket(Protocol):
    """One attempt under way, as a gauge sees it."""

    @property
    def started_at(self) -> float:
        """When it started, monotonic seconds."""
        ...

    @property
    def is_settled(self) -> bool:
        """Has it ended?"""
        ...


class Gauge(Protocol):
    """The load of one instance."""

    @property
    def outstanding(self) -> int:
        """Attempts under way, 0 or more."""
        ...

    def cost(self, *, now: float, capacity: float = 1.0) -> float:
        """What one more call would cost there: 0 or more, lower is better, comparable within one metric only.

        ``capacity`` is its share relative to an equal one, above 0: twice the capacity bears twice the calls.
        """
        ...

    def start(self, ticket: Ticket, *, now: float) -> None:
        """Count an attempt that starts."""
        ...

    def settle(self, outcome: Outcome, latency: float, *, now: float) -> None:
        """Count an attempt that ended after ``latency`` seconds; ``ticket.is_settled`` holds already."""
        ...


class Metric(Protocol):
    """The loads of the instances of one service."""

    def join(self) -> Gauge:
        """Return the gauge of an instance that is new."""
        ...

    def leave(self, gauge: Gauge) -> None:
        """Forget an instance; attempts under way may still settle on its gauge."""
        ...
