"""Who is in trouble by a FaultPolicy, and what is said of it."""

import pytest
from meshes import a_mesh, route, service, standing, workload

from masche.compiler.proxyless import grpc_ignored
from masche.compiler.replay import explain
from masche.compiler.vantage import stand
from masche.compiler.view import statuses, view
from masche.compiler.why import Call
from masche.model.mesh import Mesh
from masche.model.refs import Name
from masche.model.vantage import Dialect, Placement
from masche.model.view import Fault, Route, ValueKind, ValueMatch

WEB = Name("shop", "web-1")
BASE = service("orders") + workload("orders-1", "orders") + service("cart") + workload("web-1", "web")
DELAY = "delay: {time: 2s, percent: 10}"
ABORT = "abort: {status: 503, percent: 0.5}"
GATEWAY = """---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: public}
spec: {gatewayClassName: masche, listeners: [{name: web, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop}
spec:
  parentRefs: [{name: public}]
  rules:
  - {matches: [{path: {value: /orders}}], backendRefs: [{name: orders, port: 80}]}
  - {backendRefs: [{name: cart, port: 80}]}
"""


def a_policy(*faults: str, name: str = "p", of: str = "orders", created: str = "2026-01-01T00:00:00Z") -> str:
    lines = "\n  ".join(faults)
    return f"""---
apiVersion: masche.dev/v1
kind: FaultPolicy
metadata: {{name: {name}, creationTimestamp: '{created}'}}
spec:
  targetRefs: [{{kind: Service, name: {of}}}]
  {lines}
"""


def called(mesh: Mesh, name: str) -> tuple[Route, ...]:
    return next(each.routes for each in view(mesh, standing(mesh, "web-1")).outbound if each.service.service == name)


def test_whoever_calls_the_service_is_in_trouble_and_nobody_else_is():
    mesh = a_mesh(BASE + a_policy(DELAY, ABORT, "headers: [{name: X-Test, value: '1'}]"))
    [found] = called(mesh, "orders")
    assert found.fault == Fault(
        delay=2.0,
        delay_percent=10.0,
        status=503,
        abort_percent=0.5,
        headers=(ValueMatch(name="x-test", kind=ValueKind.EXACT, value="1"),),
    )
    assert [str(each) for each in found.origins] == ["Service/shop/orders", "FaultPolicy/shop/p spec"]
    assert [each.fault for each in called(mesh, "cart")] == [None]


def test_every_route_that_sends_on_is_in_trouble_and_a_redirect_is_not():
    redirect = "{type: RequestRedirect, requestRedirect: {hostname: a.example}}"
    moved = f"{{matches: [{{path: {{value: /old}}}}], filters: [{redirect}]}}"
    rules = f"[{moved}, {{backendRefs: [{{name: cart, port: 80}}]}}]"
    mesh = a_mesh(BASE + route("r", rules) + a_policy(DELAY))
    assert [bool(each.fault) for each in called(mesh, "orders")] == [False, True]


def test_at_a_gateway_the_first_backend_of_a_route_decides():
    mesh = a_mesh(BASE + GATEWAY + a_policy(DELAY))
    edge = stand(mesh, mesh.workloads[WEB], placement=Placement.GATEWAY, gateway=Name("shop", "public"))
    [listener] = view(mesh, edge).gateway
    [host] = listener.virtual_hosts
    assert [(each.match.path, bool(each.fault)) for each in host.routes] == [("/orders", True), ("/", False)]


def test_of_several_policies_the_oldest_decides_alone_and_the_others_say_so():
    newer, older = a_policy(DELAY, name="a"), a_policy(ABORT, name="b", created="2025-01-01T00:00:00Z")
    mesh = a_mesh(BASE + newer + older)
    [found] = called(mesh, "orders")
    assert found.fault == Fault(status=503, abort_percent=0.5)
    said = {each.ref.name: each for each in statuses(mesh) if each.ref.kind == "FaultPolicy"}
    assert said["a"].conditions == (("Accepted", False, "Conflicted"),)
    assert [each.why for each in said["a"].diagnostics] == [
        "for Service shop/orders FaultPolicy/shop/b decides, which is older"
    ]
    assert (said["b"].conditions, said["b"].diagnostics) == ((("Accepted", True, "Accepted"),), ())


@pytest.mark.parametrize(
    ("more", "of", "code", "reason"),
    [
        ("", "none", "target-missing", "TargetNotFound"),
        (service("db", "[{port: 5432, appProtocol: postgres}]"), "db", "troubles-nobody", "Accepted"),
    ],
)
def test_a_policy_that_does_nothing_says_so(more: str, of: str, code: str, reason: str):
    [found] = [
        each for each in statuses(a_mesh(BASE + more + a_policy(DELAY, of=of))) if each.ref.kind == "FaultPolicy"
    ]
    assert [each.code for each in found.diagnostics] == [code]
    assert found.conditions == (("Accepted", reason == "Accepted", reason),)


def test_why_says_what_trouble_is_made_of_a_call():
    mesh = a_mesh(BASE + a_policy(DELAY, ABORT))
    said = explain(mesh, mesh.workloads[WEB], Call(host="orders"))
    step = next(each for each in said.steps if each.stage == "route")
    assert step.sentence.endswith("forwards it; trouble is made: 10 % wait 2 s, 0.5 % are answered 503")


def test_a_grpc_client_without_a_proxy_is_in_no_trouble_and_it_is_said():
    mesh = a_mesh(BASE + a_policy(DELAY))
    where = stand(mesh, mesh.workloads[WEB], placement=Placement.LIBRARY, dialect=Dialect.GRPC)
    ignored = [each for each in grpc_ignored.ignored(view(mesh, where)) if each.origin.ref.kind == "FaultPolicy"]
    assert [each.why for each in ignored] == ["no trouble is made for a gRPC client"]
