"""Which instances a caller is given."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshes import a_mesh, service, workload

from masche.compiler.endpoints import endpoints
from masche.compiler.locality import chosen, shares
from masche.compiler.view import statuses
from masche.model.mesh import Mesh
from masche.model.refs import PortRef
from masche.model.steering import NO_STEERING, Detour, Steer, Steering
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


def test_who_registered_without_ports_is_a_client_whatever_service_selects_it():
    mesh = a_mesh(service("orders", "[{port: 80, targetPort: 8080}]") + workload("orders-1", "orders", state="READY"))
    [server] = mesh.workloads.values()
    client = server.model_copy(update={"spec": server.spec.model_copy(update={"ports": ()})})
    assert len(found(mesh)) == 1
    assert found(replace(mesh, workloads={client.name: client})) == []


def test_a_port_or_service_that_is_not_there_has_no_endpoints():
    mesh = a_mesh(service("orders") + workload("orders-1", "orders"))
    assert found(mesh, port=PortRef("shop", "orders", 81)) == []
    assert found(mesh, port=PortRef("lab", "orders", 80)) == []


def in_zones(**counts: int) -> str:
    """YAML of the Service orders, with instances in zones."""
    instances = ((zone, number) for zone, count in counts.items() for number in range(count))
    return service("orders") + "".join(workload(f"orders-{z}{n}", "orders", spec=f", zone: {z}") for z, n in instances)


def calling_from(**counts: int) -> str:
    """YAML of callers in zones."""
    callers = ((zone, number) for zone, count in counts.items() for number in range(count))
    return "".join(workload(f"web-{z}{n}", "web", spec=f", zone: {z}") for z, n in callers)


def gateway(zone: str, number: int = 0) -> str:
    return f"""---
apiVersion: masche.dev/v1
kind: Workload
metadata: {{name: gateway-{zone}{number}, namespace: masche-system, labels: {{masche.dev/gateway: east-west}}}}
spec:
  address: 127.0.9.{number + 1}
  zone: {zone}
  serviceAccount: east-west
  ports: [{{port: 15008, meshPort: 2100{number}}}]
"""


def policy(spec: str) -> str:
    return f"---\napiVersion: masche.dev/v1\nkind: TrafficPolicy\nmetadata: {{name: policy}}\nspec: {spec}\n"


def weights(mesh: Mesh, zone: str, steering: Steering = NO_STEERING) -> dict[tuple[str, str], int]:
    return {(each.zone, each.via): each.weight for each in endpoints(mesh, steering, PORT, zone).localities}


def steered(zone: str, **fields: Any) -> Steering:
    return Steering(steers={(PORT, zone): Steer(**fields)})


def test_zones_are_kept_apart_and_have_one_priority():
    localities = endpoints(a_mesh(in_zones(c=1, a=1, b=1)), NO_STEERING, PORT, "b").localities
    assert [(each.zone, each.priority) for each in localities] == [("a", 0), ("b", 0), ("c", 0)]


def test_in_one_zone_nothing_is_weighed():
    localities = endpoints(a_mesh(in_zones(a=3) + calling_from(a=1, b=2)), NO_STEERING, PORT, "b").localities
    assert [(each.zone, each.priority, each.weight, each.via) for each in localities] == [("a", 0, 0, "")]


def test_the_callers_own_zone_serves_them_as_far_as_it_has_room_and_the_others_keep_a_floor():
    instances, callers = {"a": 2, "b": 2}, {"a": 1, "b": 5}
    assert shares(instances, callers, "a") == {"a": 990, "b": 10}
    assert shares(instances, callers, "b") == {"a": 400, "b": 600}
    assert weights(a_mesh(in_zones(a=4, b=4)), "a") == {("a", ""): 990_000, ("b", ""): 10_000}


def test_callers_of_a_zone_without_instances_go_where_there_is_room():
    assert shares({"b": 3, "c": 1}, {"a": 2, "c": 2}, "a") == {"b": 990, "c": 10}


def test_zones_that_are_alike_have_no_weights_until_somebody_is_steered():
    mesh = a_mesh(in_zones(a=1, b=2) + policy("{locality: {preference: None}}"))
    assert set(weights(mesh, "a").values()) == {0}
    slow = steered("a", weights=(("shop/orders-b0", 1),))
    assert weights(mesh, "a", slow) == {("a", ""): 1000, ("b", ""): 1010}


def test_where_calls_may_not_spill_the_other_zones_are_only_for_when_their_own_is_dead():
    mesh = a_mesh(in_zones(a=1, b=1) + policy("{locality: {spill: false}}"))
    localities = endpoints(mesh, NO_STEERING, PORT, "a").localities
    assert [(each.zone, each.priority) for each in localities] == [("a", 0), ("b", 1)]


def test_steered_shares_replace_room_and_a_zone_that_is_new_has_a_floor():
    mesh = a_mesh(in_zones(a=1, b=1, c=1))
    made = weights(mesh, "a", steered("a", zones=(("a", 700), ("b", 290))))
    assert made == {("a", ""): 700_000, ("b", ""): 290_000, ("c", ""): 10_000}


def test_a_detour_takes_its_share_of_a_zone_through_gateways_of_another():
    mesh = a_mesh(in_zones(b=6) + calling_from(a=1) + gateway("c") + gateway("c", 1))
    direct, detour = endpoints(mesh, steered("a", detours=(Detour(zone="b", via="c", share=25),)), PORT, "a").localities
    assert (direct.via, detour.via, direct.zone, detour.zone) == ("", "c", "b", "b")
    assert detour.weight / (direct.weight + detour.weight) == pytest.approx(0.25)
    assert {each.via for each in direct.endpoints} == {""}
    assert {each.via for each in detour.endpoints} == {"127.0.9.1:21000", "127.0.9.2:21001"}
    assert [each.workload for each in detour.endpoints] == [each.workload for each in direct.endpoints]


def test_a_detour_never_takes_all_so_that_recovery_is_seen():
    mesh = a_mesh(in_zones(a=1, b=1) + gateway("c"))
    made = weights(mesh, "a", steered("a", detours=(Detour(zone="b", via="c", share=100),)))
    assert made["b", ""] / (made["b", ""] + made["b", "c"]) == pytest.approx(0.005)


def test_without_a_gateway_there_is_no_detour():
    mesh = a_mesh(in_zones(a=1, b=1))
    steering = steered("a", detours=(Detour(zone="b", via="c", share=50),))
    assert weights(mesh, "a", steering) == weights(mesh, "a")


def test_most_instances_keep_their_gateway_when_another_one_comes():
    before, names = ["g1:1", "g2:1", "g3:1"], [f"i{number}" for number in range(300)]
    moved = sum(chosen(before, name) != chosen([*before, "g4:1"], name) for name in names)
    assert 40 < moved < 110


ZONES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 500), min_size=1)


@given(ZONES, ZONES, st.sampled_from("abcdef"))
def test_shares_sum_to_a_thousand_and_leave_nobody_out(instances: dict[str, int], callers: dict[str, int], zone: str):
    made = shares(instances, callers, zone)
    assert made.keys() == instances.keys()
    assert sum(made.values()) == 1000
    assert min(made.values()) >= 1


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
