"""GRPCRoutes say of services and methods what HTTPRoutes say of paths."""

from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from compiler.meshes import a_mesh, route, service, standing, workload
from masche.compiler.replay import explain
from masche.compiler.view import statuses, view
from masche.compiler.why import Call
from masche.model.mesh import Mesh
from masche.model.refs import Kind, Name, Ref
from masche.model.view import Forward, PathKind, Route

SERVICES = service("orders") + service("other") + workload("client-1", "client") + workload("orders-1", "orders")


def grpc_route(name: str, rules: object, **meta: str) -> str:
    manifest = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GRPCRoute",
        "metadata": {"name": name, **meta},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": "orders", "namespace": "shop"}]},
    }
    manifest["spec"] |= {"rules": rules} if rules is not None else {}
    return f"---\n{yaml.safe_dump(manifest)}"


def routes(mesh: Mesh, caller: str = "client-1", namespace: str = "shop") -> tuple[Route, ...]:
    ways = view(mesh, standing(mesh, caller, namespace)).outbound
    return next(each.routes for each in ways if each.service.service == "orders")


OTHER = [{"name": "other", "port": 80}]


@pytest.mark.parametrize(
    ("method", "kind", "path"),
    [
        (None, PathKind.PREFIX, "/"),
        ({"service": "shop.Orders", "method": "Get"}, PathKind.EXACT, "/shop.Orders/Get"),
        ({"service": "shop.Orders"}, PathKind.PREFIX, "/shop.Orders"),
        ({"method": "Get"}, PathKind.REGEX, "/[^/]+/Get"),
        ({"type": "RegularExpression", "service": "a|b"}, PathKind.REGEX, "/(?:a|b)/[^/]+"),
        ({"type": "RegularExpression", "method": "Get.*"}, PathKind.REGEX, "/[^/]+/(?:Get.*)"),
    ],
)
def test_a_method_is_a_path(method: Mapping[str, str] | None, kind: PathKind, path: str):
    match: dict[str, Any] = {"headers": [{"name": "Version", "value": "one"}]} | ({"method": method} if method else {})
    [found] = routes(a_mesh(SERVICES + grpc_route("r", [{"matches": [match], "backendRefs": OTHER}])))
    assert (found.match.path_kind, found.match.path) == (kind, path)
    assert [(each.name, each.value) for each in found.match.headers] == [("version", "one")]
    assert isinstance(found.action, Forward)
    assert [str(each.cluster) for each in found.action.backends] == ["shop/other:80"]
    assert found.origins[0].ref == Ref(Kind.GRPC_ROUTE, "shop", "r")


def test_a_service_is_asked_before_a_shorter_prefix_and_after_a_method():
    every, one, whole = {}, {"service": "shop.Orders", "method": "Get"}, {"service": "shop.Orders"}
    matches = [{"method": each} if each else {} for each in (every, whole, one)]
    found = routes(a_mesh(SERVICES + grpc_route("r", [{"matches": matches, "backendRefs": OTHER}])))
    assert [each.match.path for each in found] == ["/shop.Orders/Get", "/shop.Orders", "/"]


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ({"method": "Get"}, {"service": "a"}),
        ({}, {"method": "Get"}),
        ({"service": "a.B"}, {"service": "a.B", "method": "Get"}),
        ({"type": "RegularExpression", "service": "a.*"}, {"service": "shop.Orders"}),
        ({"service": "a"}, {"type": "RegularExpression", "service": "shop[.].*"}),
        ({"type": "RegularExpression", "method": "Get.*"}, {"type": "RegularExpression", "method": "GetOrders?"}),
        (
            {"type": "RegularExpression", "service": "a.*"},
            {"type": "RegularExpression", "service": "a.*", "method": "G"},
        ),
        ({"method": "Get"}, {"type": "RegularExpression", "service": "a.*"}),
    ],
)
def test_the_longer_service_decides_and_then_the_longer_method(less: dict[str, str], more: dict[str, str]):
    """ "Precedence must be given to the rule with the largest number of: characters in a matching service; characters
    in a matching method" (GRPCRouteRule).
    """
    rules = [{"name": name, "matches": [{"method": each}] if each else []} for name, each in (("b", less), ("a", more))]
    found = routes(a_mesh(SERVICES + grpc_route("r", rules)))
    assert [each.name for each in found] == ["shop/r rules[1].matches[0]", "shop/r rules[0].matches[0]"]


def test_equal_methods_are_told_apart_by_their_headers():
    versions = [[], ["one"], ["one", "two"]]
    rules = [
        {"matches": [{"method": {"service": "a.B"}, "headers": [{"name": each, "value": "x"} for each in some]}]}
        for some in versions
    ]
    found = routes(a_mesh(SERVICES + grpc_route("r", rules)))
    assert [len(each.match.headers) for each in found] == [2, 1, 0]


