"""Meshes for tests of programs without a proxy, out of YAML as people write it."""

from masche.model.mesh import Mesh
from masche.model.ports import Entry, Snapshot
from masche.model.yaml import load
from masche.registry.merge import from_snapshot

ORDERS = """
apiVersion: v1
kind: Service
metadata: {name: orders}
spec: {selector: {app: orders}, ports: [{name: grpc, port: 80, targetPort: grpc, appProtocol: grpc}]}
"""
CANARY = """
---
apiVersion: v1
kind: Service
metadata: {name: canary}
spec: {selector: {app: canary}, ports: [{port: 80, targetPort: grpc, appProtocol: grpc}]}
"""
_WORKLOAD = """
---
apiVersion: masche.dev/v1
kind: Workload
metadata: {{name: {name}, labels: {{app: {app}}}}}
spec:
  {{address: 127.0.0.1, serviceAccount: {app}, placement: library, ports: [{{name: {port_name}, port: {port}}}]{more}}}
status: {{state: READY{dialect}}}
"""
_ROUTE = """
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: orders}}
spec:
  parentRefs: [{{group: '', kind: Service, name: orders}}]
  rules: {rules}
"""
_POLICY = """
---
apiVersion: masche.dev/v1
kind: TrafficPolicy
metadata: {{name: orders}}
spec:
  targetRefs: [{{group: '', kind: Service, name: orders}}]
  {spec}
"""


def a_mesh(text: str) -> Mesh:
    loaded = load(text, file="mesh.yaml", namespace="shop")
    assert not loaded.errors, "\n".join(map(str, loaded.errors))
    entries = (Entry(ref=each.ref, resource=each, revision=1, created_revision=1) for each in loaded.resources)
    return from_snapshot(Snapshot(revision=1, entries=tuple(entries)))


def workload(name: str, port: int = 0, *, is_grpc: bool = True, more: str = "") -> str:
    """An instance of what its name begins with; without a port nobody calls it."""
    return _WORKLOAD.format(
        name=name,
        app=name.partition("-")[0],
        port_name="grpc" if port else "none",
        port=port or 9,
        more=more,
        dialect=", dialect: grpc" if is_grpc else "",
    )


def route(rules: str) -> str:
    """An HTTPRoute of the Service orders."""
    return _ROUTE.format(rules=rules)


def policy(spec: str) -> str:
    """A TrafficPolicy of the Service orders."""
    return _POLICY.format(spec=spec)
