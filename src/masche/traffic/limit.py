"""May this request pass the limits of an instance? Buckets of tokens, counted as Envoy's local rate limit counts them.

As in Envoy's ``AtomicTokenBucketImpl`` (1.40) a bucket fills steadily, not in steps, up to ``burst``, and a fraction of
a token is worth nothing yet. Envoy remembers the instant from which on it would have been filled without a pause; here
it is how full it was and when, which comes to the same but for rounding. Limits are asked in their order, and what the
earlier ones gave is not given back when a later one refuses; so does a chain of Envoy's filters. Invariant: of one
bucket no more than burst + rate * t requests pass in any time t.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from math import ceil
from typing import Final

from masche.model.frozen import frozen
from masche.model.limits import MOST_KEYS, KeyKind, Limit, LimitKey
from masche.traffic.match import holds
from masche.traffic.request import Request

MOST_KEPT: Final = 64
"""Characters of a key that are kept as they are; of longer ones a digest, so that nobody fills memory with headers."""


class Bucket:
    """Tokens of one limit, and of one key of it. Begins full."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, *, rate: float, burst: int, now: float) -> None:
        self.rate, self.burst = rate, burst
        self._tokens, self._at = float(burst), now

    def __repr__(self) -> str:
        return f"<Bucket of {self.burst}, {self.rate:g}/s>"

    def tokens(self, *, now: float) -> float:
        """How many there are."""
        return min(float(self.burst), self._tokens + (now - self._at) * self.rate)

    def take(self, *, now: float) -> bool:
        """Take a token, if there is one."""
        tokens = self.tokens(now=now)
        if tokens < 1.0:
            return False
        self._tokens, self._at = tokens - 1.0, now
        return True

    def wait(self, *, now: float) -> float:
        """How long it takes until there is one, in seconds."""
        return max(0.0, (1.0 - self.tokens(now=now)) / self.rate)


@frozen(kw_only=False)
class Exceeded:
    """Which limit refused, and in how many whole seconds there may be a token again (``retry-after``)."""

    limit: Limit
    retry_after: int


class Limiter:
    """The limits of one port. Not safe for threads by itself."""

    __slots__ = ("_counters", "limits")

    def __init__(self, limits: Sequence[Limit], *, now: float) -> None:
        self.limits = tuple(limits)
        self._counters = tuple(_Counter(each, now=now) for each in limits)

    def __repr__(self) -> str:
        return f"<Limiter {', '.join(each.name for each in self.limits)}>"

    def take(self, request: Request, *, now: float) -> Exceeded | None:
        """Take a token of each limit that counts this request; return the first that has none."""
        for each in self._counters:
            bucket = each.bucket(request, now=now)
            if bucket is not None and not bucket.take(now=now):
                return Exceeded(each.limit, ceil(bucket.wait(now=now)))
        return None


class _Counter:
    """One limit, and its buckets: one, or one for each key, of which the longest unasked is given up for a new one."""

    __slots__ = ("_buckets", "limit")

    def __init__(self, limit: Limit, *, now: float) -> None:
        self.limit = limit
        self._buckets: OrderedDict[str | bytes, Bucket] = OrderedDict()
        if limit.key is None:
            self._buckets[""] = self._new(now)

    def bucket(self, request: Request, *, now: float) -> Bucket | None:
        """The bucket that this request takes a token of; None when it is not counted."""
        limit = self.limit
        if limit.matches and not any(holds(each, request) for each in limit.matches):
            return None
        if limit.key is None:
            return self._buckets[""]
        key = kept(key_of(limit.key, request))
        found = self._buckets.get(key)
        if found is None:
            found = self._buckets[key] = self._new(now)
            if len(self._buckets) > MOST_KEYS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return found

    def _new(self, now: float) -> Bucket:
        return Bucket(rate=self.limit.rate, burst=self.limit.burst, now=now)


def key_of(key: LimitKey, request: Request) -> str:
    """Return what tells buckets apart; "" where a request has nothing of the kind."""
    if key.kind is KeyKind.CLIENT:
        return request.connection.peer or ""
    return ",".join(request.values(key.name))


def kept(key: str) -> str | bytes:
    """Return what is kept of a key: itself, or 16 bytes that only a collision of BLAKE2b would share with another's."""
    if len(key) <= MOST_KEPT:
        return key
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
