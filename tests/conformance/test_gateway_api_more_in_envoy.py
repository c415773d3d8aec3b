"""Cases after the Gateway API's own suite that its samples do not touch, asked of real Envoys."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from conformance.cases import OWN, SAMPLES, Case, a_mesh, faults, read_groups, ways
from live.mesh import Live, here
from masche.model.mesh import Mesh
from masche.model.refs import Name
from masche.model.yaml import load_many

INFRA = "gateway-conformance-infra"
CLIENT = Name(INFRA, "client-1")
GROUPS = [*read_groups(OWN / "more.yaml"), *read_groups(OWN / "more-routes.yaml")]
FRONTEND = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "frontend", "namespace": INFRA},
    "spec": {"selector": {"app": "infra-backend-v1"}, "ports": [{"port": 80, "targetPort": 3000}]},
}


@pytest.mark.parametrize("group", [pytest.param(group, id=group["id"]) for group in GROUPS if "gateway" in group])
def test_a_gateway_of_envoy_does_what_the_gateway_api_demands(group: Case, live: Live):
    live.load(a_world(group, {"name": group["gateway"]}), {CLIENT}, {CLIENT: Name(INFRA, group["gateway"])})
    to = live.standing[CLIENT].gateway(group.get("port", 80))
    assert to
    hosts = ((case, case["request"].get("host", "example.com")) for case in group["cases"])
    wrong = [fault for case, host in hosts for fault in faults(live, case, to, host)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("group", [pytest.param(group, id=group["id"]) for group in GROUPS if group.get("mesh")])
def test_inside_the_mesh_envoy_does_the_same(group: Case, live: Live):
    live.load(a_world(group, {"group": "", "kind": "Service", "name": "frontend"}), {CLIENT})
    wrong = [f"{way}: {fault}" for case in group["cases"] for way, fault in in_all_ways(live, case)]
    assert not wrong, "\n".join(wrong)


def in_all_ways(live: Live, case: Case) -> Iterator[tuple[str, str]]:
    for way, to, is_absolute in ways(live.standing[CLIENT], "frontend", 0):
        yield from ((way, fault) for fault in faults(live, case, to, "frontend", is_absolute=is_absolute))


def a_world(group: Case, parent: dict[str, str]) -> Mesh:
    """The topology with the routes of a group under ``parent``."""
    files = [("topology", here((OWN / "more-topology.yaml").read_text())), ("frontend", yaml.safe_dump(FRONTEND))]
    if "topology" in group:
        files = [("topology", here((SAMPLES / f"{group['topology']}-topology.yaml").read_text()))]
    routes = [
        (route.get("kind", "HTTPRoute"), route, {"parentRefs": [parent], **route["spec"]}) for route in group["routes"]
    ]
    grants = [("ReferenceGrant", grant, grant["spec"]) for grant in group.get("grants", ())]
    files += [(each["name"], _document(kind, each, spec)) for kind, each, spec in (*routes, *grants)]
    return a_mesh(load_many(files))


def _document(kind: str, each: Case, spec: Any) -> str:
    metadata = {"name": each["name"], "namespace": each.get("namespace", INFRA)}
    version = "v1beta1" if kind == "ReferenceGrant" else "v1"
    api = f"gateway.networking.k8s.io/{version}"
    return yaml.safe_dump({"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec})
