"""How long one request may take and how it is repeated, of what its route says of all its requests.

A Route of a View treats requests differently: what may be made twice is repeated more often (RFC 9110, 9.2.2), and
streams last longer. A table of Envoy's has a route for each of these instead, and so has what was decoded of one
(``Retry.any_method``), where nothing is left to tell apart. Invariant: both ways come to the same.
"""

from dataclasses import replace

from masche.model.frozen import frozen
from masche.model.view import Forward, Retry
from masche.traffic.request import Request, is_grpc
from masche.traffic.retry import is_idempotent

_SHORTEST_BACKOFF = 0.001
_LONGEST_BACKOFF = 10
"""A wait never exceeds so many times the first one, where nothing else is said."""


@frozen
class Times:
    """Seconds, 0 for none; ``retry`` None: nothing is repeated."""

    timeout: float
    per_try: float
    idle: float
    hedge_after: float
    retry: Retry | None


def times(action: Forward, method: str, request: Request) -> Times:
    """Return what holds for one request; ``method`` is the one that its route matched, "" for any."""
    if action.retry is not None and action.retry.any_method:
        return Times(
            timeout=action.timeout,
            per_try=action.per_try_timeout,
            idle=action.idle_timeout,
            hedge_after=action.hedge_after,
            retry=action.retry if action.retry.attempts else None,
        )
    is_stream = _is_stream(action, method, request)
    is_repeatable = not is_stream and action.retry is not None and is_idempotent(request.method)
    return _told_apart(action, is_stream=is_stream, is_repeatable=is_repeatable)


def _told_apart(action: Forward, *, is_stream: bool, is_repeatable: bool) -> Times:
    per_try = action.stream_timeout if is_stream else action.per_try_timeout
    is_hedged = is_repeatable and _is_hedged(action)
    return Times(
        # The time of one try starts another one beside it, so the whole ends what it would have ended.
        timeout=action.timeout or per_try if is_hedged else action.timeout,
        per_try=0.0 if is_hedged else per_try,
        idle=action.stream_idle_timeout if is_stream else action.idle_timeout,
        hedge_after=action.hedge_after if is_hedged else 0.0,
        retry=_retry(action.retry or Retry(), is_repeatable=is_repeatable),
    )


def _is_stream(action: Forward, method: str, request: Request) -> bool:
    """gRPC, and who asks for another protocol; a request that may be repeated is never taken for gRPC."""
    is_longer = action.stream_idle_timeout != action.idle_timeout
    if is_longer and method in {"", "GET"} and request.values("upgrade"):
        return True
    if not method and action.retry is not None and action.retry.attempts and is_idempotent(request.method):
        return False
    return method in {"", "POST"} and is_grpc(request)


def _is_hedged(action: Forward) -> bool:
    """Whoever wants no answer repeated wants no second one either."""
    limit = action.per_try_timeout or action.timeout
    return action.retry is not None and action.hedge_after > 0 and (not limit or action.hedge_after < limit)


def _retry(retry: Retry, *, is_repeatable: bool) -> Retry | None:
    """What never reached anybody is repeated whatever it was; an answer, or its absence, where that is harmless."""
    if not retry.attempts:
        return None
    backoff = max(retry.backoff, _SHORTEST_BACKOFF)
    return replace(
        retry,
        codes=retry.codes if is_repeatable else (),
        backoff=backoff,
        max_backoff=retry.max_backoff or backoff * _LONGEST_BACKOFF,
        any_method=True,
        unanswered=is_repeatable,
    )
