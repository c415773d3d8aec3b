"""Who is a gateway between zones, and where one may lead."""

from itertools import product

import pytest
from meshes import a_mesh, service, standing, workload

from masche.compiler.east_west import authority, gateways, identities, is_east_west, reach
from masche.compiler.endpoints import endpoints
from masche.compiler.envoy import carried, tunnels
from masche.compiler.envoy import endpoints as encoded
from masche.compiler.vantage import stand
from masche.compiler.view import view
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.model.steering import Detour, Steer, Steering
from masche.model.vantage import Placement
from masche.model.view import Endpoints, EndpointView, Health, Locality
from masche.wire import framing
from masche.wire.messages import decode, encode

ASSIGNMENT = "envoy.config.endpoint.v3.ClusterLoadAssignment"
TABLE = "envoy.config.route.v3.RouteConfiguration"
EAST_WEST = "spiffe://mesh.local/ns/masche-system/sa/east-west"
GATEWAY = """---
apiVersion: masche.dev/v1
kind: Workload
metadata: {{name: {name}, namespace: {namespace}, labels: {{masche.dev/gateway: {label}}}}}
spec:
  address: {address}
  serviceAccount: {account}
  zone: {zone}
  placement: gateway
  ports: [{{port: 15008, meshPort: {port}}}]
{more}
"""


def gateway(name: str = "gw-1", **more: object) -> str:
    given = {
        "namespace": "masche-system", "label": "east-west", "account": "east-west", "zone": "c", "address": "10.0.0.9",
        "port": 21008, "more": "",
    }  # fmt: skip
    return GATEWAY.format(name=name, **(given | more))


def at(name: str, address: str, spec: str = "", state: str = "") -> str:
    return workload(name, "orders", spec, state=state).replace("127.0.0.2", address)


def named(mesh: Mesh, name: str, namespace: str = "masche-system"):
    return mesh.workloads[Name(namespace, name)]


# -- who is a gateway --------------------------------------------------------------------------------------------------


def test_a_gateway_is_known_by_its_namespace_its_label_and_its_account():
    mesh = a_mesh(gateway())
    assert is_east_west(mesh, named(mesh, "gw-1"))
    assert identities(mesh) == (EAST_WEST,)
    assert {zone: [each.via for each in some] for zone, some in gateways(mesh).items()} == {"c": ["10.0.0.9:21008"]}


@pytest.mark.parametrize("wrong", [{"namespace": "shop"}, {"label": "edge"}, {"account": "web"}])
def test_nobody_becomes_a_gateway_by_writing_so_elsewhere(wrong: dict[str, str]):
    mesh = a_mesh(service("orders") + at("o-1", "10.0.0.1") + gateway(**wrong))
    (fake,) = [each for each in mesh.workloads.values() if each.name.name == "gw-1"]
    assert not is_east_west(mesh, fake)
    assert identities(mesh) == ()
    assert gateways(mesh) == {}
    assert not stand(mesh, fake, placement=Placement.GATEWAY).is_east_west
    assert view(mesh, standing(mesh, "o-1")).east_west == ()


def test_a_gateway_that_takes_no_new_tunnels_is_on_no_way_but_still_trusted():
    for state in ("STARTING", "UNHEALTHY", "DRAINING"):
        mesh = a_mesh(gateway(more=f"status: {{state: {state}}}"))
        assert gateways(mesh) == {}
        assert identities(mesh) == (EAST_WEST,)


def test_gateways_are_in_order_and_one_without_a_zone_is_on_no_way():
    mesh = a_mesh(gateway("gw-2", port=21009) + gateway("gw-1") + gateway("gw-3", zone='""'))
    assert [each.via for each in gateways(mesh)["c"]] == ["10.0.0.9:21008", "10.0.0.9:21009"]
    assert set(gateways(mesh)) == {"c"}


def test_a_gateway_of_ipv6_is_written_so_that_its_port_can_be_told():
    mesh = a_mesh(gateway(address="'fd00::9'"))
    assert gateways(mesh)["c"][0].via == "[fd00::9]:21008"
    assert authority("10.0.0.1", 80) == "10.0.0.1:80"


# -- where it may lead -------------------------------------------------------------------------------------------------


def test_a_gateway_leads_to_the_ports_where_instances_take_mutual_tls():
    mesh = a_mesh(
        at("o-1", "10.0.0.1")
        + at("o-2", "10.0.0.2", ", ports: [{port: 80, meshPort: 9001, name: a}, {port: 81, meshPort: 9002, name: b}]")
        + at("o-3", "'fd00::3'")
        + gateway()
    )
    assert reach(mesh).network == ("10.0.0.1:21000", "10.0.0.2:9001", "10.0.0.2:9002", "[fd00::3]:21000")


