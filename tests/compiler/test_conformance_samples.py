"""Cases that the Gateway API and Istio test of a mesh, asked of the compiler and the deciders in memory.

What only a running proxy can show (CORS, retries, response headers) is not looked at here.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from masche.compiler.replay import explain
from masche.compiler.vantage import stand
from masche.compiler.view import view
from masche.compiler.why import Call, Explanation, Outcome
from masche.model.mesh import Mesh
from masche.model.ports import Entry, Snapshot
from masche.model.refs import Name
from masche.model.vantage import Placement
from masche.model.yaml import Loaded, load_many
from masche.registry.merge import from_snapshot
from masche.traffic.authorize import authorize
from masche.traffic.request import Connection, Request

CASES = Path(__file__).parent / "cases"
ROUTES: list[dict[str, Any]] = yaml.load((CASES / "routes.yaml").read_text(), Loader=yaml.CSafeLoader)
POLICIES: list[dict[str, Any]] = yaml.load((CASES / "policies.yaml").read_text(), Loader=yaml.CSafeLoader)
CORE = [case for case in ROUTES if "mesh_manifests" in case]
GATEWAY = Name("gateway-conformance-infra", "same-namespace")
CLIENT = Name("gateway-conformance-infra", "client-1")
PORTS = {"http": 18080, "http2": 18085, "grpc": 17070, "tcp": 19090}


@lru_cache(maxsize=64)
def loaded(*files: str) -> Loaded:
    return load_many([(file, (CASES / file).read_text()) for file in files])


def a_mesh(*files: str) -> Mesh:
    found = loaded(*files)
    assert not found.errors, "\n".join(map(str, found.errors))
    entries = (Entry(ref=each.ref, resource=each, revision=1, created_revision=1) for each in found.resources)
    return from_snapshot(Snapshot(revision=1, entries=tuple(entries)))


def is_carried_out(case: dict[str, Any], key: str) -> bool:
    return not loaded("core-topology.yaml", *case[key]).errors


def a_call(request: dict[str, Any], default_host: str, port: int = 0) -> Call:
    host, _, written = request.get("host", default_host).partition(":")
    return Call(
        host=host,
        port=int(written or port),
        method=request.get("method", "GET"),
        path=request.get("path", "/"),
        headers=tuple(request.get("headers", {}).items()),
    )


def ids(cases: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(case, id=case["id"]) for case in cases]


@pytest.mark.parametrize("case", ids([case for case in ROUTES if case["id"].startswith("mesh/")]))
def test_a_mesh_case_of_the_gateway_api_meets_its_verdict(case: dict[str, Any]):
    mesh = a_mesh("mesh-topology.yaml", *case["manifests"])
    client = mesh.workloads[Name(case["client"]["namespace"], case["client"]["pod"] + "-1")]
    _check(explain(mesh, client, a_call(case["request"], "echo")), case["expect"])


@pytest.mark.parametrize("case", ids([case for case in CORE if is_carried_out(case, "mesh_manifests")]))
def test_a_core_case_of_the_gateway_api_holds_inside_the_mesh(case: dict[str, Any]):
    mesh = a_mesh("core-topology.yaml", *case["mesh_manifests"])
    _check(explain(mesh, mesh.workloads[CLIENT], a_call(case["request"], "frontend")), case["expect"])


@pytest.mark.parametrize("case", ids([case for case in CORE if is_carried_out(case, "manifests")]))
def test_a_core_case_of_the_gateway_api_holds_at_a_gateway(case: dict[str, Any]):
    mesh = a_mesh("core-topology.yaml", *case["manifests"])
    call = a_call(case["request"], "example.com", 80)
    _check(explain(mesh, mesh.workloads[CLIENT], call, gateway=GATEWAY), case["expect"])


def test_what_is_not_carried_out_is_refused_and_said_so():
    refused = [case for case in CORE if not is_carried_out(case, "manifests")]
    assert len(refused) <= 1
    for case in refused:
        found = loaded("core-topology.yaml", *case["manifests"])
        assert {each.code for each in found.errors} == {"not-carried-out"}, case["id"]


def _check(found: Explanation, expect: dict[str, Any]) -> None:
    said = "\n".join(step.sentence for step in found.steps)
    if found.status not in {0, *expect["status"]}:
        raise AssertionError(f"{found.status} instead of {expect['status']}\n{said}")
    assert found.status or found.outcome is Outcome.ALLOWED, said
    if not found.status and "backend" in expect:
        assert found.service
        assert found.service.service == expect["backend"] or found.steps[-1].sentence.startswith(
            f"{expect['backend_namespace']}/{expect['backend']}"
        ), said
    _check_request(found, expect.get("upstream_request", {}))
    if "redirect" in expect:
        _check_location(found.location, expect["redirect"])
    assert {each.service for each in found.mirrors} == {each["name"] for each in expect.get("mirrored_to", [])}


def _check_request(found: Explanation, wanted: dict[str, Any]) -> None:
    request = found.request
    if not wanted or request is None:
        return
    assert request.target == wanted.get("path", request.target)
    for name, value in wanted.get("headers", {}).items():
        assert ",".join(request.values(name.lower())) == value
    for name in wanted.get("absent_headers", []):
        assert not request.values(name.lower())


def _check_location(location: str, wanted: dict[str, str]) -> None:
    parts = urlsplit(location)
    found = {"path": parts.path, "host": parts.hostname, "port": str(parts.port or ""), "scheme": parts.scheme}
    assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize("group", ids(POLICIES))
def test_every_case_of_istio_is_judged_as_istio_judges_it(group: dict[str, Any]):
    mesh = _with_policies(group["policies"])
    told = view(mesh, stand(mesh, mesh.workloads[Name("ns1", "b-1")], placement=Placement.SIDECAR))
    asked = 0
    for case in group["cases"]:
        for port in case["to_ports"]:
            call = Connection(peer=case["from"].removeprefix("spiffe://"), source_ip="10.0.0.1", port=PORTS[port])
            verdict = authorize(told.inbound.policies, call if port == "tcp" else _request(port, case, call))
            assert verdict.allowed is case["allow"], f"{case} on {port}: {verdict.sentence}"
            asked += 1
    assert asked > len(group["cases"])


def _request(port: str, case: dict[str, Any], connection: Connection) -> Request:
    """Istio's echo client calls one method by gRPC, and gets what it is told by HTTP."""
    if port == "grpc":
        return Request(method="POST", target="/proto.EchoTestService/Echo", authority="b", connection=connection)
    headers = tuple((name.lower(), value) for name, value in case.get("headers", {}).items())
    return Request(target=case.get("path", "/"), authority="b.ns1", headers=headers, connection=connection)


