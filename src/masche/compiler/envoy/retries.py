"""Encode when a request is repeated.

A request that never reached an application may always be repeated; an answer, or its absence, only when the method is
idempotent (RFC 9110, 9.2.2). How much may be repeated at once is the budget of the cluster.
"""

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

_SEARCH = 50
"""How often another instance is looked for. Of two ways one of which has just died, weights may name the dead one nine
times in ten, and least request prefers it, for it is idle."""


def retry_policy(forward: Forward, *, is_idempotent: bool) -> Body:
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
    if forward.per_try_timeout:
        policy["per_try_timeout"] = forward.per_try_timeout
    return {"retry_policy": policy}


def depends_on_method(forward: Forward) -> bool:
    """Whether an idempotent request is repeated in cases in which another is not."""
    return forward.retry is not None and forward.retry.attempts > 0
