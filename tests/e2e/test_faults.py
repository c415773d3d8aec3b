"""A FaultPolicy, from `masche apply` to what a caller gets."""

from e2e.mesh import Mesh, service
from e2e.waiting import until
from masche.model.refs import Kind

POLICY = """
apiVersion: masche.dev/v1
kind: FaultPolicy
metadata: {name: broken, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: orders}]
  abort: {status: 502, percent: 100}
  headers: [{name: x-trouble, value: "yes"}]
"""
TROUBLE = {"x-trouble": "yes"}


def test_trouble_is_made_while_it_is_asked_for(mesh: Mesh) -> None:
    mesh.apply(service("orders"))
    orders, web = mesh.run("orders"), mesh.run("web")
    mesh.await_ready(orders, web)
    until(lambda: web.reaches("orders", headers=TROUBLE), "orders answers")
    mesh.apply(POLICY)
    until(lambda: web.call("orders", headers=TROUBLE).status == 502, "trouble is made")
    assert web.call("orders").status == 200
    assert "trouble is made: 100 % are answered 502" in mesh.masche("why", "shop/web", "orders").stdout
    mesh.delete(Kind.FAULT_POLICY, "broken")
    until(lambda: web.reaches("orders", headers=TROUBLE), "there is no trouble any more")