def _with_policies(policies: list[dict[str, Any]]) -> Mesh:
    """The target b of namespace ns1 in the trust domain of Istio's tests, and the policies of one group."""
    files = [("b", _TARGET)]
    for index, policy in enumerate(policies):
        namespace = "masche-system" if policy["name"].endswith("-system") else "ns1"
        document = {
            "apiVersion": "security.istio.io/v1",
            "kind": policy["kind"],
            "metadata": {"name": policy["name"], "namespace": namespace},
            "spec": policy["spec"],
        }
        files.append((f"policy {index}", yaml.safe_dump(document)))
    found = load_many(files)
    assert not found.errors, "\n".join(map(str, found.errors))
    entries = (Entry(ref=each.ref, resource=each, revision=1, created_revision=1) for each in found.resources)
    return from_snapshot(Snapshot(revision=1, entries=tuple(entries)))


_TARGET = """
apiVersion: masche.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {trustDomain: cluster.local}
---
apiVersion: masche.dev/v1
kind: Workload
metadata: {name: b-1, namespace: ns1, labels: {app: b}}
spec:
  address: 127.0.0.2
  serviceAccount: b
  ports: [{name: http, port: 18080}, {name: http2, port: 18085}, {name: grpc, port: 17070}, {name: tcp, port: 19090}]
"""
