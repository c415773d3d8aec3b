"""How a Service is called: the effective TrafficPolicy, every field with the value that holds when nobody wrote one.

Invariant: each default is safe without knowing the application: nothing is repeated that is not idempotent, every
repeat counts against a budget, and no limit is so low that a healthy service meets it.
"""

from enum import StrEnum

from masche.model.frozen import frozen
from masche.model.refs import Origin


class Algorithm(StrEnum):
    """How an instance is chosen."""

    LEAST_REQUEST = "LeastRequest"
    ROUND_ROBIN = "RoundRobin"
    RANDOM = "Random"
    RING_HASH = "RingHash"
    MAGLEV = "Maglev"

    @property
    def is_hash(self) -> bool:
        """Whether it keeps a caller at one instance."""
        return self in {Algorithm.RING_HASH, Algorithm.MAGLEV}


class HashOn(StrEnum):
    """What a consistent hash is made of."""

    HEADER = "Header"
    COOKIE = "Cookie"
    SOURCE_IP = "SourceIP"


@frozen
class OutlierEjection:
    """When an instance is cut off. Times in seconds, shares in percent; 0 switches a reason off.

    ``consecutive_errors`` failed requests in a row; ``error_percent`` of its requests failing in an ``interval``; a
    latency of ``latency_factor`` times the median of the others.
    """

    consecutive_errors: int = 5
    error_percent: int = 0
    latency_factor: float = 3.0
    interval: float = 1.0
    base_ejection: float = 1.0
    max_ejected_percent: int = 50


@frozen
class CircuitBreaker:
    """Limits of one caller towards one Service; above them a request fails at once with 503.

    ``max_retries`` repeats at a time, whatever share the retry budget gives; None: the budget alone.
    """

    max_connections: int = 1024
    max_pending: int = 1024
    max_requests: int = 1024
    max_retries: int | None = None


@frozen
class RetryBudget:
    """At most ``percent`` of active requests may be repeats, but ``min_concurrent`` always may."""

    percent: float = 20.0
    min_concurrent: int = 5


@frozen
class Hedging:
    """A second try of an idempotent request that is slow, beside the first: the first answer counts.

    ``after`` in seconds; 0: after the 95th percentile that was observed. At most ``max_percent`` of all requests.
    """

    enabled: bool = False
    after: float = 0.0
    max_percent: float = 2.0


@frozen
class AdaptiveConcurrency:
    """An instance's own limit of requests at a time, found by how its latency grows with load; above it 503.

    ``base_latency`` is what it needs unloaded, in seconds; 0: it is measured now and then, with few requests at a time.
    """

    enabled: bool = False
    max_concurrency: int = 1000
    base_latency: float = 0.0


UNLIMITED = AdaptiveConcurrency()
"""An instance takes what its callers send."""


class SteeringMode(StrEnum):
    """Whether measured latency moves weights, zones and detours: yes, or it is only said what would move, or not."""

    ON = "On"
    DRY_RUN = "DryRun"
    OFF = "Off"


class ZonePreference(StrEnum):
    """Which zone's instances are called: the caller's own while it has room, or all alike."""

    OWN_ZONE = "OwnZone"
    NONE = "None"


@frozen
class LocalityRules:
    """How zones are used. ``spills``: calls may leave a zone that is slow or full; ``detours``: they may pass a third
    zone's gateway when that is clearly faster.
    """

    preference: ZonePreference = ZonePreference.OWN_ZONE
    spills: bool = True
    detours: bool = True


@frozen
class Traffic:
    """The effective TrafficPolicy of one (Service, port). Times in seconds; 0 means none.

    ``stream_idle_timeout`` is how long nothing may move on one request; that nobody set it means this long for plain
    requests, and for ever for gRPC and upgraded connections. ``subset_size`` 0: every instance is called.
    ``origins`` says for each field that a resource set (``timeouts.request``) which resource it was.
    """

    algorithm: Algorithm = Algorithm.LEAST_REQUEST
    hash_on: HashOn | None = None
    hash_name: str = ""
    subset_size: int = 0
    slow_start: float = 0.0
    connect_timeout: float = 1.0
    request_timeout: float = 15.0
    per_try_timeout: float = 0.0
    idle_timeout: float = 300.0
    stream_idle_timeout: float = 300.0
    keepalive: float = 10.0
    max_connection_age: float = 3600.0
    outlier: OutlierEjection = OutlierEjection()
    breaker: CircuitBreaker = CircuitBreaker()
    budget: RetryBudget = RetryBudget()
    hedging: Hedging = Hedging()
    concurrency: AdaptiveConcurrency = AdaptiveConcurrency()
    locality: LocalityRules = LocalityRules()
    steering: SteeringMode = SteeringMode.ON
    origins: tuple[tuple[str, Origin], ...] = ()

    def is_set(self, place: str) -> bool:
        """Whether some resource wrote this field (``timeouts.request``)."""
        return any(each == place for each, _ in self.origins)


UNSAID = Traffic()
"""What holds for a port when nobody wrote a policy."""
