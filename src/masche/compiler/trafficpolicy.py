"""The effective Traffic of a Service: each value from the most specific resource that sets it.

Order: a TrafficPolicy that names the Service, one for its whole namespace, the MeshConfig's defaults, our own. Among
equals the oldest wins. Invariant: every value that somebody wrote carries the Origin of who wrote it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

from masche.compiler.precedence import age
from masche.compiler.remember import by_identity
from masche.model.calling import UNSAID, Traffic
from masche.model.refs import Kind, Name, Origin
from masche.model.resources.core import Service
from masche.model.resources.mesh_config import MeshConfig
from masche.model.resources.scalars import seconds
from masche.model.resources.traffic_policy import TrafficPolicy, TrafficSettings
from masche.model.validate_traffic import TIMES

Values = dict[str, tuple[Any, Origin]]
"""Values by their place on paper (``timeouts.request``), with who wrote them."""

_PLACES: Mapping[str, tuple[str, str]] = {
    "steering": ("", "steering"),
    "loadBalancing.algorithm": ("", "algorithm"),
    "loadBalancing.subsetting.size": ("", "subset_size"),
    "loadBalancing.slowStart": ("", "slow_start"),
    "locality.preference": ("locality", "preference"),
    "locality.spill": ("locality", "spills"),
    "locality.detours": ("locality", "detours"),
    "outlierEjection.consecutiveErrors": ("outlier", "consecutive_errors"),
    "outlierEjection.errorPercent": ("outlier", "error_percent"),
    "outlierEjection.latencyFactor": ("outlier", "latency_factor"),
    "outlierEjection.interval": ("outlier", "interval"),
    "outlierEjection.baseEjection": ("outlier", "base_ejection"),
    "outlierEjection.maxEjectedPercent": ("outlier", "max_ejected_percent"),
    "circuitBreaker.maxConnections": ("breaker", "max_connections"),
    "circuitBreaker.maxPending": ("breaker", "max_pending"),
    "circuitBreaker.maxRequests": ("breaker", "max_requests"),
    "circuitBreaker.maxRetries": ("breaker", "max_retries"),
    "retryBudget.percent": ("budget", "percent"),
    "retryBudget.minConcurrent": ("budget", "min_concurrent"),
    "timeouts.connect": ("", "connect_timeout"),
    "timeouts.request": ("", "request_timeout"),
    "timeouts.perTry": ("", "per_try_timeout"),
    "timeouts.idle": ("", "idle_timeout"),
    "timeouts.streamIdle": ("", "stream_idle_timeout"),
    "hedging.enabled": ("hedging", "enabled"),
    "hedging.after": ("hedging", "after"),
    "hedging.maxPercent": ("hedging", "max_percent"),
    "adaptiveConcurrency.enabled": ("concurrency", "enabled"),
    "adaptiveConcurrency.maxConcurrency": ("concurrency", "max_concurrency"),
    "adaptiveConcurrency.baseLatency": ("concurrency", "base_latency"),
    "connection.keepalive": ("", "keepalive"),
    "connection.maxAge": ("", "max_connection_age"),
}
"""Where each field of a policy stands in a Traffic: the part (``""`` for itself) and the attribute."""

HASH_ON = "loadBalancing.hashOn"
"""The one place that holds two values."""


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


@by_identity
def outranked(
    policies: Mapping[Name, TrafficPolicy],
) -> Mapping[Name, tuple[tuple[str, TrafficPolicy, tuple[str, ...]], ...]]:
    """Return what policies say in vain, since an older one of the same target says it, too: for each policy the
    target, the older one, and the places. That what is more specific wins is meant, and not in here.
    """
    by_target, by_namespace = _sorted(policies)
    rivals = [*((f"Service {name}", each) for name, each in by_target.items())]
    rivals += [(f"namespace {name}", each) for name, each in by_namespace.items()]
    found: dict[Name, list[tuple[str, TrafficPolicy, tuple[str, ...]]]] = {}
    for target, each in rivals:
        first: dict[str, TrafficPolicy] = {}
        for policy in each if len(each) > 1 else ():
            vain: dict[Name, list[str]] = {}
            for place, _ in written(policy.spec):
                if (older := first.setdefault(place, policy)) is not policy:
                    vain.setdefault(older.name, []).append(place)
            found.setdefault(policy.name, []).extend(
                (target, policies[older], tuple(places)) for older, places in vain.items()
            )
    return MappingProxyType({name: tuple(each) for name, each in found.items() if each})


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
    return _traffic(values) if values else UNSAID


def _merge(values: Values, settings: TrafficSettings, origin: Origin) -> None:
    """Take what nobody more specific has set."""
    for place, value in written(settings):
        values.setdefault(place, (value, Origin(origin.ref, f"{origin.where}.{place}")))


def written(settings: TrafficSettings) -> Iterator[tuple[str, Any]]:
    """Yield the places that somebody wrote, with their values; times in seconds."""
    document = settings.model_dump(by_alias=True, exclude_none=True, include=set(TrafficSettings.model_fields))
    for place, value in _flat(document):
        yield place, seconds(value) if place in TIMES else value


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value by its whole place. A key of a hash is one value."""
    for name, value in fields.items():
        place = f"{prefix}{name}"
        if isinstance(value, dict) and place != HASH_ON:
            yield from _flat(cast("dict[str, Any]", value), f"{place}.")
        else:
            yield place, value


