"""How many requests an instance takes: RateLimitPolicies, resolved, as buckets of tokens.

A bucket begins full, with ``burst`` tokens, and is filled steadily, ``requests`` in every ``per`` seconds; each request
takes one token, and one that finds none is refused. Invariant: what a limit counts depends on the request and on who
proved to be its caller, and on nothing else.
"""

from enum import StrEnum

from masche.model.frozen import frozen
from masche.model.matching import RequestMatch
from masche.model.refs import Origin

MOST_KEYS = 10_000
"""So many buckets one limit keeps that counts by a key; beyond them the one that was not asked for longest is lost."""


class KeyKind(StrEnum):
    """What tells the buckets of one limit apart: who calls, by certificate, or the value of a header."""

    CLIENT = "Client"
    HEADER = "Header"


@frozen
class LimitKey:
    """Each value has a bucket of its own, and requests without one share theirs; ``name`` in lower case, for HEADER.

    Of a header that comes several times the value is all of them, joined by commas.
    """

    kind: KeyKind
    name: str = ""


@frozen
class Limit:
    """One limit, of one port of one instance. Without ``matches`` it counts every request, else what one of them takes.

    ``per`` in seconds, a whole number of milliseconds; the ``name`` is what a refusal says: ``shop/orders local[0]``.
    """

    name: str
    requests: int
    per: float
    burst: int
    matches: tuple[RequestMatch, ...] = ()
    key: LimitKey | None = None
    origins: tuple[Origin, ...] = ()

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.requests / self.per
