"""How many requests of this process may be with one service at a time: a TrafficPolicy's circuit breaker.

A request has a connection of its own (HTTP/1.1) until its answer has ended, so above ``max_connections`` requests wait,
above ``max_pending`` of these, or ``max_requests`` in all, one fails at once. Invariant: whoever entered leaves exactly
once, and who waits comes in the order in which they came. Not safe for threads by itself: its Channel has the lock.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum, unique

from masche.model.calling import CircuitBreaker
from masche.traffic.budget import RetryBudget


@unique
class Admission(Enum):
    """What becomes of a request."""

    ENTERED = "entered"
    WAITING = "waiting for a connection"
    OVERFLOW = "over the limit"


ENTERED = Admission.ENTERED
"""The usual case, looked up once: members of an Enum are dear to look up."""


class Waiter:
    """A request that waits; ``admit`` is called once, by whatever thread, when it has entered."""

    __slots__ = ("admit", "has_entered")

    def __init__(self, admit: Callable[[], None]) -> None:
        self.admit = admit
        self.has_entered = False


class Gate:
    """The requests of this process with one service."""

    __slots__ = ("_waiting", "active", "rules")

    def __init__(self, rules: CircuitBreaker) -> None:
        self.rules = rules
        self.active = 0
        self._waiting: deque[Waiter] = deque()

    def __repr__(self) -> str:
        waiting = f", {self.waiting} waiting" if self._waiting else ""
        return f"<Gate {self.active} active of {min(self.rules.max_requests, self.rules.max_connections)}{waiting}>"

    @property
    def waiting(self) -> int:
        """How many wait for a connection."""
        return len(self._waiting)

    def enter(self) -> Admission:
        """Count a request as active, if there is a connection for it; else say what it can do."""
        active, rules = self.active, self.rules
        if active < rules.max_connections and active < rules.max_requests:
            self.active = active + 1
            return ENTERED
        is_full = active >= rules.max_requests or self.waiting >= rules.max_pending
        return Admission.OVERFLOW if is_full else Admission.WAITING

    def wait(self, waiter: Waiter) -> None:
        """Stand in the queue."""
        self._waiting.append(waiter)

    def forgo(self, waiter: Waiter) -> Waiter | None:
        """Wait no longer; who has entered in the meantime leaves, and whoever enters instead is returned.

        Nothing of it is left in the queue: where nobody leaves, for nobody answers, it would grow for ever.
        """
        if waiter.has_entered:
            return self.leave()
        self._waiting.remove(waiter)
        return None

    def leave(self) -> Waiter | None:
        """End a request; return who enters in its place, to be admitted without the lock."""
        rules = self.rules
        if self._waiting and self.active <= min(rules.max_connections, rules.max_requests):
            waiter = self._waiting.popleft()
            waiter.has_entered = True
            return waiter
        self.active -= 1
        return None


class LimitedBudget(RetryBudget):
    """A budget that also limits how many repeats are under way at a time (``circuitBreaker.maxRetries``)."""

    __slots__ = ("limit", "under_way")

    def __init__(self, budget: RetryBudget, limit: int) -> None:
        super().__init__(budget.rules)
        self.limit = limit
        self.under_way = 0

    def take(self, *, now: float) -> bool:
        """Take the token of a repeat and count it as under way; ``release`` it."""
        if self.under_way >= self.limit or not super().take(now=now):
            return False
        self.under_way += 1
        return True

    def release(self, count: int = 1) -> None:
        """So many repeats have ended."""
        self.under_way -= count

    def why_not(self, *, now: float) -> str:
        """Why nothing may be repeated, for people; empty when something may."""
        if self.under_way >= self.limit:
            return f"{self.under_way} repeats are under way, the most that the policy allows"
        return super().why_not(now=now)
