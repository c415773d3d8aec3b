"""Which value of a TrafficPolicy holds, who wrote it, and what is said of values that nothing comes of."""

from meshes import a_mesh, service, workload

from masche.compiler.clusters import cluster
from masche.compiler.gateways import gateway
from masche.compiler.policystatus import policy_statuses
from masche.compiler.trafficpolicy import told, traffic
from masche.compiler.unheeded import unheeded
from masche.model.calling import (
    AdaptiveConcurrency,
    Algorithm,
    CircuitBreaker,
    Hedging,
    LocalityRules,
    OutlierEjection,
    RetryBudget,
    SteeringMode,
    Traffic,
    ZonePreference,
)
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.model.view import Forward

ORDERS = Name("shop", "orders")


def policy(name: str, spec: str, created: str = "2026-01-01T00:00:00Z") -> str:
    return f"""---
apiVersion: masche.dev/v1
kind: TrafficPolicy
metadata: {{name: {name}, creationTimestamp: "{created}"}}
spec: {{{spec}}}
"""


def defaults(spec: str) -> str:
    return f"""---
apiVersion: masche.dev/v1
kind: MeshConfig
metadata: {{name: default}}
spec: {{defaults: {{{spec}}}}}
"""


TARGET = "targetRefs: [{kind: Service, name: orders}]"
EVERYTHING = f"""{TARGET}, steering: DryRun,
  loadBalancing: {{algorithm: RingHash, hashOn: {{type: Header, name: X-User}}, subsetting: {{size: 20}}}},
  locality: {{preference: None, spill: false, detours: false}},
  outlierEjection: {{consecutiveErrors: 3, errorPercent: 50, latencyFactor: 2.5, interval: 2s, baseEjection: 9s,
    maxEjectedPercent: 30}},
  circuitBreaker: {{maxConnections: 1, maxPending: 2, maxRequests: 3, maxRetries: 0}},
  retryBudget: {{percent: 12.5, minConcurrent: 2}},
  timeouts: {{request: 3s, perTry: 1s, idle: 1m, streamIdle: 0s, connect: 200ms}},
  hedging: {{enabled: true, after: 100ms, maxPercent: 1}},
  adaptiveConcurrency: {{enabled: true, maxConcurrency: 50, baseLatency: 5ms}},
  connection: {{keepalive: 30s, maxAge: 1h}}"""


def held(*parts: str) -> tuple[Mesh, Traffic]:
    mesh = a_mesh(service("orders") + workload("orders-1", "orders") + "".join(parts))
    return mesh, traffic(mesh.services, mesh.traffic_policies, mesh.config)[ORDERS]


def said(mesh: Mesh, name: str) -> dict[str, str]:
    found = unheeded(mesh, mesh.traffic_policies[Name("shop", name)])
    return {each.where.partition(" spec.")[2]: each.why for each in found}


def test_every_value_that_was_written_holds():
    _, made = held(policy("all", EVERYTHING))
    assert (made.algorithm, made.hash_name, made.subset_size) == (Algorithm.RING_HASH, "x-user", 20)
    assert made.steering is SteeringMode.DRY_RUN
    assert made.locality == LocalityRules(preference=ZonePreference.NONE, spills=False, detours=False)
    assert made.outlier == OutlierEjection(
        consecutive_errors=3, error_percent=50, latency_factor=2.5, interval=2, base_ejection=9, max_ejected_percent=30
    )
    assert made.breaker == CircuitBreaker(max_connections=1, max_pending=2, max_requests=3, max_retries=0)
    assert made.budget == RetryBudget(percent=12.5, min_concurrent=2)
    assert (made.request_timeout, made.per_try_timeout, made.idle_timeout) == (3, 1, 60)
    assert (made.stream_idle_timeout, made.connect_timeout) == (0, 0.2)
    assert made.hedging == Hedging(enabled=True, after=0.1, max_percent=1)
    assert made.concurrency == AdaptiveConcurrency(enabled=True, max_concurrency=50, base_latency=0.005)
    assert (made.keepalive, made.max_connection_age) == (30, 3600)
    places = {place for place, _ in told(made)}
    assert {place for place, _ in made.origins} == places - {"loadBalancing.slowStart"}


