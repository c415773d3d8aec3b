"""TrafficPolicy: how a Service is called. What is unset has no opinion, and somebody less specific decides it.

Durations are Gateway API durations (``500ms``, ``1h30m``); ``scalars.seconds`` reads them. ``docs/traffic-policy.md``
explains each field to its user; the ranges stand in ``model.validate_traffic``.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from masche.model.calling import Algorithm, HashOn, SteeringMode, ZonePreference
from masche.model.refs import Kind
from masche.model.resources.meta import Manifest, Part
from masche.model.resources.scalars import Count, Duration, Flag, HeaderName, KindName, Number, ObjectName


class TrafficTarget(Part):
    """A Service of the policy's namespace."""

    group: str = ""
    kind: KindName = "Service"
    name: ObjectName


class HashKey(Part):
    """What a consistent hash is made of; ``name`` of the header or cookie, ``""`` for the source address."""

    type: HashOn
    name: HeaderName | str = ""


class Subsetting(Part):
    """How many instances one caller calls."""

    size: Count | None = None


class LoadBalancing(Part):
    """How an instance is chosen; ``slow_start`` is the time in which a new one reaches its full share."""

    algorithm: Algorithm | None = None
    hash_on: HashKey | None = None
    subsetting: Subsetting = Subsetting()
    slow_start: Duration | None = None


class LocalityPolicy(Part):
    """Which zones are called, and whether calls may leave a slow zone or go around a slow link."""

    preference: ZonePreference | None = None
    spill: Flag | None = None
    detours: Flag | None = None


class OutlierEjectionPolicy(Part):
    """When an instance is cut off; 0 switches a reason off."""

    consecutive_errors: Count | None = None
    error_percent: Count | None = None
    latency_factor: Number | None = None
    interval: Duration | None = None
    base_ejection: Duration | None = None
    max_ejected_percent: Count | None = None


class CircuitBreakerPolicy(Part):
    """Limits of one caller towards the Service."""

    max_connections: Count | None = None
    max_pending: Count | None = None
    max_requests: Count | None = None
    max_retries: Count | None = None


class RetryBudgetPolicy(Part):
    """At most ``percent`` of active requests may be repeats, but ``min_concurrent`` always may."""

    percent: Number | None = None
    min_concurrent: Count | None = None


class TimeoutPolicy(Part):
    """Times of one call and of one connection; ``0s`` means none."""

    request: Duration | None = None
    per_try: Duration | None = None
    idle: Duration | None = None
    stream_idle: Duration | None = None
    connect: Duration | None = None


class HedgingPolicy(Part):
    """A second try beside a slow first one, of requests that are idempotent."""

    enabled: Flag | None = None
    after: Duration | None = None
    max_percent: Number | None = None


class AdaptiveConcurrencyPolicy(Part):
    """Each instance finds out how many requests at a time it can carry, and refuses the others."""

    enabled: Flag | None = None
    max_concurrency: Count | None = None
    base_latency: Duration | None = None


class ConnectionPolicy(Part):
    """``max_age``: a connection older than this is closed when idle, so that load moves to new instances."""

    keepalive: Duration | None = None
    max_age: Duration | None = None


class TrafficSettings(Part):
    """Everything that a TrafficPolicy says and a MeshConfig may give a default for."""

    steering: SteeringMode | None = None
    load_balancing: LoadBalancing = LoadBalancing()
    locality: LocalityPolicy = LocalityPolicy()
    outlier_ejection: OutlierEjectionPolicy = OutlierEjectionPolicy()
    circuit_breaker: CircuitBreakerPolicy = CircuitBreakerPolicy()
    retry_budget: RetryBudgetPolicy = RetryBudgetPolicy()
    timeouts: TimeoutPolicy = TimeoutPolicy()
    hedging: HedgingPolicy = HedgingPolicy()
    adaptive_concurrency: AdaptiveConcurrencyPolicy = AdaptiveConcurrencyPolicy()
    connection: ConnectionPolicy = ConnectionPolicy()


class TrafficPolicySpec(TrafficSettings):
    """Which Services (none named: all of the namespace) and how."""

    target_refs: Annotated[tuple[TrafficTarget, ...], Field(max_length=16)] = ()


class TrafficPolicy(Manifest):
    """How the Services that it targets are called."""

    api_version: ClassVar[str] = "masche.dev/v1"
    kind: ClassVar[Kind] = Kind.TRAFFIC_POLICY

    spec: TrafficPolicySpec = TrafficPolicySpec()
