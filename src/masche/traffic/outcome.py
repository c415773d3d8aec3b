"""What became of one attempt at one instance, as far as balancing, breaking and budgets care; never an HTTP status."""

from enum import Enum, unique


@unique
class Outcome(Enum):
    """Exactly one of these settles every attempt.

    Which status or exception means which is the caller's to say, once, at its edge:
    a 500 or a reset is a FAILURE, a 503 is REFUSED, a 429 LIMITED, a 403 that names a policy DENIED, running out of the
    per-try timeout is a TIMEOUT.
    """

    SUCCESS = "success"
    """Answered, and the answer is no fault of the instance (a 404 is one)."""
    FAILURE = "failure"
    """Answered wrongly, or the connection broke: the instance is at fault."""
    REFUSED = "refused"
    """Turned away for overload (503, UNAVAILABLE): the instance says that it has no room."""
    LIMITED = "limited"
    """Turned away for asking too often (429, RESOURCE_EXHAUSTED). There is no room for this caller, who had better ask
    another instance, but the instance is not at fault: it must not be taken from others for what one asks too much."""
    DENIED = "denied"
    """Refused by a policy of the mesh. The instance is well, and has not shown how fast it is: it must not draw calls
    by how quickly it refuses them, nor be avoided for it where its peers refuse as many."""
    TIMEOUT = "timeout"
    """Not answered in the time it was given; its latency is a lower bound of the real one."""
    CANCELLED = "cancelled"
    """Given up by the caller (a hedge that lost, a client that left): it says nothing about the instance."""

    is_success: bool
    """Did it answer well?"""
    is_fault: bool
    """Does it speak against the instance, so that it may be ejected? Successes, cancellations, limits and policies do
    not."""

    is_cancelled: bool
    """Was it given up? These three are attributes because each is asked several times for every call, and a member of
    an Enum is dear to look up."""

    def __init__(self, word: str) -> None:
        self.is_success = word == "success"
        self.is_cancelled = word == "cancelled"
        self.is_fault = word not in {"success", "limited", "denied", "cancelled"}
