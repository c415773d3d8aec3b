"""Encode when a request is repeated.

A request that never reached an application may always be repeated; an answer, or its absence, only when the method is
idempotent (RFC 9110, 9.2.2). How much may be repeated at once is the budget of the cluster.
"""

from masche.compiler.envoy.matches import IDEMPOTENT, Taken
from masche.compiler.envoy.parts import extension
from masche.model.view import Forward, Retry
from masche.wire.messages import Body, Json

UNREACHED = "x-masche-unreached"
"""Set by the callee's proxy on an answer of its own: the application could not be connected to, nothing was sent."""

_NEVER_SENT = ("connect-failure", "refused-stream", "reset-before-request", "retriable-headers")
_ANSWERS = ("reset", "retriable-status-codes")

_PREVIOUS_HOSTS = extension(
    "envoy.retry_host_predicates.previous_hosts",
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
)

_SEARCH = 250
"""How often another instance is looked for, at 0.2 us each. When a gateway between zones dies that carries nearly all
calls to a zone, one in 200 picks is of the direct way, and least request prefers what is dead, for it is idle."""


def cases(method: str, forward: Forward) -> tuple[Taken, ...]:
    """Tell apart the requests of a Route that are treated differently, in the order in which they are to be matched.

    ``method`` is what the Route matches, "" for any: then nothing is left to tell.
    """
    found: list[Taken] = []
    if forward.stream_idle_timeout != forward.idle_timeout and method in {"", "GET"}:
        found.append(Taken.UPGRADES)
    if not method and forward.retry is not None and forward.retry.attempts:
        found.append(Taken.IDEMPOTENT)
    ordinary = (forward.idle_timeout, forward.per_try_timeout)
    if (forward.stream_idle_timeout, forward.stream_timeout) != ordinary and method in {"", "POST"}:
        found.append(Taken.GRPC)
    return (*found, Taken.ALL)


def repeats(forward: Forward, taken: Taken, method: str = "") -> Body:
    """Return the fields of a RouteAction that say how long a request lasts, and when it is sent again."""
    is_idempotent = taken is Taken.IDEMPOTENT or (taken is Taken.ALL and method in IDEMPOTENT)
    body: dict[str, Json] = {
        "timeout": forward.timeout,
        "idle_timeout": forward.stream_idle_timeout if taken.is_stream else forward.idle_timeout,
    }
    per_try = forward.stream_timeout if taken.is_stream else forward.per_try_timeout
    if is_idempotent and _is_hedged(forward):
        # The time of one try now starts another one beside it, so the whole must end what it would have ended.
        body |= {"timeout": forward.timeout or per_try, "hedge_policy": {"hedge_on_per_try_timeout": True}}
        per_try = forward.hedge_after
    return {**body, **retry_policy(forward, is_idempotent=is_idempotent, per_try=per_try)}


def _is_hedged(forward: Forward) -> bool:
    """Whoever wants no answer repeated wants no second one either."""
    limit = forward.per_try_timeout or forward.timeout
    return forward.retry is not None and forward.hedge_after > 0 and (not limit or forward.hedge_after < limit)


def retry_policy(forward: Forward, *, is_idempotent: bool, per_try: float = 0.0) -> Body:
    """Return the field ``retry_policy`` of a RouteAction, or nothing when nothing is repeated."""
    retry = forward.retry or Retry()
    if not retry.attempts:
        return {}
    repeats_answers = is_idempotent and forward.retry is not None
    conditions = _NEVER_SENT + (_ANSWERS if repeats_answers else ())
    policy: dict[str, Json] = {
        "retry_on": ",".join(conditions),
        "num_retries": retry.attempts,
        "retry_host_predicate": [_PREVIOUS_HOSTS],
        "host_selection_retry_max_attempts": _SEARCH,
        "retriable_headers": [{"name": UNREACHED, "present_match": True}],
        "retry_back_off": {"base_interval": max(retry.backoff, 0.001), "max_interval": max(retry.backoff, 0.001) * 10},
    }
    if repeats_answers and retry.codes:
        policy["retriable_status_codes"] = list(retry.codes)
    if per_try:
        policy["per_try_timeout"] = per_try
    return {"retry_policy": policy}
