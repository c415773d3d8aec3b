"""The cases of the Gateway API's and Istio's own suites by sidecars and by the library: the same came of them.

What must come of them is shown in ``tests/conformance``; here it is whether the library does what Envoy did.
"""

from collections.abc import Iterator

import pytest

from conformance import test_authorization_in_envoy as istio
from conformance import test_gateway_api_in_envoy as gateway_api
from conformance import test_gateway_api_more_in_envoy as more
from conformance.cases import Case, a_mesh, loaded
from live.mesh import PROXIES, Live
from masche.identity.spiffe import SpiffeId, WorkloadIdentity
from masche.testing.check_placement import Asked, check_placement
from parity.placements import Libraries, Sidecars
from parity.serving import SERVERS, serving

ROUNDS = 15
HTTP_PORTS = {"http": 80, "http2": 85, "grpc": 7070}
"""Istio's ports that take requests; the others take bytes."""

GROUPS = [group for group in gateway_api.groups() if group.placement != "gateway"]
IS_GRPC = "GRPCRoute"
"""A program calls by gRPC with gRPC's own client, not with this one (``tests/library``)."""

MORE = [
    pytest.param(group, id=group["id"])
    for group in more.GROUPS
    if group.get("mesh") and IS_GRPC not in {route.get("kind") for route in group["routes"]}
]
POLICIES = [pytest.param(group, id=group["id"]) for group in istio.GROUPS]


@pytest.mark.parametrize("group", GROUPS, ids=repr)
def test_the_library_routes_as_sidecars_do(group: gateway_api.Group, live: Live):
    live.load(a_mesh(loaded(*group.files)), {gateway_api.caller(case) for case in group.cases})
    host = "frontend" if group.placement == "core-as-mesh" else "echo"
    compare(live, [put(case, str(gateway_api.caller(case)), host) for case in group.cases])


@pytest.mark.parametrize("group", MORE)
def test_the_library_routes_what_else_there_is_as_sidecars_do(group: Case, live: Live):
    live.load(more.a_world(group, {"group": "", "kind": "Service", "name": "frontend"}), {more.CLIENT})
    compare(live, [put(case, str(more.CLIENT), "frontend") for case in group["cases"]])


@pytest.mark.parametrize("group", POLICIES)
def test_the_library_refuses_whom_sidecars_refuse(group: Case, live: Live):
    live.load(istio.with_policies(group["policies"]), istio.CALLERS)
    compare(live, [*told_by(group)])


def compare(live: Live, every: list[Asked]) -> None:
    with Sidecars(live) as sidecars:
        with Libraries(live) as calling:
            check_placement(calling, sidecars, every)
        with serving(live), Libraries(live, moved=(PROXIES, SERVERS)) as calling_and_called:
            check_placement(calling_and_called, sidecars, every)


def put(case: Case, caller: str, host: str) -> Asked:
    """A case of the Gateway API."""
    request, expect = case["request"], case["expect"]
    headers = [(name, str(value)) for name, value in request.get("headers", {}).items()]
    if asked := case.get("backend_sets_response_headers"):
        headers.append(("X-Echo-Set-Header", ",".join(f"{name}:{value}" for name, value in asked.items())))
    return Asked(
        caller=caller,
        authority=request.get("host", host),
        method=request.get("method", "GET"),
        target=request.get("path", "/"),
        headers=tuple(headers),
        rounds=ROUNDS if {"distribution", "mirrored_to"} & set(expect) else 1,
    )


def told_by(group: Case) -> Iterator[Asked]:
    """The cases of Istio's that are requests."""
    for case in group["cases"]:
        role = SpiffeId.parse(case["from"]).role
        assert isinstance(role, WorkloadIdentity)
        for port in set(case["to_ports"]) & set(HTTP_PORTS):
            grpc = (("content-type", "application/grpc"), ("te", "trailers"))
            number = HTTP_PORTS[port]
            yield Asked(
                caller=f"{role.namespace}/{role.service_account}-1",
                authority="b.ns1" if number == 80 else f"b.ns1:{number}",
                method="POST" if port == "grpc" else case.get("method", "GET"),
                target="/proto.EchoTestService/Echo" if port == "grpc" else case.get("path", "/"),
                headers=(
                    *(grpc if port == "grpc" else ()),
                    *((name, str(value)) for name, value in case.get("headers", {}).items()),
                ),
            )
