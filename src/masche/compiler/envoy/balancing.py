"""Encode how the instances of a cluster are used: which is chosen, what limits there are, who is cut off.

Decided from a Traffic alone. Invariant: repeats are always limited, whatever else a policy says.
"""

from math import ceil

from masche.compiler.envoy.peer import CALLER
from masche.model.calling import Algorithm, CircuitBreaker, HashOn, OutlierEjection, RetryBudget, Traffic
from masche.wire.messages import Body, Json

BY_CALLER: list[Json] = [{"filter_state": {"key": CALLER}}]
"""What a connection is hashed by, where the algorithm hashes."""

PANIC_PERCENT = 1.0
"""Below this share of healthy instances all are tried: when nobody is healthy, anyone is better than nobody.

It is the least that Envoy knows: it rounds to whole percents, and with 0 nobody would be called.
"""

CHOICES = 5
"""Of so many instances, chosen at random, the one with the fewest calls under way is taken.

Two are enough where whoever chooses sees all calls (Mitzenmacher, "The Power of Two Choices in Randomized Load
Balancing", 2001). A caller sees its own, and has calls under way with few instances; then more choices find more often
one that it is not waiting for.
"""

_ENOUGH_REQUESTS = 10
"""So many requests of an instance in one interval say something about its share of errors."""

_LONGEST_EJECTION = 10
"""An instance that is cut off again and again stays away longer each time, up to so many times the first."""


def balancing(traffic: Traffic) -> Body:
    """Return how an instance is chosen.

    Zones have weights, and an instance is chosen within the zone: an assignment always says each zone's weight, since
    Envoy sends nothing to one without. What changes of an instance's health or weight holds at once: by default Envoy
    puts off whatever follows within a second of another change, so that of two that are cut off one after the other
    the second would get calls for a second more.
    """
    return {
        "common_lb_config": {
            "healthy_panic_threshold": {"value": PANIC_PERCENT},
            "locality_weighted_lb_config": {},
            "update_merge_window": 0,
        },
        **_algorithm(traffic),
        **_outlier(traffic.outlier),
    }


def _algorithm(traffic: Traffic) -> Body:
    warm = {"slow_start_window": traffic.slow_start, "min_weight_percent": {"value": 10}}
    slow_start: Body = {"slow_start_config": warm} if traffic.slow_start else {}
    match traffic.algorithm:
        case Algorithm.LEAST_REQUEST:
            return {"lb_policy": "LEAST_REQUEST", "least_request_lb_config": {"choice_count": CHOICES, **slow_start}}
        case Algorithm.ROUND_ROBIN:
            return {"lb_policy": "ROUND_ROBIN", "round_robin_lb_config": slow_start}
        case Algorithm.RANDOM:
            return {"lb_policy": "RANDOM"}
        case Algorithm.RING_HASH:
            return {"lb_policy": "RING_HASH"}
        case Algorithm.MAGLEV:
            return {"lb_policy": "MAGLEV"}


def limits(traffic: Traffic) -> Body:
    """Return the limits of one caller, and how long it tries to connect."""
    threshold: Body = {
        "max_connections": traffic.breaker.max_connections,
        "max_pending_requests": traffic.breaker.max_pending,
        "max_requests": traffic.breaker.max_requests,
        "retry_budget": _budget(traffic.breaker, traffic.budget),
    }
    return {
        "connect_timeout": traffic.connect_timeout,
        "circuit_breakers": {"thresholds": [threshold]},
        **_keepalive(traffic.keepalive),
    }


def _budget(breaker: CircuitBreaker, budget: RetryBudget) -> Body:
    """Envoy has one limit of repeats: a number written as such stands in the place of the share."""
    if breaker.max_retries is not None:
        return {"budget_percent": {"value": 0}, "min_retry_concurrency": breaker.max_retries}
    return {"budget_percent": {"value": budget.percent}, "min_retry_concurrency": budget.min_concurrent}


def _keepalive(seconds: float) -> Body:
    """The kernel's question to a peer from which nothing was heard for so long; it counts in whole seconds."""
    if not seconds:
        return {}
    probes = {"keepalive_probes": 3, "keepalive_time": ceil(seconds), "keepalive_interval": 5}
    return {"upstream_connection_options": {"tcp_keepalive": probes}}


def _outlier(outlier: OutlierEjection) -> Body:
    if not outlier.consecutive_errors and not outlier.error_percent:
        return {}
    ejection: dict[str, Json] = {
        **_in_a_row(outlier.consecutive_errors),
        **_share(outlier.error_percent),
        # Standard deviations mean nothing among the few instances of most services.
        "enforcing_success_rate": 0,
        "interval": outlier.interval,
        "base_ejection_time": outlier.base_ejection,
        "max_ejection_time": outlier.base_ejection * _LONGEST_EJECTION,
        "max_ejection_percent": outlier.max_ejected_percent,
    }
    return {"outlier_detection": ejection}


def _in_a_row(errors: int) -> Body:
    """Answers of 500 and above, and among them those that a gateway gives, each counted by itself."""
    if not errors:
        return {"enforcing_consecutive_5xx": 0, "enforcing_consecutive_gateway_failure": 0}
    return {
        "consecutive_5xx": errors,
        "enforcing_consecutive_5xx": 100,
        "consecutive_gateway_failure": errors,
        "enforcing_consecutive_gateway_failure": 100,
    }


def _share(percent: int) -> Body:
    if not percent:
        return {"enforcing_failure_percentage": 0}
    return {
        "failure_percentage_threshold": percent,
        "enforcing_failure_percentage": 100,
        "failure_percentage_minimum_hosts": 1,
        "failure_percentage_request_volume": _ENOUGH_REQUESTS,
    }


def hash_policy(traffic: Traffic) -> Body:
    """Return what a request is hashed by, for an algorithm that hashes."""
    match traffic.hash_on:
        case None:
            return {}
        case HashOn.HEADER:
            return {"hash_policy": [{"header": {"header_name": traffic.hash_name}}]}
        case HashOn.COOKIE:
            return {"hash_policy": [{"cookie": {"name": traffic.hash_name, "ttl": 0}}]}
        case HashOn.SOURCE_IP:
            # A proxy beside a workload sees loopback alone, so there the workload is the source.
            caller: Body = {"filter_state": {"key": CALLER}, "terminal": True}
            return {"hash_policy": [caller, {"connection_properties": {"source_ip": True}}]}
