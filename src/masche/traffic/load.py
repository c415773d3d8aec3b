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


class OutstandingGauge:
    """Attempts under way at one instance."""

    __slots__ = ("outstanding",)

    def __init__(self) -> None:
        self.outstanding = 0

    def __repr__(self) -> str:
        return f"<{self.outstanding} outstanding>"

    def cost(self, *, now: float, capacity: float = 1.0) -> float:  # noqa: ARG002 - time is part of the Protocol
        """What is under way relative to its capacity, plus one: idle instances are all alike."""
        return self.outstanding / capacity + 1.0

    def start(self, ticket: Ticket, *, now: float) -> None:  # noqa: ARG002 - only the number counts here
        """One more."""
        self.outstanding += 1

    def settle(self, outcome: Outcome, latency: float, *, now: float) -> None:  # noqa: ARG002 - only the number counts
        """One less."""
        self.outstanding -= 1


class Outstanding:
    """Least request: what Envoy's LEAST_REQUEST and Finagle's ``leastLoaded`` compare.

    It is blind to what fails fast: such an instance has little outstanding and looks attractive. Use ``PeakEwma``
    unless something else watches errors.
    """

    def join(self) -> OutstandingGauge:
        """Return a gauge at zero."""
        return OutstandingGauge()

    def leave(self, gauge: Gauge) -> None:
        """Nothing is known of the group, so nothing is to be forgotten."""
