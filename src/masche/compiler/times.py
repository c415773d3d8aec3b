"""How long a request may take, in whole and in parts: what a rule says, then the Service's policy, then what is usual.

What nobody set limits only how long an answer may take to begin (the time of one try), so that downloads and events
flow for as long as they like. Invariant: streams, of gRPC or of an upgraded connection, are limited only by what
somebody wrote.
"""

from dataclasses import dataclass, replace

from masche.model.calling import Traffic
from masche.model.resources.gateway_api import HTTPRouteRule
from masche.model.resources.scalars import seconds
from masche.model.view import Forward, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """In seconds, 0 for none; they are Forward's."""

    request: float
    per_try: float
    stream: float
    idle: float
    stream_idle: float
    hedge_after: float

    def on(self, forward: Forward) -> Forward:
        """Return the same action with these times."""
        return replace(
            forward,
            timeout=self.request,
            per_try_timeout=self.per_try,
            stream_timeout=self.stream,
            idle_timeout=self.idle,
            stream_idle_timeout=self.stream_idle,
            hedge_after=self.hedge_after,
        )


def times(traffic: Traffic, protocol: Protocol, rule: HTTPRouteRule | None = None, *, is_edge: bool = False) -> Times:
    """Return the times of a rule, or of a Service without one."""
    written = rule.timeouts if rule else None
    request, per_try = _usual(traffic, protocol)
    stream = traffic.per_try_timeout
    if written and written.request is not None:
        request, per_try = seconds(written.request), traffic.per_try_timeout
    if written and written.backend_request is not None:
        per_try = stream = seconds(written.backend_request)
    idle, stream_idle = idle_times(traffic) if is_edge or traffic.is_set("timeouts.streamIdle") else (0.0, 0.0)
    return Times(
        request=request,
        per_try=per_try,
        stream=stream,
        idle=idle,
        stream_idle=stream_idle,
        hedge_after=traffic.hedging.after if traffic.hedging.enabled else 0.0,
    )


def _usual(traffic: Traffic, protocol: Protocol) -> tuple[float, float]:
    if traffic.is_set("timeouts.request"):
        return traffic.request_timeout, traffic.per_try_timeout
    if protocol is Protocol.GRPC:
        return 0.0, traffic.per_try_timeout
    return 0.0, traffic.per_try_timeout or traffic.request_timeout


def idle_times(traffic: Traffic) -> tuple[float, float]:
    """Return how long nothing may move on a request, and on a stream."""
    written = traffic.stream_idle_timeout
    return (written, written) if traffic.is_set("timeouts.streamIdle") else (written, 0.0)
