"""The mesh changes under load: replicas join and leave, routes and services come and go, and no call notices."""

import os
import time

import pytest

from e2e.load import Load
from e2e.mesh import Instance, Mesh, service
from e2e.waiting import until
from masche.model.refs import Kind, Ref

ROUNDS = 100 if os.environ.get("MASCHE_LONG") == "1" else 8
EDITS = 200 if ROUNDS == 100 else 100
pytestmark = pytest.mark.timeout(400)

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: shop}}
spec:
  parentRefs: [{{kind: Service, group: "", name: orders}}]
  rules:
  - backendRefs: [{backends}]
"""

POLICY = """
apiVersion: masche.dev/v1
kind: TrafficPolicy
metadata: {{name: limits, namespace: shop}}
spec:
  targetRefs: [{{kind: Service, group: "", name: orders}}]
  circuitBreaker: {{maxConnections: {limit}}}
"""


def route(*backends: tuple[str, int], name: str = "shift") -> str:
    refs = ", ".join(f"{{name: {backend}, port: 80, weight: {weight}}}" for backend, weight in backends)
    return ROUTE.format(name=name, backends=refs)


@pytest.fixture(scope="module")
def caller(mesh: Mesh) -> Instance:
    mesh.apply(service("orders"))
    instances = [mesh.run("orders"), mesh.run("orders"), mesh.run("caller")]
    mesh.await_ready(*instances)
    until(lambda: instances[-1].reaches("orders"), "orders answers")
    return instances[-1]


@pytest.mark.parametrize("is_fresh", [False, True], ids=["keep-alive", "a connection per call"])
def test_a_replica_joins_gets_calls_and_leaves_in_order(mesh: Mesh, caller: Instance, is_fresh: bool) -> None:
    with Load(caller.url("orders"), rate=200, is_fresh=is_fresh) as load:
        load.lasts(0.5)
        newcomer = mesh.run("orders", name=f"newcomer-{is_fresh}")
        until(lambda: load.servers()[newcomer.name], "the newcomer gets calls")
        load.lasts(0.5)
        newcomer.terminate()
        assert newcomer.wait() in {0, 143}
        load.lasts(1)
    load.assert_none_failed()
    last = max(call.at for call in load.calls if call.server == newcomer.name)
    assert last < load.calls[-1].at


def test_open_calls_are_answered_before_a_replica_ends(mesh: Mesh, caller: Instance) -> None:
    newcomer = mesh.run("orders", name="patient")
    mesh.await_ready(newcomer)
    with Load(caller.url("orders", "/slow/1500"), rate=20) as load:
        until(lambda: load.servers()["patient"], "the newcomer gets calls")
        newcomer.terminate()
        newcomer.wait()
    load.assert_none_failed()


def test_a_route_is_made_shifted_to_and_removed_without_a_gap(mesh: Mesh, caller: Instance) -> None:
    """B4: make before break, again and again, in both directions."""
    with Load(caller.url("orders"), rate=200) as load:
        for round_ in range(ROUNDS):
            name = f"orders-{round_}"
            mesh.apply(service(name, app="orders") + route((name, 1)))
            if round_ % 2:
                mesh.delete(Kind.HTTP_ROUTE, "shift")
            else:
                mesh.apply(route(("orders", 1)))
            mesh.delete(Kind.SERVICE, name)
        mesh.delete(Kind.HTTP_ROUTE, "shift") if ROUNDS % 2 else None
    load.assert_none_failed(at_least=100)


def test_a_service_and_its_route_go_in_one_revision_without_a_gap(mesh: Mesh, caller: Instance) -> None:
    with Load(caller.url("orders"), rate=200) as load:
        for _ in range(ROUNDS):
            mesh.apply(service("orders-b", app="orders") + route(("orders", 1), ("orders-b", 3), name="both"))
            refs = [Ref(Kind.HTTP_ROUTE, "shop", "both"), Ref(Kind.SERVICE, "shop", "orders-b")]
            mesh.await_live(mesh.client.delete(refs).revision)
    load.assert_none_failed(at_least=100)


def test_an_edit_of_a_cluster_keeps_its_endpoints(mesh: Mesh, caller: Instance) -> None:
    """B5: every change of a cluster makes Envoy warm it again, which must not cost a call."""
    modified = caller.admin.stats("cluster_manager.cluster_modified")
    with Load(caller.url("orders"), rate=200) as load:
        for limit in range(1000, 1000 + EDITS):
            mesh.apply(POLICY.format(limit=limit))
        load.lasts(0.5)
        mesh.delete(Kind.TRAFFIC_POLICY, "limits")
    load.assert_none_failed(at_least=100)
    after = caller.admin.stats("cluster_manager.cluster_modified")
    assert after.popitem()[1] - modified.popitem()[1] >= EDITS, "not every edit changed the cluster"


def test_a_killed_replica_costs_at_most_what_it_was_answering(mesh: Mesh, caller: Instance) -> None:
    """I2: kill -9 of an application; its proxy and the callers' outlier detection take it off."""
    newcomer = mesh.run("orders", name="doomed")
    mesh.await_ready(newcomer)
    with Load(caller.url("orders"), rate=200) as load:
        until(lambda: load.servers()["doomed"], "it gets calls")
        newcomer.process.kill()
        began = time.monotonic()
        load.lasts(3)
    failed = load.failed()
    assert len(failed) <= 5, failed[:5]
    assert not load.failed(began + 1.5)
