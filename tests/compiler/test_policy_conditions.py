"""How policies are read, and that what cannot be judged fails closed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshes import a_mesh, service, standing, workload

from masche.compiler.conditions import pattern
from masche.compiler.hostnames import covers, intersection, specificity
from masche.compiler.policy import policies
from masche.model.mesh import Mesh
from masche.model.resources.security import AuthorizationPolicy
from masche.model.view import Attribute, Pattern, PatternKind, Policy
from masche.traffic.authorize import authorize
from masche.traffic.request import Connection, Request

BASE = service("orders") + workload("orders-1", "orders")
WEB = Request(connection=Connection(peer="mesh.local/ns/shop/sa/web"))


def a_policy(spec: str, namespace: str = "shop") -> str:
    return f"""---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: p, namespace: {namespace}}}
spec: {spec}
"""


def effective(mesh: Mesh) -> tuple[Policy, ...]:
    return policies(mesh, standing(mesh, "orders-1"))


def with_policy(spec: dict[str, object]) -> Mesh:
    """A policy that only another source than YAML could bring: nothing there refuses what is not judged."""
    policy = AuthorizationPolicy.model_validate({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec})
    mesh = a_mesh(BASE)
    return Mesh(services=mesh.services, workloads=mesh.workloads, authorization_policies={policy.name: policy})


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("*", Pattern(PatternKind.PRESENT)),
        ("a*", Pattern(PatternKind.PREFIX, "a")),
        ("*a", Pattern(PatternKind.SUFFIX, "a")),
        ("a.b", Pattern(PatternKind.EXACT, "a.b")),
        ("a*b", Pattern(PatternKind.EXACT, "a*b")),
    ],
)
def test_a_value_has_one_of_four_forms(text: str, read: Pattern):
    assert pattern(text) == read


def test_cluster_local_is_the_trust_domain_of_the_mesh():
    spec = "{rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/web, other/ns/shop/sa/web]}}]}]}"
    [policy] = effective(a_mesh(BASE + a_policy(spec)))
    [[condition]] = policy.rules[0].sources
    assert condition.attribute is Attribute.PRINCIPAL
    assert [each.value for each in condition.values] == ["mesh.local/ns/shop/sa/web", "other/ns/shop/sa/web"]


def test_a_short_service_account_is_of_the_policys_namespace():
    [policy] = effective(a_mesh(BASE + a_policy("{rules: [{from: [{source: {serviceAccounts: [web, lab/cli]}}]}]}")))
    [[condition]] = policy.rules[0].sources
    assert [each.value for each in condition.values] == ["shop/web", "lab/cli"]


@pytest.mark.parametrize(
    "rule",
    [
        {"from": [{"source": {"requestPrincipals": ["*"]}}]},
        {"when": [{"key": "request.auth.claims[iss]", "values": ["x"]}]},
    ],
    ids=["the identity of an end user", "a claim"],
)
def test_what_cannot_be_judged_fails_closed(rule: dict[str, object]):
    allow, deny = ({"action": action, "rules": [rule]} for action in ("ALLOW", "DENY"))
    assert not authorize(effective(with_policy(allow)), WEB).allowed
    assert not authorize(effective(with_policy(deny)), WEB).allowed


@pytest.mark.parametrize(
    ("spec", "namespace", "count"),
    [
        ("{}", "shop", 1),
        ("{}", "lab", 0),
        ("{}", "masche-system", 1),
        ("{selector: {matchLabels: {app: orders}}}", "shop", 1),
        ("{selector: {matchLabels: {app: web}}}", "shop", 0),
        ("{selector: {matchLabels: {app: orders}}}", "masche-system", 1),
        ("{targetRefs: [{kind: Service, group: '', name: orders}]}", "shop", 1),
        ("{targetRefs: [{kind: Service, group: '', name: other}]}", "shop", 0),
        ("{targetRefs: [{kind: Service, group: '', name: orders}]}", "masche-system", 0),
    ],
)
def test_a_policy_holds_where_it_says(spec: str, namespace: str, count: int):
    assert len(effective(a_mesh(BASE + a_policy(spec, namespace)))) == count


HOSTS = st.sampled_from(["*", "a.org", "*.org", "*.a.org", "b.a.org", "c.b.a.org", "aa.org", "*.b.a.org"])


@given(HOSTS, HOSTS)
def test_what_two_hostnames_have_in_common_is_covered_by_both(one: str, other: str):
    common = intersection(one, other)
    assert intersection(other, one) == common
    assert (common is not None) == (covers(one, other) or covers(other, one))
    if common:
        assert covers(one, common)
        assert covers(other, common)
        assert specificity(common) <= min(specificity(one), specificity(other))


def test_a_wildcard_stands_for_at_least_one_label():
    assert covers("*.a.org", "b.a.org")
    assert covers("*.a.org", "c.b.a.org")
    assert not covers("*.a.org", "a.org")
    assert not covers("*.a.org", "aa.org")
    assert not covers("*.a.org", "*.org")