def test_a_gateway_leads_to_nobody_who_takes_plaintext_nor_starts_nor_is_a_gateway():
    mesh = a_mesh(
        at("o-1", "10.0.0.1", ", tls: DISABLE, ports: [{port: 8080}]")
        + at("o-2", "10.0.0.2", state="STARTING")
        + gateway()
    )
    assert reach(mesh) == ((), ())


@pytest.mark.parametrize("state", ["READY", "UNHEALTHY", "DRAINING"])
def test_a_gateway_leads_to_whoever_may_still_have_calls(state: str):
    assert reach(a_mesh(at("o-1", "10.0.0.1", state=state))).network == ("10.0.0.1:21000",)


@pytest.mark.parametrize("address", ["169.254.169.254", "'fe80::1'", "'::ffff:169.254.169.254'"])
def test_a_gateway_leads_to_no_address_that_no_machine_of_a_mesh_can_have(address: str):
    assert reach(a_mesh(at("o-1", address))) == ((), ())


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "'::1'", "'::ffff:127.0.0.1'"])
def test_loopback_is_kept_apart_from_what_others_may_be_led_to(address: str):
    mesh = a_mesh(at("o-1", address) + at("o-2", "10.0.0.2"))
    found = reach(mesh)
    assert (len(found.loopback), found.network) == (1, ("10.0.0.2:21000",))
    by_name = {blob.name: decode(TABLE, framing.message_of(blob)) for blob in tunnels.tables(found)}
    assert domains(by_name[tunnels.NETWORK]) == {"10.0.0.2:21000"}
    assert domains(by_name[tunnels.LOOPBACK]) == {"10.0.0.2:21000", *found.loopback}


def test_a_gateway_of_an_empty_mesh_leads_nowhere():
    assert [decode(TABLE, framing.message_of(blob)).get("virtual_hosts") for blob in tunnels.tables(reach(Mesh()))] in (
        [None, None],
        [[], []],
    )


def domains(table) -> set[str]:
    return {domain for host in table["virtual_hosts"] for domain in host["domains"]}


# -- endpoints ---------------------------------------------------------------------------------------------------------


def test_an_endpoint_by_hand_is_what_the_general_encoder_makes():
    for endpoint in (_endpoint(), _endpoint(via="10.0.0.9:15008"), _endpoint(is_mtls=False)):
        for zone, via, priority, weight in product(("", "b"), ("", "c"), (0, 1), (0, 7)):
            locality = Locality(zone=zone, priority=priority, endpoints=(endpoint,), via=via, weight=weight)
            first = Locality(zone="a", priority=0, endpoints=())
            blob = encoded.blob(Endpoints(service=PortRef("shop", "orders", 80), localities=(first, locality)))
            body = decode(ASSIGNMENT, framing.message_of(blob))
            assert encode(ASSIGNMENT, body) == framing.message_of(blob)
            assert body["endpoints"][1].get("load_balancing_weight") == (weight or 1)


def _endpoint(**more) -> EndpointView:
    return EndpointView(address="10.0.0.1", port=15006, workload="shop/o-1", health=Health.DRAINING, weight=300, **more)


def test_an_endpoint_behind_a_gateway_says_who_it_is_and_by_whom_it_is_reached():
    mesh = a_mesh(
        service("orders") + at("o-1", "10.0.0.1", ", zone: b") + at("w-1", "10.0.0.2", ", zone: a") + gateway()
    )
    port = PortRef("shop", "orders", 80)
    steering = Steering(steers={(port, "a"): Steer(detours=(Detour(zone="b", via="c", share=60),))})
    body = decode(ASSIGNMENT, framing.message_of(encoded.blob(endpoints(mesh, steering, port, "a"))))
    (around,) = [each for each in body["endpoints"] if each["locality"].get("sub_zone") == "c"]
    (instance,) = around["lb_endpoints"]
    assert instance["endpoint"]["address"]["envoy_internal_address"] == {
        "server_listener_name": carried.LISTENER,
        "endpoint_id": "10.0.0.1:21000@10.0.0.9:21008",
    }
    assert instance["metadata"]["filter_metadata"] == {
        "masche.tunnel": {"destination": "10.0.0.1:21000"},
        "masche.detour": {"via": "10.0.0.9:21008"},
        "envoy.filters.listener.original_dst": {"local": "10.0.0.9:21008"},
    }


def test_only_a_mesh_with_gateways_teaches_its_proxies_detours():
    plain = service("orders") + at("o-1", "10.0.0.1")
    assert view(a_mesh(plain), standing(a_mesh(plain), "o-1")).east_west == ()
    told = a_mesh(plain + gateway())
    assert view(told, standing(told, "o-1")).east_west == (EAST_WEST,)
