"""TrafficPolicy: how a Service is called, as far as ``model.view.Traffic`` carries it. What is unset has no opinion.

Durations are Gateway API durations (``500ms``, ``1h30m``); ``scalars.seconds`` reads them.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from masche.model.refs import Kind
from masche.model.resources.meta import Manifest, Part
from masche.model.resources.scalars import Count, Duration, HeaderName, KindName, ObjectName, Percent, Share
from masche.model.view import Algorithm, HashOn


class TrafficTarget(Part):
    """A Service of the policy's namespace."""

    group: str = ""
    kind: KindName = "Service"
    name: ObjectName


class HashKey(Part):
    """What a consistent hash is made of; ``name`` of the header or cookie, ``""`` for the source address."""

    type: HashOn
    name: HeaderName | str = ""


class LoadBalancing(Part):
    """How an instance is chosen; ``slow_start`` is the time in which a new one reaches its full share."""

    algorithm: Algorithm | None = None
    hash_on: HashKey | None = None
    slow_start: Duration | None = None


class OutlierEjectionPolicy(Part):
    """When an instance is cut off; ``consecutive_errors`` 0 switches it off."""

    consecutive_errors: Count | None = None
    interval: Duration | None = None
    base_ejection: Duration | None = None
    max_ejected_percent: Percent | None = None


class CircuitBreakerPolicy(Part):
    """Limits of one caller towards the Service."""

    max_connections: Count | None = None
    max_pending: Count | None = None
    max_requests: Count | None = None


class RetryBudgetPolicy(Part):
    """At most ``percent`` of active requests may be repeats, but ``min_concurrent`` always may."""

    percent: Share | None = None
    min_concurrent: Count | None = None


class TimeoutPolicy(Part):
    """Times of one call and of one connection; ``0s`` means none."""

    request: Duration | None = None
    per_try: Duration | None = None
    idle: Duration | None = None
    connect: Duration | None = None


class ConnectionPolicy(Part):
    """``max_age``: a connection older than this is closed when idle, so that load moves to new instances."""

    max_age: Duration | None = None


class TrafficSettings(Part):
    """Everything that a TrafficPolicy says and a MeshConfig may give a default for."""

    load_balancing: LoadBalancing = LoadBalancing()
    outlier_ejection: OutlierEjectionPolicy = OutlierEjectionPolicy()
    circuit_breaker: CircuitBreakerPolicy = CircuitBreakerPolicy()
    retry_budget: RetryBudgetPolicy = RetryBudgetPolicy()
    timeouts: TimeoutPolicy = TimeoutPolicy()
    connection: ConnectionPolicy = ConnectionPolicy()


class TrafficPolicySpec(TrafficSettings):
    """Which Services (none named: all of the namespace) and how."""

    target_refs: Annotated[tuple[TrafficTarget, ...], Field(max_length=16)] = ()


class TrafficPolicy(Manifest):
    """How the Services that it targets are called."""

    api_version: ClassVar[str] = "masche.dev/v1"
    kind: ClassVar[Kind] = Kind.TRAFFIC_POLICY

    spec: TrafficPolicySpec = TrafficPolicySpec()