def test_each_value_comes_from_the_most_specific_that_says_it_and_among_equals_from_the_oldest():
    mesh, made = held(
        policy("younger", f"{TARGET}, hedging: {{enabled: true, after: 2s}}", "2026-03-01T00:00:00Z"),
        policy("older", f"{TARGET}, hedging: {{enabled: true, after: 1s}}"),
        policy("everywhere", "steering: DryRun, locality: {spill: false}"),
        defaults("steering: Off, locality: {spill: true, detours: false}"),
    )
    assert (made.hedging.after, made.steering) == (1, SteeringMode.DRY_RUN)
    assert (made.locality.spills, made.locality.detours) == (False, False)
    origins = {place: str(origin) for place, origin in made.origins}
    assert origins == {
        "hedging.enabled": "TrafficPolicy/shop/older spec.hedging.enabled",
        "hedging.after": "TrafficPolicy/shop/older spec.hedging.after",
        "steering": "TrafficPolicy/shop/everywhere spec.steering",
        "locality.spill": "TrafficPolicy/shop/everywhere spec.locality.spill",
        "locality.detours": "MeshConfig/default spec.defaults.locality.detours",
    }
    assert cluster(mesh, PortRef("shop", "orders", 80)).traffic == made


def test_steering_is_switched_off_for_the_whole_mesh_in_one_place():
    _, made = held(defaults("steering: Off"))
    assert made.steering is SteeringMode.OFF


def test_what_no_proxy_carries_out_is_said_to_whoever_wrote_it():
    mesh, _ = held(
        policy(
            "orders", f"{TARGET}, loadBalancing: {{subsetting: {{size: 3}}}}, hedging: {{enabled: true, maxPercent: 1}}"
        )
    )
    assert said(mesh, "orders").keys() == {
        "loadBalancing.subsetting.size",
        "hedging.enabled",
        "hedging.maxPercent",
    }


def test_nothing_is_said_of_what_is_carried_out():
    mesh, _ = held(
        policy("orders", f"{TARGET}, hedging: {{enabled: true, after: 1s}}, retryBudget: {{percent: 5}}"),
        policy("everywhere", "loadBalancing: {algorithm: Maglev, hashOn: {type: SourceIP}}"),
    )
    assert not said(mesh, "orders")
    assert not said(mesh, "everywhere")


def test_a_value_that_another_policy_overrules_draws_no_remark():
    mesh, _ = held(
        policy("orders", f"{TARGET}, circuitBreaker: {{maxRetries: 2}}, retryBudget: {{percent: 5}}"),
        policy("other", f"{TARGET}, retryBudget: {{percent: 9}}", "2026-03-01T00:00:00Z"),
    )
    assert said(mesh, "orders").keys() == {"retryBudget.percent"}
    assert not said(mesh, "other")


def test_a_port_of_bytes_heeds_nothing_about_requests():
    mesh = a_mesh(
        service("orders", "[{name: tcp, port: 90}]")
        + policy("orders", f"{TARGET}, timeouts: {{request: 1s, connect: 1s}}, adaptiveConcurrency: {{enabled: true}}")
    )
    assert said(mesh, "orders") == dict.fromkeys(
        ("timeouts.request", "adaptiveConcurrency.enabled"), "port 90 of shop/orders carries bytes, not requests"
    )


def test_a_policy_for_a_namespace_is_enough_heeded_when_one_service_does():
    everywhere = policy("everywhere", "timeouts: {request: 1s}")
    ledger = service("ledger", "[{name: tcp, port: 90}]")
    assert not said(a_mesh(service("orders") + ledger + everywhere), "everywhere")
    assert said(a_mesh(ledger + everywhere), "everywhere").keys() == {"timeouts.request"}


