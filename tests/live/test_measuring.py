"""What Envoys measure of each instance, and what nobody can make them measure."""

import socket
from pathlib import Path

import pytest

from conformance.cases import a_mesh
from live import client
from live.mesh import Live, here
from live.watched import Watched
from masche.model.refs import Name, PortRef
from masche.model.yaml import load_many
from masche.telemetry.histogram import Histogram
from masche.wire.stats import SERVICE_HEADER

WEB, EDGE, ORDERS_1 = (Name("shop", name) for name in ("web-1", "edge-1", "orders-1"))
ORDERS, LEGACY = PortRef("shop", "orders", 80), PortRef("shop", "legacy", 80)
FORGED = ("x-echo-set-header", f"{SERVICE_HEADER}: 7")
WORLD = here((Path(__file__).parent / "measured.yaml").read_text())


@pytest.fixture
def world(live: Live) -> Live:
    live.load(a_mesh(load_many([("measured", WORLD)])), {WEB, EDGE}, {EDGE: Name("shop", "public")})
    return live


def get(live: Live, service: PortRef, path: str = "/", *headers: tuple[str, str]) -> client.Answer:
    return client.http1(live.standing[WEB].local(service), "GET", path, "x", headers)


def slowest_us(of: Histogram) -> float:
    return of.quantile(1.0)


def test_a_caller_learns_what_the_instance_took_of_its_own_time(world: Live):
    watched = Watched(world.proxy(WEB))
    answer = get(world, ORDERS, "/?delay=200ms")
    seen = watched.until_seen(ORDERS)
    assert (answer.status, answer.header(SERVICE_HEADER)) == (200, None)
    assert 190_000 <= slowest_us(seen.service_time) <= slowest_us(seen.latency) * 1.1
    assert seen.service_time.count == seen.latency.count == 1


def test_what_an_application_says_it_took_is_replaced_by_what_its_proxy_measured(world: Live):
    watched = Watched(world.proxy(WEB))
    answer = get(world, ORDERS, "/?delay=50ms", FORGED)
    assert (answer.status, answer.header(SERVICE_HEADER)) == (200, None)
    assert slowest_us(watched.until_seen(ORDERS).service_time) >= 45_000


def test_a_peer_that_proved_nothing_is_not_believed(world: Live):
    watched = Watched(world.proxy(WEB))
    answer = get(world, LEGACY, "/", FORGED)
    seen = watched.until_seen(LEGACY)
    assert (answer.status, answer.header(SERVICE_HEADER)) == (200, None)
    assert (seen.requests, seen.latency.count, seen.service_time.count) == (1, 1, 0)


def test_an_instance_tells_its_time_to_those_who_proved_who_they_are_and_to_nobody_else(world: Live):
    orders = world.standing[ORDERS_1].seat
    to = (orders.bind, orders.ports[0].mesh_port)
    peer = client.http1(to, "GET", "/", "orders", context=world.context("spiffe://mesh.local/ns/shop/sa/web"))
    plain = client.http1(to, "GET", "/", "orders", [FORGED])
    assert (peer.status, plain.status) == (200, 200)
    assert (peer.header(SERVICE_HEADER) or "").isdecimal()
    assert plain.header(SERVICE_HEADER) is None


def test_the_world_outside_neither_sees_service_times_nor_sets_them(world: Live):
    to = world.standing[EDGE].gateway(8000)
    assert to
    watched = Watched(world.proxy(EDGE))
    answer = client.http1(to, "GET", "/?delay=50ms", "shop.example.org", [FORGED, (SERVICE_HEADER, "7")])
    assert (answer.status, answer.header(SERVICE_HEADER)) == (200, None)
    assert SERVICE_HEADER not in dict(answer.echo["headers"])
    assert slowest_us(watched.until_seen(ORDERS).service_time) >= 45_000


def test_no_application_is_told_a_service_time_in_a_request(world: Live):
    answer = get(world, ORDERS, "/", (SERVICE_HEADER, "7"))
    assert SERVICE_HEADER not in dict(answer.echo["headers"])


def test_each_try_that_is_given_up_is_a_timeout_of_its_instance(world: Live):
    watched = Watched(world.proxy(WEB))
    assert get(world, ORDERS, "/tries?delay=1000ms").status == 504
    seen = watched.until_seen(ORDERS, tries=3)
    assert (seen.requests, seen.errors, seen.timeouts, seen.latency.count) == (3, 3, 3, 0)


def test_a_request_that_runs_out_of_time_is_a_timeout_of_the_instance_that_it_waited_for(world: Live):
    watched = Watched(world.proxy(WEB))
    assert get(world, ORDERS, "/whole?delay=1000ms").status == 504
    seen = watched.until_seen(ORDERS)
    assert (seen.requests, seen.errors, seen.timeouts) == (1, 1, 1)


def test_a_caller_that_goes_away_without_an_answer_leaves_a_timeout_behind(world: Live):
    watched = Watched(world.proxy(WEB))
    with socket.create_connection(world.standing[WEB].local(ORDERS)) as caller:
        caller.sendall(b"GET /?delay=1000ms HTTP/1.1\r\nhost: x\r\n\r\n")
        assert world.arrived(lambda got: "delay=1000ms" in got.path)
    seen = watched.until_seen(ORDERS)
    assert (seen.requests, seen.errors, seen.timeouts) == (1, 1, 1)


def test_an_instance_that_refuses_connections_times_nobody_out(world: Live):
    watched = Watched(world.proxy(WEB))
    world.close_application(world.standing[ORDERS_1])
    assert get(world, ORDERS).status == 503
    seen = watched.until_seen(ORDERS)
    assert seen.timeouts == 0 < seen.errors


def test_what_waits_for_an_answer_is_counted_while_it_waits(world: Live):
    watched = Watched(world.proxy(WEB))
    with socket.create_connection(world.standing[WEB].local(ORDERS)) as caller:
        caller.sendall(b"GET /?delay=3000ms HTTP/1.1\r\nhost: x\r\n\r\n")
        assert watched.until_active(ORDERS) == 1


def test_an_answer_that_is_cut_off_writes_no_complaint_into_the_log(world: Live):
    with socket.create_connection(world.standing[WEB].local(ORDERS)) as caller:
        caller.sendall(b"GET /?padding=50000000 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert caller.recv(16).startswith(b"HTTP/1.1 200")
    watched = Watched(world.proxy(WEB))
    assert get(world, ORDERS).status == 200
    watched.until_seen(ORDERS)
    assert "non-number" not in world.proxy(WEB).log + world.proxy(ORDERS_1).log
