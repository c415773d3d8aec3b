"""What of a port's instances gRPC clients are told: detours go the direct way, and nobody in plaintext is called."""

import re

from masche.compiler.envoy import endpoints as of_envoy
from masche.compiler.proxyless import grpc_endpoints
from masche.compiler.proxyless.grpc_routes import route_match
from masche.compiler.proxyless.grpc_servers import template
from masche.model.refs import PortRef
from masche.model.view import Endpoints, EndpointView, Health, Locality, PathKind, RequestMatch
from masche.traffic.patterns import fits

ORDERS = PortRef("shop", "orders", 80)


def instance(number: int, **more: object) -> EndpointView:
    return EndpointView(address=f"10.0.0.{number}", port=80, workload=f"shop/orders-{number}", **more)  # type: ignore[arg-type]  # whatever a test says


def found(*localities: Locality) -> Endpoints:
    return Endpoints(service=ORDERS, localities=localities)


def test_what_everybody_can_reach_is_the_very_blob_of_the_proxies():
    source = found(Locality(zone="a", priority=0, endpoints=(instance(1), instance(2))))
    assert grpc_endpoints.reachable(source) is source
    assert grpc_endpoints.blob(source) == of_envoy.blob(source)


def test_a_detour_is_the_direct_way_with_its_share():
    direct = Locality(zone="b", priority=0, endpoints=(instance(1), instance(2)), weight=30)
    carried = (instance(1, via="10.9.9.9:15008"), instance(2, via="10.9.9.9:15008"))
    detour = Locality(zone="b", priority=0, endpoints=carried, via="c", weight=70)
    own = Locality(zone="a", priority=0, endpoints=(instance(3),), weight=900)
    assert grpc_endpoints.reachable(found(own, direct, detour)) == found(
        own, Locality(zone="b", priority=0, endpoints=(instance(1), instance(2)), weight=100)
    )


def test_a_zone_that_is_reached_by_a_detour_alone_is_still_called():
    detour = Locality(zone="b", priority=0, endpoints=(instance(1, via="10.9.9.9:15008"),), via="c", weight=1)
    assert grpc_endpoints.reachable(found(detour)) == found(
        Locality(zone="b", priority=0, endpoints=(instance(1),), weight=1)
    )


def test_instances_in_plaintext_and_zones_with_no_others_are_left_out():
    mixed = Locality(zone="a", priority=0, endpoints=(instance(1), instance(2, is_mtls=False)))
    bare = Locality(zone="b", priority=0, endpoints=(instance(3, is_mtls=False),))
    assert grpc_endpoints.reachable(found(mixed, bare)) == found(
        Locality(zone="a", priority=0, endpoints=(instance(1),))
    )


def test_when_nobody_is_well_who_is_unwell_is_tried_and_who_leaves_is_not():
    unwell, leaving = instance(1, health=Health.UNHEALTHY), instance(2, health=Health.DRAINING)
    source = found(Locality(zone="a", priority=0, endpoints=(unwell, leaving)))
    (locality,) = grpc_endpoints.reachable(source).localities
    assert [each.health for each in locality.endpoints] == [Health.HEALTHY, Health.DRAINING]


def test_an_address_is_named_once_for_who_is_well():
    gone, back = instance(1, health=Health.UNHEALTHY), EndpointView(address="10.0.0.1", port=80, workload="shop/new")
    one = Locality(zone="a", priority=0, endpoints=(gone, instance(2)))
    other = Locality(zone="b", priority=1, endpoints=(back,))
    localities = grpc_endpoints.reachable(found(one, other)).localities
    assert [each.endpoints for each in localities] == [(instance(2),), (back,)]


def test_instances_that_are_steered_are_localities_with_their_shares():
    slow, quick, gone = instance(1, weight=10), instance(2, weight=90), instance(3, health=Health.UNHEALTHY)
    steered = Locality(zone="a", priority=0, endpoints=(slow, quick, gone), weight=600)
    other = Locality(zone="b", priority=0, endpoints=(instance(4), instance(5)), weight=400)
    parts = grpc_endpoints.reachable(found(steered, other)).localities
    assert [(each.zone, each.via, each.weight) for each in parts] == [
        ("a", "shop/orders-1", 60_000),
        ("a", "shop/orders-2", 540_000),
        ("a", "shop/orders-3", 600_000),
        ("b", "", 400_000),
    ]
    assert [each.endpoints for each in parts[:3]] == [(slow,), (quick,), (gone,)]


def test_templates_of_paths_fit_what_policies_fit():
    templates = ("/a.B/{*}", "/{**}", "/{*}/C", "/a.B/{**}C", "/a.B/C", "/{*}/{*}", "/a.B/{**}")
    paths = ("/a.B/C", "/a.B/D", "/a.B/", "/x/C", "/aXB/C", "/a.B", "/a.B/CC", "/", "/a.B/D/C")
    for each in templates:
        for path in paths:
            assert bool(re.fullmatch(template(each), path)) is fits(each, path), (each, path)


def test_matches_that_no_call_of_grpc_can_meet_are_left_out():
    def match(kind: PathKind, path: str, method: str = "") -> object:
        return route_match(RequestMatch(path_kind=kind, path=path, method=method))

    assert match(PathKind.PREFIX, "/") == {"prefix": ""}
    assert match(PathKind.PREFIX, "/a.B/") == {"prefix": "/a.B/"}
    assert match(PathKind.PREFIX, "/a.B/C") == {"path": "/a.B/C"}
    assert match(PathKind.EXACT, "/a.B/C", "POST") == {"path": "/a.B/C"}
    assert match(PathKind.PREFIX, "/a.B/C/d") is None
    assert match(PathKind.EXACT, "/a.B") is None
    assert match(PathKind.PREFIX, "/", "GET") is None