def test_an_instance_without_a_proxy_limits_nothing():
    mesh = a_mesh(
        service("orders")
        + workload("orders-1", "orders", ", tls: DISABLE, ports: [{port: 8080}]")
        + policy("orders", f"{TARGET}, adaptiveConcurrency: {{enabled: true}}")
    )
    assert "without a proxy" in said(mesh, "orders")["adaptiveConcurrency.enabled"]


def test_calls_of_grpc_are_not_hedged():
    mesh = a_mesh(
        service("orders", "[{name: grpc, port: 90}]")
        + policy("orders", f"{TARGET}, hedging: {{enabled: true, after: 1s}}")
    )
    assert said(mesh, "orders").keys() == {"hedging.enabled", "hedging.after"}


def test_nobody_looks_at_latency_while_steering_is_off():
    mesh, _ = held(policy("orders", f"{TARGET}, outlierEjection: {{latencyFactor: 2}}"), defaults("steering: Off"))
    assert said(mesh, "orders") == {
        "outlierEjection.latencyFactor": "steering is Off, and nothing else looks at latency"
    }


def test_slow_start_of_the_mesh_is_said_to_be_lost_where_a_policy_hashes():
    mesh, _ = held(
        policy("everywhere", "loadBalancing: {slowStart: 30s}"),
        policy("orders", f"{TARGET}, loadBalancing: {{algorithm: RingHash, hashOn: {{type: SourceIP}}}}"),
    )
    assert said(mesh, "everywhere") == {"loadBalancing.slowStart": "RingHash has no slow start"}


def test_the_defaults_of_a_mesh_are_judged_too():
    mesh = a_mesh(defaults("loadBalancing: {subsetting: {size: 3}}, circuitBreaker: {maxRetries: 1}"))
    (status,) = [each for each in policy_statuses(mesh) if each.diagnostics]
    assert [each.where for each in status.diagnostics] == [
        "MeshConfig/default spec.defaults.loadBalancing.subsetting.size"
    ]


def test_at_a_gateway_the_policy_of_each_rules_own_service_holds():
    mesh = a_mesh(
        service("orders")
        + service("stock")
        + policy("stock", "targetRefs: [{kind: Service, name: stock}], timeouts: {request: 9s}")
        + """---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec: {gatewayClassName: masche, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all}
spec:
  parentRefs: [{name: edge}]
  rules:
  - {matches: [{path: {value: /orders}}], backendRefs: [{name: orders, port: 80}]}
  - {matches: [{path: {value: /stock}}], backendRefs: [{name: stock, port: 80}]}
"""
    )
    (listener,) = gateway(mesh, Name("shop", "edge"))
    actions = {route.match.path: route.action for host in listener.virtual_hosts for route in host.routes}
    orders, stock = actions["/orders"], actions["/stock"]
    assert isinstance(orders, Forward)
    assert isinstance(stock, Forward)
    assert (orders.timeout, orders.per_try_timeout) == (0, 15)
    assert (stock.timeout, stock.per_try_timeout) == (9, 0)


def test_a_value_that_an_older_policy_of_the_same_target_decides_is_said_to_be_in_vain():
    """And only that one: what is more specific is meant to win, and says so where the effective policy is shown."""
    mesh = a_mesh(
        service("orders")
        + policy("old", f"{TARGET}, timeouts: {{request: 3s}}")
        + policy("young", f"{TARGET}, timeouts: {{request: 5s, perTry: 1s}}", created="2026-02-01T00:00:00Z")
        + policy("everywhere", "timeouts: {request: 9s}")
        + policy("everywhere-too", "timeouts: {request: 8s}", created="2026-02-01T00:00:00Z")
    )
    found = [(each.where, each.why) for status in policy_statuses(mesh) for each in status.diagnostics]
    assert found == [
        (
            "TrafficPolicy/shop/young spec.timeouts.request",
            "for Service shop/orders TrafficPolicy/shop/old decides timeouts.request, which is older",
        ),
        (
            "TrafficPolicy/shop/everywhere-too spec.timeouts.request",
            "for namespace shop TrafficPolicy/shop/everywhere decides timeouts.request, which is older",
        ),
    ]
    assert all(condition[1] for status in policy_statuses(mesh) for condition in status.conditions)
