"""What programs that use gRPC without a proxy ignore is said on the resource, and only where there are such."""

import pytest
from grpc_meshes import CANARY, ORDERS, a_mesh, policy, route, workload

from masche.compiler.proxyless.grpc_servers import visible
from masche.compiler.view import statuses
from masche.model.diagnostic import Severity
from masche.model.refs import Kind
from masche.model.view import Attribute, Condition, Decision, Pattern, PatternKind, Policy, Rule

FORWARD = "backendRefs: [{name: orders, port: 80}]"
HEADERS = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}"
MIRROR = "{type: RequestMirror, requestMirror: {backendRef: {name: canary, port: 80}}}"
REWRITE = "{type: URLRewrite, urlRewrite: {hostname: other.example}}"
REDIRECT = "{type: RequestRedirect, requestRedirect: {hostname: other.example}}"
PERMISSIVE = """
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: lenient}
spec: {mtls: {mode: PERMISSIVE}}
"""
ON_TIMEOUT = """
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: patient}
spec:
  action: ALLOW
  rules: [{when: [{key: "request.headers[grpc-timeout]", values: ["1S"]}]}]
"""


def said(more: str, *, is_grpc: bool = True) -> list[tuple[str, str]]:
    """Where something is ignored by gRPC, and why."""
    mesh = a_mesh(ORDERS + CANARY + workload("web-1", is_grpc=is_grpc) + workload("orders-1", 50051) + more)
    if not is_grpc:
        mesh = a_mesh(ORDERS + CANARY + workload("web-1", is_grpc=False) + more)
    found = [each for status in statuses(mesh) for each in status.diagnostics if each.code == "ignored-by-grpc"]
    assert all(each.severity is Severity.WARNING and each.fix for each in found)
    return [(each.where, each.why.rpartition(" ignore this: ")[2]) for each in found]


RULE = "HTTPRoute/shop/orders spec.rules[0].matches[0]"


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (f"filters: [{HEADERS}], {FORWARD}", "headers are not changed"),
        (f"filters: [{MIRROR}], {FORWARD}", "nothing is mirrored"),
        (f"filters: [{REWRITE}], {FORWARD}", "neither path nor host are rewritten"),
        (f"filters: [{REDIRECT}]", "a gRPC client follows no redirect: the calls fail with UNAVAILABLE"),
        (f"timeouts: {{backendRequest: 1s}}, {FORWARD}", "a try has no time of its own"),
        (f"retry: {{codes: [503], attempts: 3}}, {FORWARD}", "gRPC itself repeats what reached nobody, once; "),
        (f"backendRefs: [{{name: orders, port: 80, filters: [{HEADERS}]}}]", "headers are not changed for a backend"),
    ],
)
def test_a_rule_that_is_ignored_is_named_with_the_reason(rule: str, why: str):
    (found,) = said(route(f"[{{{rule}}}]"))
    assert found[0] == RULE
    assert found[1].startswith(why)


def test_a_rule_that_is_carried_out_is_not_named():
    rule = f"{{matches: [{{path: {{value: /a.B}}}}], timeouts: {{request: 2s}}, {FORWARD}}}"
    assert said(route(f"[{rule}]")) == []


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ("loadBalancing: {algorithm: LeastRequest}", "loadBalancing.algorithm"),
        ("loadBalancing: {algorithm: RingHash, hashOn: {type: Cookie, name: sid}}", "loadBalancing.hashOn"),
        ("loadBalancing: {algorithm: RoundRobin, slowStart: 10s}", "loadBalancing.slowStart"),
        ("timeouts: {perTry: 1s}", "timeouts.perTry"),
        ("circuitBreaker: {maxPending: 10}", "circuitBreaker.maxPending"),
        ("outlierEjection: {consecutiveErrors: 3}", "outlierEjection.consecutiveErrors"),
        ("retryBudget: {percent: 10}", "retryBudget.percent"),
        ("adaptiveConcurrency: {enabled: true}", "adaptiveConcurrency.enabled"),
    ],
)
def test_a_value_of_a_policy_that_is_ignored_is_named(spec: str, place: str):
    assert f"TrafficPolicy/shop/orders spec.{place}" in {where for where, _ in said(policy(spec))}


@pytest.mark.parametrize(
    "spec",
    [
        "loadBalancing: {algorithm: RoundRobin}",
        "loadBalancing: {algorithm: Maglev, hashOn: {type: Header, name: x-user}}",
        "timeouts: {request: 1s}",
        "circuitBreaker: {maxRequests: 10}",
        "outlierEjection: {errorPercent: 50}",
        "steering: Off",
    ],
)
def test_a_value_of_a_policy_that_is_carried_out_is_not_named(spec: str):
    assert said(policy(spec)) == []


def test_security_that_a_server_carries_out_otherwise_is_named():
    assert said(PERMISSIVE) == [
        ("PeerAuthentication/shop/lenient spec.mtls", "a gRPC server takes mutual TLS alone, no plaintext")
    ]
    for header in ("grpc-timeout", "x-secret-bin"):
        ((where, why),) = said(ON_TIMEOUT.replace("grpc-timeout", header))
        assert where == "AuthorizationPolicy/shop/patient spec"
        assert "a rule to ALLOW never matches" in why


def test_a_denial_forgets_what_grpc_shows_in_another_form_and_an_allowance_never_matches_on_it():
    """gRPC decodes values of ``-bin``: a rule on what was written would never match, and so never deny."""
    secret = Condition(attribute=Attribute.HEADER, name="x-bin", values=(Pattern(PatternKind.EXACT, "c2VjcmV0"),))
    tier = Condition(attribute=Attribute.HEADER, name="x-tier", values=(Pattern(PatternKind.EXACT, "gold"),))
    for decision, rules in ((Decision.DENY, (Rule(name="one", when=(tier,)),)), (Decision.ALLOW, ())):
        policy = Policy(name="p", decision=decision, rules=(Rule(name="one", when=(secret, tier)),))
        assert visible(policy).rules == rules


def test_nothing_is_said_where_no_program_uses_grpc_without_a_proxy():
    assert said(route(f"[{{filters: [{MIRROR}], {FORWARD}}}]") + PERMISSIVE, is_grpc=False) == []


def test_what_was_found_before_stands_beside_what_is_ignored():
    mesh = a_mesh(ORDERS + CANARY + workload("web-1") + route(f"[{{filters: [{MIRROR}], {FORWARD}}}]"))
    found = {each.ref: each for each in statuses(mesh)}
    status = found[next(ref for ref in found if ref.name == "orders" and ref.kind is Kind.HTTP_ROUTE)]
    assert ("Accepted", True, "Accepted") in status.conditions
    assert status.diagnostics
