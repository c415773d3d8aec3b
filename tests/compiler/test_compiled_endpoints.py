"""Which instances a caller is given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshes import a_mesh, service, workload

from masche.compiler.endpoints import endpoints
from masche.compiler.view import statuses
from masche.model.mesh import Mesh
from masche.model.refs import PortRef
from masche.model.steering import NO_STEERING, Steer, Steering
from masche.model.view import EndpointView, Health

PORT = PortRef("shop", "orders", 80)


def found(mesh: Mesh, steering: Steering = NO_STEERING, port: PortRef = PORT, zone: str = "") -> list[EndpointView]:
    return [each for locality in endpoints(mesh, steering, port, zone).localities for each in locality.endpoints]


def test_states_decide_who_takes_traffic():
    states = ["STARTING", "READY", "UNHEALTHY", "DRAINING", ""]
    text = "".join(workload(f"orders-{index}", "orders", state=state) for index, state in enumerate(states))
    health = {each.workload: each.health for each in found(a_mesh(service("orders") + text))}
    assert health == {
        "shop/orders-1": Health.HEALTHY,
        "shop/orders-2": Health.UNHEALTHY,
        "shop/orders-3": Health.DRAINING,
        "shop/orders-4": Health.HEALTHY,
    }


@pytest.mark.parametrize(
    ("target", "port"), [("8080", 21001), ("web", 21001), ("admin", 21002), ("7777", None), ("nothing", None)]
)
def test_a_target_port_is_resolved_per_workload(target: str, port: int | None):
    ports = ", ports: [{name: web, port: 8080, meshPort: 21001}, {name: admin, port: 9090, meshPort: 21002}]"
    mesh = a_mesh(service("orders", f"[{{port: 80, targetPort: {target}}}]") + workload("orders-1", "orders", ports))
    assert [each.port for each in found(mesh)] == ([port] if port else [])


def test_without_a_target_port_it_is_the_same_number():
    mesh = a_mesh(service("orders", "[{port: 8080}]") + workload("orders-1", "orders"))
    assert [each.port for each in found(mesh, port=PortRef("shop", "orders", 8080))] == [21000]


def test_a_port_or_service_that_is_not_there_has_no_endpoints():
    mesh = a_mesh(service("orders") + workload("orders-1", "orders"))
    assert found(mesh, port=PortRef("shop", "orders", 81)) == []
    assert found(mesh, port=PortRef("lab", "orders", 80)) == []


def test_zones_are_kept_apart_and_tried_alike():
    text = "".join(workload(f"orders-{zone}", "orders", spec=f", zone: {zone}") for zone in ("c", "a", "b"))
    localities = endpoints(a_mesh(service("orders") + text), NO_STEERING, PORT, "b").localities
    assert [(each.zone, each.priority) for each in localities] == [("a", 0), ("b", 0), ("c", 0)]


@pytest.mark.parametrize(("mode", "count"), [("STRICT", 0), ("PERMISSIVE", 1), ("DISABLE", 1)])
def test_an_instance_without_a_proxy_is_called_only_where_plaintext_is_taken(mode: str, count: int):
    policy = f"""---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: all}}
spec: {{mtls: {{mode: {mode}}}}}
"""
    bare = workload("orders-1", "orders", spec=", tls: DISABLE, ports: [{port: 8080}]")
    mesh = a_mesh(service("orders") + bare + policy)
    assert [(each.port, each.is_mtls) for each in found(mesh)] == [(8080, False)] * count
    said = [each.code for status in statuses(mesh) for each in status.diagnostics]
    assert ("endpoint-left-out" in said) == (count == 0)


@given(st.integers(-5, 5000), st.booleans())
def test_steering_is_bounded_and_never_makes_anybody_healthy(weight: int, is_ejected: bool):
    mesh = a_mesh(service("orders") + workload("orders-1", "orders") + workload("orders-2", "orders", state="DRAINING"))
    everybody = frozenset({"shop/orders-1", "shop/orders-2"}) if is_ejected else frozenset[str]()
    steer = Steer(weights=(("shop/orders-1", weight),), ejected=everybody)
    one, other = found(mesh, Steering(steers={(PORT, "a"): steer}), zone="a")
    assert 1 <= one.weight <= 1000
    assert one.weight == min(max(weight, 1), 1000)
    assert one.health is (Health.UNHEALTHY if is_ejected else Health.HEALTHY)
    assert (other.weight, other.health) == (100, Health.DRAINING)


def test_steering_for_another_zone_changes_nothing():
    mesh = a_mesh(service("orders") + workload("orders-1", "orders"))
    steer = Steer(weights=(("shop/orders-1", 5),))
    assert found(mesh, Steering(steers={(PORT, "a"): steer}), zone="b") == found(mesh)
