"""Whether a failed attempt is repeated, when, and for how long; and if not, whether the caller may do it instead.

What never reached an application may be repeated whatever it was; an answer, or its absence, only when the method is
idempotent (RFC 9110, 9.2.2: "A client SHOULD NOT automatically retry a request with a non-idempotent method") and the
code is listed. Invariants: a repeat never outlasts the deadline, each has paid its token, and a tier that gives up
after its repeats were of no avail says so upward (``pushback``), so that tiers do not multiply.
Waiting is "full jitter" (Brooker, "Exponential Backoff And Jitter", AWS 2015): random_between(0, min(cap, base * 2^n)).
"""

from enum import Enum, unique

from masche.model.frozen import frozen
from masche.model.view import Retry
from masche.traffic.budget import RetryBudget
from masche.traffic.chance import Chance
from masche.traffic.deadline import Deadline
from masche.traffic.outcome import Outcome
from masche.traffic.pushback import Pushback

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110, 9.2.2: "PUT, DELETE, and safe request methods are idempotent". gRPC calls (POST) never are."""

_CAP = 10
"""A wait never exceeds so many times the first one."""

_FAULTS = 500
"""From this status on an answer speaks against who gave it."""

_FAULTS_OF_GRPC = frozenset({2, 4, 12, 13, 14, 15})
"""The same of gRPC: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS."""

_LIMITED, _LIMITED_OF_GRPC = 429, 8
"""What is turned away for asking too often (RESOURCE_EXHAUSTED): no fault of who gave it, but no success either."""

LONGEST = 60.0
"""Seconds. A callee that asks for a longer wait is not waited for: without a deadline it could be weeks."""


@frozen
class Attempted:
    """How one attempt ended. ``reached``: may an application have seen it? ``status``: of the answer, 0 for none;
    ``grpc_status``: the same of gRPC, -1 for none.
    """

    outcome: Outcome
    reached: bool = True
    status: int = 0
    grpc_status: int = -1
    pushback: Pushback | None = None


@unique
class Why(Enum):
    """Why an attempt is not repeated."""

    FINE = "it needs no repeat"
    NOT_IDEMPOTENT = "the method is not idempotent and an application may have seen it"
    NOT_LISTED = "its answer is not one that is repeated"
    FORBIDDEN = "the callee asked not to repeat it"
    ATTEMPTS = "all attempts were made"
    DEADLINE = "the deadline leaves no time"
    BUDGET = "the budget for repeats is spent"


@frozen
class Again:
    """Repeat after ``after`` seconds, and give the try ``timeout`` seconds at the most. Its token has been taken."""

    after: float
    timeout: float


@frozen
class GiveUp:
    """Answer the caller with what there is; ``forbids_repeats``: together with ``pushback.spoken``."""

    why: Why
    sentence: str = ""

    @property
    def forbids_repeats(self) -> bool:
        """Must the caller not repeat it either? Yes when this tier has done, or may not do, all that repeating can."""
        return self.why in {Why.FORBIDDEN, Why.ATTEMPTS, Why.BUDGET, Why.DEADLINE}


def is_idempotent(method: str) -> bool:
    """May a request of this method be made twice?"""
    return method in IDEMPOTENT


def again(
    attempted: Attempted,
    *,
    method: str,
    repeats: int,
    rules: Retry,
    deadline: Deadline,
    budget: RetryBudget,
    now: float,
    rng: Chance,
    per_try_timeout: float = 0.0,
) -> Again | GiveUp:
    """Decide about one ended attempt, after ``repeats`` repeats; an Again has taken its token from the budget."""
    obstacle = _obstacle(attempted, method=method, repeats=repeats, rules=rules)
    if obstacle is not None:
        return GiveUp(why=obstacle, sentence=obstacle.value)
    after = _wait(attempted, repeats=repeats, rules=rules, rng=rng)
    if after > LONGEST:
        return GiveUp(why=Why.FORBIDDEN, sentence=f"the callee asked not to repeat it for {after:.0f} s")
    starts_at = now + after
    if deadline.has_passed(now=starts_at):
        return GiveUp(why=Why.DEADLINE, sentence=Why.DEADLINE.value)
    if not budget.take(now=now):
        return GiveUp(why=Why.BUDGET, sentence=budget.why_not(now=now) or Why.BUDGET.value)
    return Again(after=after, timeout=deadline.per_try(per_try_timeout, now=starts_at))


def backoff(repeats: int, *, base: float, rng: Chance, longest: float = 0.0) -> float:
    """Seconds to wait before the next repeat: anything up to ``base``, doubled by each repeat so far, to ``longest`` at
    most (0: ten times ``base``).
    """
    return rng.random() * min(longest or base * _CAP, base * 2 ** min(repeats, 10))


def _obstacle(attempted: Attempted, *, method: str, repeats: int, rules: Retry) -> Why | None:
    """The first reason against a repeat that needs neither clock nor budget; what only we may not do comes first."""
    outcome, is_listed = attempted.outcome, _is_listed(attempted, rules)
    if outcome.is_cancelled or not (is_listed or outcome.is_fault or outcome is Outcome.LIMITED):
        return Why.FINE
    if attempted.pushback is not None and attempted.pushback.forbids:
        return Why.FORBIDDEN
    if attempted.reached and not (rules.any_method or is_idempotent(method)):
        return Why.NOT_IDEMPOTENT
    if not is_listed:
        return Why.NOT_LISTED
    return Why.ATTEMPTS if repeats >= rules.attempts else None


def repeats_fine(rules: Retry) -> bool:
    """Are answers repeated that are thought good: those below 500 but 429, as a route may list them?"""
    if any(code < _FAULTS and code != _LIMITED for code in rules.codes):
        return True
    return any(code not in _FAULTS_OF_GRPC and code != _LIMITED_OF_GRPC for code in rules.grpc_codes)


def _is_listed(attempted: Attempted, rules: Retry) -> bool:
    """Is what became of it among what is repeated?"""
    if not attempted.reached:
        return rules.unreached
    if not attempted.status:
        return rules.unanswered
    return attempted.status in rules.codes or attempted.grpc_status in rules.grpc_codes


def _wait(attempted: Attempted, *, repeats: int, rules: Retry, rng: Chance) -> float:
    """What the callee asked for; nothing when nobody was reached for the first time (another instance is at hand)."""
    if attempted.pushback is not None and attempted.pushback.after is not None:
        return attempted.pushback.after
    if not attempted.reached and repeats == 0:
        return 0.0
    return backoff(repeats, base=rules.backoff, longest=rules.max_backoff, rng=rng)
