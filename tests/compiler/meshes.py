"""Meshes for tests, out of YAML as people write it."""

from masche.compiler.vantage import stand
from masche.model.mesh import Mesh
from masche.model.ports import Entry, Snapshot
from masche.model.refs import Name
from masche.model.vantage import Placement, Vantage
from masche.model.yaml import load
from masche.registry.merge import from_snapshot


def a_mesh(text: str, *, namespace: str = "shop") -> Mesh:
    loaded = load(text, file="mesh.yaml", namespace=namespace)
    assert not loaded.errors, "\n".join(map(str, loaded.errors))
    entries = (Entry(ref=each.ref, resource=each, revision=1, created_revision=1) for each in loaded.resources)
    return from_snapshot(Snapshot(revision=1, entries=tuple(entries)))


def service(name: str, ports: str = "[{port: 80, targetPort: 8080}]", more: str = "") -> str:
    return f"""---
apiVersion: v1
kind: Service
metadata: {{name: {name}{more}}}
spec: {{selector: {{app: {name}}}, ports: {ports}}}
"""


def workload(name: str, app: str, spec: str = "", labels: str = "", state: str = "") -> str:
    ports = "" if "ports:" in spec else ", ports: [{port: 8080, meshPort: 21000}]"
    status = f"status: {{state: {state}}}\n" if state else ""
    return f"""---
apiVersion: masche.dev/v1
kind: Workload
metadata: {{name: {name}, labels: {{app: {app}{labels}}}}}
spec: {{address: 127.0.0.2, serviceAccount: {app}{ports}{spec}}}
{status}"""


def route(name: str, rules: str, created: str = "", more: str = "") -> str:
    timestamp = f", creationTimestamp: '{created}'" if created else ""
    return f"""---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}{timestamp}}}
spec:
  parentRefs: [{{group: '', kind: Service, name: orders}}]
  {more}
  rules: {rules}
"""


def standing(mesh: Mesh, name: str, namespace: str = "shop") -> Vantage:
    return stand(mesh, mesh.workloads[Name(namespace, name)], placement=Placement.SIDECAR)
