"""What a TrafficPolicy says and a proxy cannot carry out, or not for the Services that it is about.

Decided from the Mesh alone; ``docs/traffic-policy.md`` says the same of every field. Invariant: a value that changes
nothing anywhere is never accepted in silence.
"""

from collections.abc import Iterator, Mapping

from masche.compiler.clusters import cluster
from masche.compiler.protocol import ports
from masche.compiler.trafficpolicy import HASH_ON, written
from masche.model.calling import Algorithm, HashOn, SteeringMode, Traffic
from masche.model.diagnostic import Diagnostic, Severity
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef, Ref
from masche.model.resources.mesh_config import MeshConfig
from masche.model.resources.traffic_policy import TrafficPolicy
from masche.model.view import Cluster, Protocol

Why = tuple[str, str]
"""The reason, and the cure."""

_SHARED_ENDPOINTS = "proxies call every instance, since all callers of a zone are told the same ones"
_ONE_BUDGET = "a proxy takes hedges out of the retryBudget, as it does repeats"
_NO_PERCENTILE = "a proxy hedges after a fixed time and cannot wait for an observed p95, so nothing is hedged"
_MAX_INSTEAD = "a proxy has one limit of repeats: circuitBreaker.maxRetries stands in the place of the share"
_NOT_STEERED = "steering is Off, and nothing else looks at latency"
_NOT_IDEMPOTENT = "calls of gRPC are POST requests, which are not idempotent and never sent twice"
_UNWEIGHTED = "Random ignores weights, so what steering gives to instances of one zone has no effect"


def _by_value(traffic: Traffic) -> Mapping[str, Why]:
    """What cannot be carried out whatever the Services are, by place."""
    found: dict[str, Why] = {
        "loadBalancing.subsetting.size": (_SHARED_ENDPOINTS, "remove it"),
        "hedging.maxPercent": (_ONE_BUDGET, "write retryBudget.percent"),
    }
    if traffic.hedging.enabled and not traffic.hedging.after:
        found["hedging.enabled"] = (_NO_PERCENTILE, "write hedging.after, about the p95 of the Service")
    if traffic.breaker.max_retries is not None:
        found |= dict.fromkeys(
            ("retryBudget.percent", "retryBudget.minConcurrent"), (_MAX_INSTEAD, "remove one of both")
        )
    if traffic.algorithm is Algorithm.RANDOM:
        found["loadBalancing.algorithm"] = (_UNWEIGHTED, "use LeastRequest, or steering: Off")
    if traffic.steering is SteeringMode.OFF:
        found |= dict.fromkeys(
            ("outlierEjection.latencyFactor", "locality.detours"), (_NOT_STEERED, "write steering: On")
        )
    if traffic.slow_start and traffic.algorithm not in {Algorithm.LEAST_REQUEST, Algorithm.ROUND_ROBIN}:
        found["loadBalancing.slowStart"] = (f"{traffic.algorithm} has no slow start", "use LeastRequest")
    return found


_REQUESTS = (
    "timeouts.request", "timeouts.perTry", "timeouts.idle", "timeouts.streamIdle", "hedging.", "retryBudget.",
    "adaptiveConcurrency.", "circuitBreaker.maxRequests", "circuitBreaker.maxRetries", "connection.maxAge",
)  # fmt: skip
"""Places, or how they begin, that mean something for requests alone."""


_NAME_ANOTHER = "remove it, or name a Service that speaks HTTP in targetRefs"


def _by_cluster(found: Cluster, place: str) -> Why | None:
    """What one port of a Service cannot heed."""
    is_of_requests = place.startswith(_REQUESTS) or (place == HASH_ON and found.traffic.hash_on is not HashOn.SOURCE_IP)
    if found.protocol is Protocol.TCP and is_of_requests:
        return f"port {found.service.port} of {found.service.owner} carries bytes, not requests", _NAME_ANOTHER
    if found.protocol is Protocol.GRPC and place.startswith("hedging."):
        return _NOT_IDEMPOTENT, "remove it"
    if found.has_plaintext and place.startswith("adaptiveConcurrency."):
        return f"{found.service.owner} has instances without a proxy, which limit nothing", "give them a proxy"
    return None


def unheeded(mesh: Mesh, policy: TrafficPolicy) -> Iterator[Diagnostic]:
    """Say what of a policy is not carried out.

    A policy for a whole namespace is about no Service in particular, so it is enough that some Service heeds it.
    """
    clusters = [cluster(mesh, ref) for ref in _ports(mesh, policy)]
    for place, _ in written(policy.spec):
        why = _said(policy, place, clusters)
        if why:
            yield _warning(policy.ref, f"spec.{place}", why)


def unheeded_defaults(config: MeshConfig, traffic: Traffic) -> Iterator[Diagnostic]:
    """Say what of a mesh's defaults no proxy carries out; ``traffic`` is what they come to."""
    by_value = _by_value(traffic)
    for place, _ in written(config.spec.defaults):
        if place in by_value:
            yield _warning(config.ref, f"spec.defaults.{place}", by_value[place])


def _said(policy: TrafficPolicy, place: str, clusters: list[Cluster]) -> Why | None:
    heard = [each for each in clusters if (place, policy.ref) in _origins(each.traffic)]
    reasons = [_by_cluster(each, place) or _by_value(each.traffic).get(place) for each in heard]
    found = [each for each in reasons if each]
    is_everywhere = len(found) == len(reasons)
    return found[0] if found and (policy.spec.target_refs or is_everywhere) else None


def _origins(traffic: Traffic) -> set[tuple[str, Ref]]:
    return {(place, origin.ref) for place, origin in traffic.origins}


def _ports(mesh: Mesh, policy: TrafficPolicy) -> Iterator[PortRef]:
    namespace = policy.metadata.namespace
    targets = [Name(namespace, target.name) for target in policy.spec.target_refs]
    named = targets or [name for name in mesh.services if name.namespace == namespace]
    for name in sorted(set(named) & mesh.services.keys()):
        yield from (PortRef(*name, port.port) for port in ports(mesh.services[name]))


def _warning(ref: Ref, place: str, why: Why) -> Diagnostic:
    reason, fix = why
    return Diagnostic(
        code="not-carried-out-here", where=f"{ref} {place}", why=reason, fix=fix, severity=Severity.WARNING, ref=ref
    )
