"""What the meshes of several tests of parity are made of."""


def workload(app: str, address: str) -> str:
    """One instance of ``app``, called ``<app>-1``, which serves HTTP."""
    return f"""---
apiVersion: masche.dev/v1
kind: Workload
metadata: {{name: {app}-1, namespace: shop, labels: {{app: {app}}}}}
spec: {{address: {address}, serviceAccount: {app}, ports: [{{name: http, port: 8080, meshPort: 15006}}]}}
"""


def service(name: str, app: str = "") -> str:
    """A Service of HTTP, whose instances are those of ``app``; "" for one of its own name."""
    return f"""---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{selector: {{app: {app or name}}}, ports: [{{port: 80, targetPort: 8080}}]}}
"""


def gateway(leads_to: str) -> str:
    """The Gateway ``public``, all of whose requests go to one Service."""
    return f"""---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: public, namespace: shop}}
spec:
  gatewayClassName: masche
  listeners: [{{name: web, port: 80, protocol: HTTP}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: shop, namespace: shop}}
spec:
  parentRefs: [{{name: public}}]
  rules: [{{backendRefs: [{{name: {leads_to}, port: 80}}]}}]
"""
