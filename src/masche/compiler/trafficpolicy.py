"""The effective Traffic of a Service: each value from the most specific resource that sets it.

Order: a TrafficPolicy that names the Service, one for its whole namespace, the MeshConfig's defaults, our own. Among
equals the oldest wins. Invariant: every value that somebody wrote carries the Origin of who wrote it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from masche.compiler.precedence import age
from masche.compiler.remember import by_identity
from masche.model.refs import Kind, Name, Origin
from masche.model.resources.core import Service
from masche.model.resources.mesh_config import MeshConfig
from masche.model.resources.scalars import seconds
from masche.model.resources.traffic_policy import TrafficPolicy, TrafficSettings
from masche.model.view import CircuitBreaker, OutlierEjection, RetryBudget, Traffic

Values = dict[str, tuple[Any, Origin]]
"""Values by their place on paper (``timeouts.request``), with who wrote them."""

_TIMES = {
    "loadBalancing.slowStart",
    "outlierEjection.interval",
    "outlierEjection.baseEjection",
    "timeouts.request",
    "timeouts.perTry",
    "timeouts.idle",
    "timeouts.connect",
    "connection.maxAge",
}
_PLAIN = {
    "loadBalancing.algorithm": "algorithm",
    "loadBalancing.slowStart": "slow_start",
    "timeouts.connect": "connect_timeout",
    "timeouts.request": "request_timeout",
    "timeouts.perTry": "per_try_timeout",
    "timeouts.idle": "idle_timeout",
    "connection.maxAge": "max_connection_age",
}
_OUTLIER = {
    "outlierEjection.consecutiveErrors": "consecutive_errors",
    "outlierEjection.interval": "interval",
    "outlierEjection.baseEjection": "base_ejection",
    "outlierEjection.maxEjectedPercent": "max_ejected_percent",
}
_BREAKER = {
    "circuitBreaker.maxConnections": "max_connections",
    "circuitBreaker.maxPending": "max_pending",
    "circuitBreaker.maxRequests": "max_requests",
}
_BUDGET = {"retryBudget.percent": "percent", "retryBudget.minConcurrent": "min_concurrent"}


@by_identity
def traffic(
    services: Mapping[Name, Service], policies: Mapping[Name, TrafficPolicy], config: MeshConfig
) -> Mapping[Name, Traffic]:
    """Return the effective Traffic of every Service."""
    by_target, by_namespace = _sorted(policies)
    return MappingProxyType(
        {
            name: _effective([*by_target.get(name, ()), *by_namespace.get(name.namespace, ())], config)
            for name in services
        }
    )


def _sorted(
    policies: Mapping[Name, TrafficPolicy],
) -> tuple[dict[Name, list[TrafficPolicy]], dict[str, list[TrafficPolicy]]]:
    by_target: dict[Name, list[TrafficPolicy]] = {}
    by_namespace: dict[str, list[TrafficPolicy]] = {}
    for policy in sorted(policies.values(), key=lambda each: (*age(each.metadata.creation_timestamp), str(each.name))):
        namespace = policy.metadata.namespace
        if not policy.spec.target_refs:
            by_namespace.setdefault(namespace, []).append(policy)
        for target in policy.spec.target_refs:
            if target.kind == Kind.SERVICE:
                by_target.setdefault(Name(namespace, target.name), []).append(policy)
    return by_target, by_namespace


def _effective(policies: list[TrafficPolicy], config: MeshConfig) -> Traffic:
    values: Values = {}
    for policy in policies:
        _merge(values, policy.spec, Origin(policy.ref, "spec"))
    _merge(values, config.spec.defaults, Origin(config.ref, "spec.defaults"))
    return _traffic(values) if values else Traffic()


def _merge(values: Values, settings: TrafficSettings, origin: Origin) -> None:
    """Take what nobody more specific has set."""
    for place, value in _written(settings):
        values.setdefault(place, (value, Origin(origin.ref, f"{origin.where}.{place}")))


def _written(settings: TrafficSettings) -> Iterator[tuple[str, Any]]:
    groups = set(TrafficSettings.model_fields)
    document: dict[str, dict[str, Any]] = settings.model_dump(by_alias=True, exclude_none=True, include=groups)
    for group, fields in document.items():
        for field, value in fields.items():
            place = f"{group}.{field}"
            yield place, seconds(value) if place in _TIMES else value


def _traffic(values: Values) -> Traffic:
    plain = _picked(values, _PLAIN)
    if "loadBalancing.hashOn" in values:
        key = values["loadBalancing.hashOn"][0]
        plain |= {"hash_on": key["type"], "hash_name": key.get("name", "").lower()}
    return replace(
        Traffic(),
        outlier=replace(OutlierEjection(), **_picked(values, _OUTLIER)),
        breaker=replace(CircuitBreaker(), **_picked(values, _BREAKER)),
        budget=replace(RetryBudget(), **_picked(values, _BUDGET)),
        origins=tuple(sorted((place, origin) for place, (_, origin) in values.items())),
        **plain,
    )


def _picked(values: Values, places: Mapping[str, str]) -> dict[str, Any]:
    return {name: values[place][0] for place, name in places.items() if place in values}
