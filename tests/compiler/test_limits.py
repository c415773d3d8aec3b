"""Which limits hold where, in which order they are asked, and what is said of them."""

import pytest
from meshes import a_mesh, service, standing, workload

from masche.compiler.impact import affected
from masche.compiler.limits import limits
from masche.compiler.proxyless import grpc_ignored
from masche.compiler.replay import explain
from masche.compiler.vantage import stand
from masche.compiler.view import statuses, view
from masche.compiler.why import Call
from masche.model.diagnostic import Status
from masche.model.limits import KeyKind, Limit, LimitKey
from masche.model.mesh import Mesh
from masche.model.refs import Name
from masche.model.vantage import Dialect, Placement

BASE = service("orders") + workload("orders-1", "orders") + workload("web-1", "web")
GATEWAY = """---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public}
spec: {gatewayClassName: masche, listeners: [{name: web, port: 80, protocol: HTTP}]}
"""
ORDERS = "targetRefs: [{kind: Service, name: orders}]"
PUBLIC = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: public}]"


def a_policy(local: str = "[{requests: 1, per: 1s}]", scope: str = ORDERS, *, name: str = "p", where: str = "") -> str:
    namespace = f", namespace: {where}" if where else ""
    return f"""---
apiVersion: masche.dev/v1
kind: RateLimitPolicy
metadata: {{name: {name}{namespace}}}
spec:
  {scope or "selector:"}
  local: {local}
"""


def held(mesh: Mesh, name: str = "orders-1") -> tuple[Limit, ...]:
    return limits(mesh, standing(mesh, name))


def status(mesh: Mesh) -> Status:
    return next(each for each in statuses(mesh) if each.ref.kind == "RateLimitPolicy")


@pytest.mark.parametrize(
    ("scope", "where", "holding"),
    [
        (ORDERS, "", {"orders-1"}),
        ("", "", {"orders-1", "web-1"}),
        ("selector: {matchLabels: {app: web}}", "", {"web-1"}),
        ("selector: {matchLabels: {app: web}}", "masche-system", {"web-1"}),
        ("", "masche-system", {"orders-1", "web-1"}),
        ("", "elsewhere", set[str]()),
        (PUBLIC, "", set[str]()),
    ],
)
def test_a_limit_holds_where_an_authorization_policy_would(scope: str, where: str, holding: set[str]):
    mesh = a_mesh(BASE + GATEWAY + a_policy(scope=scope, where=where))
    assert {name for name in ("orders-1", "web-1") if held(mesh, name)} == holding


def test_a_gateway_counts_what_its_policies_say():
    mesh = a_mesh(BASE + GATEWAY + a_policy(scope=PUBLIC))
    edge = stand(
        mesh, mesh.workloads[Name("shop", "web-1")], placement=Placement.GATEWAY, gateway=Name("shop", "public")
    )
    assert [each.name for each in view(mesh, edge).inbound.limits] == ["shop/p local[0]"]


def test_the_slowest_limit_is_asked_first_whoever_wrote_it():
    fast = a_policy("[{requests: 100, per: 1s}, {requests: 100, per: 1m, burst: 7}]", name="a")
    mesh = a_mesh(BASE + fast + a_policy("[{requests: 2, per: 500ms, key: {type: Header, name: X-T}}]", name="b"))
    found = held(mesh)
    assert [each.name for each in found] == ["shop/a local[1]", "shop/b local[0]", "shop/a local[0]"]
    assert [(each.requests, each.per, each.burst) for each in found] == [(100, 60.0, 7), (2, 0.5, 2), (100, 1.0, 100)]
    assert found[1].key == LimitKey(kind=KeyKind.HEADER, name="x-t")


def test_a_policy_with_a_target_is_accepted_and_nothing_is_wrong_with_it():
    found = status(a_mesh(BASE + a_policy()))
    assert (found.conditions, found.diagnostics) == ((("Accepted", True, "Accepted"),), ())


@pytest.mark.parametrize(
    ("more", "policy", "code"),
    [
        ("", a_policy(scope="targetRefs: [{kind: Service, name: none}]"), "target-missing"),
        ("", a_policy(scope="selector: {matchLabels: {app: nobody}}"), "selects-nobody"),
        (
            service("db", "[{port: 5432, appProtocol: postgres}]"),
            a_policy(scope="targetRefs: [{kind: Service, name: db}]"),
            "counts-nothing",
        ),
        (GATEWAY, a_policy("[{requests: 1, per: 1s, key: {type: Client}}]", PUBLIC), "one-bucket"),
    ],
)
def test_a_limit_that_does_less_than_it_seems_to_says_so(more: str, policy: str, code: str):
    found = status(a_mesh(BASE + more + policy))
    assert [each.code for each in found.diagnostics] == [code]
    assert found.conditions == (("Accepted", code != "target-missing", _reason(code)),)


def _reason(code: str) -> str:
    return "TargetNotFound" if code == "target-missing" else "Accepted"


def test_why_names_the_limits_that_count_a_call():
    each, other = (
        "{requests: 5, per: 1m, burst: 9, key: {type: Client}}",
        "{requests: 1, per: 1s, matches: [{method: PUT}]}",
    )
    mesh = a_mesh(BASE + a_policy(f"[{each}, {other}]"))
    said = explain(mesh, mesh.workloads[Name("shop", "web-1")], Call(host="orders", path="/a"))
    assert said.steps[-1].details == (
        "LIMIT shop/p local[0]: 5 requests per 60 s (9 at once), for each client; beyond it 429",
    )


ROUTE = """---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: public}
spec:
  parentRefs: [{name: public}]
  rules: [{backendRefs: [{name: orders, port: 80}]}]
"""


def test_why_names_the_limits_of_a_gateway_that_count_a_call_from_outside():
    mesh = a_mesh(BASE + GATEWAY + ROUTE + a_policy("[{requests: 7, per: 1s}]", PUBLIC) + a_policy(name="own"))
    call = Call(host="shop.example", port=80, path="/a")
    said = explain(mesh, mesh.workloads[Name("shop", "web-1")], call, gateway=Name("shop", "public"))
    assert [step.details for step in said.steps if any("LIMIT" in each for each in step.details)] == [
        ("LIMIT shop/p local[0]: 7 requests per 1 s; beyond it 429",),
        ("LIMIT shop/own local[0]: 1 request per 1 s; beyond it 429",),
    ]


def test_a_grpc_server_without_a_proxy_counts_nothing_and_it_is_said():
    mesh = a_mesh(BASE + a_policy())
    where = stand(mesh, mesh.workloads[Name("shop", "orders-1")], placement=Placement.LIBRARY, dialect=Dialect.GRPC)
    [ignored] = [each for each in grpc_ignored.ignored(view(mesh, where)) if each.origin.ref.kind == "RateLimitPolicy"]
    assert str(ignored.origin) == "RateLimitPolicy/shop/p spec.local[0]"
    assert "counts no requests" in ignored.why


def test_a_dry_run_says_which_limit_comes_to_whom():
    before, after = a_mesh(BASE), a_mesh(BASE + a_policy())
    moves = [(standing(before, name), standing(after, name)) for name in ("orders-1", "web-1")]
    assert [*affected(before, after, moves).values()] == [("limit shop/p local[0]: added",)]
