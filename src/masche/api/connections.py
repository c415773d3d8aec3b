"""Connections to the API that ask nothing: each must ask within a time, and when there are too many the idlest goes.

Nobody can lock others out by holding connections open: of those that ask nothing the longest idle one makes room, and
first one of the address that has most. Invariant: a connection whose request is being answered is never ended here.
"""

import asyncio
from collections import Counter

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""From the first moment in which a connection asks nothing, or from the end of its last answer's idle time, until the
whole head of a request is there."""

ROOM = 64
"""So many connections below the limit one makes room, so that there is always some for whoever has a question."""


class Connection(H11Protocol):
    """One connection to the API."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - as uvicorn has it
        """Make room if there are too many, and begin to wait for a request."""
        super().connection_made(transport)
        self._asking: asyncio.TimerHandle | None = None
        self._wait()
        if self.limit_concurrency and len(self.connections) > self.limit_concurrency - ROOM:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Take bytes; those of an unfinished head buy no time."""
        super().data_received(data)
        if self.is_busy:
            self._stop_waiting()
        elif self._asking is None and not self.transport.is_closing():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._stop_waiting()
        super().connection_lost(exc)

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison] - None before the first

    def _wait(self) -> None:
        self.idle_since = self.loop.time()
        self._asking = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._asking:
            self._asking.cancel()
            self._asking = None

    def on_response_complete(self) -> None:
        """Answered: from now on it is idle, for as long as uvicorn keeps it."""
        super().on_response_complete()
        self.idle_since = self.loop.time()

    def _make_room(self) -> None:
        idle = [one for one in self.connections if isinstance(one, Connection) and one is not self and not one.is_busy]
        held = Counter(_address(one) for one in idle)
        if idle:
            chosen = min(idle, key=lambda one: (-held[_address(one)], one.idle_since))
            chosen.transport.close()
            self.connections.discard(chosen)  # it counts no more, although the loop has yet to say that it is lost


def _address(connection: Connection) -> str:
    return connection.client[0] if connection.client else ""