def of_defaults(config: MeshConfig) -> Traffic:
    """Return what holds where no policy says anything."""
    return _effective([], config)


def _traffic(values: Values) -> Traffic:
    plain = _picked(values, "")
    if HASH_ON in values:
        key = values[HASH_ON][0]
        plain |= {"hash_on": key["type"], "hash_name": key.get("name", "").lower()}
    parts = {name: replace(part, **_picked(values, name)) for name, part in _PARTS.items()}
    origins = tuple(sorted((place, origin) for place, (_, origin) in values.items()))
    return replace(UNSAID, **parts, **plain, origins=origins)


_PARTS: Mapping[str, Any] = {part: getattr(UNSAID, part) for part, _ in _PLACES.values() if part}


def _picked(values: Values, part: str) -> dict[str, Any]:
    return {name: values[place][0] for place, (owner, name) in _PLACES.items() if owner == part and place in values}


def told(traffic: Traffic) -> Iterator[tuple[str, Any]]:
    """Yield every place with the value that holds, as a person reads it; ``hashOn`` only where something is hashed."""
    for place, (part, name) in _PLACES.items():
        value = getattr(getattr(traffic, part) if part else traffic, name)
        yield place, _spelled(place, value, is_set=traffic.is_set(place))
        if place == "loadBalancing.algorithm" and traffic.hash_on is not None:
            yield HASH_ON, f"{traffic.hash_on.value} {traffic.hash_name}".strip()


_OFF: Mapping[str, str] = {
    "loadBalancing.subsetting.size": "every instance",
    "circuitBreaker.maxRetries": "as retryBudget says",
    "hedging.after": "the observed p95",
    "adaptiveConcurrency.baseLatency": "measured",
    "outlierEjection.consecutiveErrors": "off",
    "outlierEjection.errorPercent": "off",
    "outlierEjection.latencyFactor": "off",
}
"""What 0 means, where it does not mean 0."""


_UNSAID: Mapping[str, str] = {
    "timeouts.request": " until the answer begins; gRPC: none",
    "timeouts.streamIdle": "; gRPC and upgrades: none",
}
"""What holds beside the value, when nobody wrote one."""


def _spelled(place: str, value: Any, *, is_set: bool) -> str:
    if place in _UNSAID and not is_set:
        return f"{value:g} s{_UNSAID[place]}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or (value == 0 and (place in _OFF or place in TIMES)):
        return _OFF.get(place, "none")
    unit = " s" if place in TIMES else " %" if place.lower().endswith("percent") else ""
    return f"{value:g}{unit}" if isinstance(value, int | float) else str(value)
