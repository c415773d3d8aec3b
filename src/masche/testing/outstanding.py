"""Least request by itself, as others have it: what the balancer's promises and simulations are held against."""

from masche.traffic.load import Gauge, Ticket
from masche.traffic.outcome import Outcome


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