@pytest.mark.parametrize(
    "backends", [[{"name": "other", "port": 80, "weight": 0}], [{"name": "nobody", "port": 80}]], ids=["idle", "nobody"]
)
def test_a_call_that_no_backend_takes_is_unavailable_and_a_request_gets_a_500(backends: list[dict[str, Any]]):
    """ "All traffic which matches this rule MUST receive an `UNAVAILABLE` status" (GRPCRouteRule); to a caller by gRPC
    that is a 503.
    """
    call, written = Call(host="orders", method="POST", path="/a.B/Get"), [{"backendRefs": backends}]
    for added, status in (
        (grpc_route("r", written), 503),
        (route("r", yaml.safe_dump(written, default_flow_style=True)), 500),
    ):
        mesh = a_mesh(SERVICES + added)
        assert explain(mesh, mesh.workloads[Name("shop", "client-1")], call).status == status


def test_a_route_without_rules_sends_every_call_to_its_parent():
    [found] = routes(a_mesh(SERVICES + grpc_route("r", None)))
    assert isinstance(found.action, Forward)
    assert [str(each.cluster) for each in found.action.backends] == ["shop/orders:80"]


def test_at_one_port_grpc_routes_decide_alone_and_the_status_of_the_others_says_so():
    mesh = a_mesh(SERVICES + route("h", "[{}]") + grpc_route("g", [{"backendRefs": OTHER}]))
    assert [each.origins[0].ref.kind for each in routes(mesh)] == [Kind.GRPC_ROUTE]
    status = {each.ref: each for each in statuses(mesh)}
    refused = status[Ref(Kind.HTTP_ROUTE, "shop", "h")]
    assert refused.conditions[0] == ("Accepted", False, "NoMatchingParent")
    assert "GRPCRoute/shop/g decides" in refused.diagnostics[0].why
    assert status[Ref(Kind.GRPC_ROUTE, "shop", "g")].conditions[0] == ("Accepted", True, "Accepted")


def test_routes_of_both_kinds_may_have_one_name():
    mesh = a_mesh(SERVICES + route("same", "[{}]") + grpc_route("same", [{"backendRefs": OTHER}]))
    assert {str(each.ref) for each in statuses(mesh)} >= {"HTTPRoute/shop/same", "GRPCRoute/shop/same"}


GRANT = """---
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: grant, namespace: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: KIND, namespace: lab}]
  to: [{group: '', kind: Service}]
"""


@pytest.mark.parametrize(("kind", "is_granted"), [("GRPCRoute", True), ("HTTPRoute", False)])
def test_a_grant_is_for_the_kind_that_it_names(kind: str, is_granted: bool):
    backend = [{"name": "other", "namespace": "shop", "port": 80}]
    route_of_lab = grpc_route("r", [{"backendRefs": backend}], namespace="lab")
    mesh = a_mesh(SERVICES + route_of_lab + GRANT.replace("KIND", kind))
    status = next(each for each in statuses(mesh) if each.ref == Ref(Kind.GRPC_ROUTE, "lab", "r"))
    assert ("ResolvedRefs", is_granted, "ResolvedRefs" if is_granted else "RefNotPermitted") in status.conditions


def test_a_consumer_s_route_is_for_the_callers_of_its_namespace_alone():
    client = workload("client-2", "client").replace("name: client-2", "name: client-2, namespace: lab")
    mesh = a_mesh(SERVICES + client + grpc_route("r", [{"backendRefs": [{"name": "x", "port": 1}]}], namespace="lab"))
    assert Name("lab", "client-2") in mesh.workloads
    assert [each.origins[0].ref.kind for each in routes(mesh, "client-2", "lab")] == [Kind.GRPC_ROUTE]
    assert [each.origins[0].ref.kind for each in routes(mesh)] == [Kind.SERVICE]


@pytest.mark.parametrize(("backend", "is_granted"), [("orders", True), ("other", False)])
def test_a_consumer_s_route_sends_its_callers_where_they_meant_to_go_without_a_grant(backend: str, is_granted: bool):
    client = workload("client-2", "client").replace("name: client-2", "name: client-2, namespace: lab")
    refs = [{"name": backend, "namespace": "shop", "port": 80}]
    mesh = a_mesh(SERVICES + client + grpc_route("r", [{"backendRefs": refs}], namespace="lab"))
    [found] = routes(mesh, "client-2", "lab")
    assert isinstance(found.action, Forward)
    assert [each.cluster is not None for each in found.action.backends] == [is_granted]
    status = next(each for each in statuses(mesh) if each.ref == Ref(Kind.GRPC_ROUTE, "lab", "r"))
    assert ("ResolvedRefs", is_granted, "ResolvedRefs" if is_granted else "RefNotPermitted") in status.conditions


def test_at_a_gateway_it_needs_one():
    """Whoever comes by a gateway of another namespace did not mean this Service."""
    backend = {"name": "other", "namespace": "shop", "port": 80}
    made = yaml.safe_load(grpc_route("r", [{"backendRefs": [backend]}], namespace="lab"))
    made["spec"]["parentRefs"] = [
        {"group": "", "kind": "Service", "name": "other", "namespace": "shop"},
        {"name": "way-in"},
    ]
    mesh = a_mesh(SERVICES + f"---\n{yaml.safe_dump(made)}")
    status = next(each for each in statuses(mesh) if each.ref == Ref(Kind.GRPC_ROUTE, "lab", "r"))
    assert ("ResolvedRefs", False, "RefNotPermitted") in status.conditions
