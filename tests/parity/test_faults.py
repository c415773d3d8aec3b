"""Trouble on purpose by sidecars, by the library, by the one Envoy of a machine and at a gateway: the same calls wait,
and the same are refused.
"""

from time import monotonic

import pytest

from live.client import http1
from live.mesh import Live, here
from masche.model.refs import Name
from masche.testing.check_placement import Asked, check_placement
from parity.nodes import LocalSidecars, Nodes, machine
from parity.placements import Libraries, Placed, Sidecars
from parity.shop import gateway, service, workload
from stories.loader import read_mesh

WEB, EDGE = Name("shop", "web-1"), Name("shop", "edge-1")
MESH = (
    workload("web", "127.0.1.1")
    + workload("edge", "127.0.1.4")
    + workload("orders", "127.0.1.3")
    + "".join(service(name, "orders") for name in ("failing", "waiting", "unsure"))
    + gateway("failing")
    + """---
apiVersion: masche.dev/v1
kind: FaultPolicy
metadata: {name: failing, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: failing}]
  abort: {status: 503, percent: 100}
  headers: [{name: X-Trouble, type: RegularExpression, value: "yes|please"}]
---
apiVersion: masche.dev/v1
kind: FaultPolicy
metadata: {name: waiting, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: waiting}]
  delay: {time: 300ms, percent: 100}
---
apiVersion: masche.dev/v1
kind: FaultPolicy
metadata: {name: unsure, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: unsure}]
  abort: {status: 500, percent: 30}
"""
)
TROUBLE = ("x-trouble", "please")
GRPC = (("content-type", "application/grpc"), ("te", "trailers"))


def ask(service: str, *headers: tuple[str, str], method: str = "GET") -> Asked:
    return Asked(caller=str(WEB), authority=service, headers=headers, method=method)


EVERY = [
    ask("failing"),
    ask("failing", TROUBLE),
    ask("failing", TROUBLE, method="POST"),
    ask("failing", ("x-trouble", "no")),
    ask("failing", TROUBLE, *GRPC, method="POST"),
    ask("waiting"),
]


@pytest.fixture
def world(live: Live) -> Live:
    live.load(read_mesh(here(MESH), file="mesh.yaml"), {WEB, EDGE}, {EDGE: Name("shop", "public")})
    return live


def check(placed: Placed) -> None:
    assert [placed.ask(each).status for each in EVERY] == [200, 503, 503, 200, 200, 200]
    assert dict(placed.ask(EVERY[4]).headers or ())["grpc-status"] == "14"
    began = monotonic()
    assert placed.ask(ask("waiting")).status == 200
    assert monotonic() - began >= 0.2, "Envoy counts 300 ms from when its loop last looked at the clock"
    statuses = [placed.ask(ask("unsure")).status for _ in range(300)]
    assert 45 <= statuses.count(500) <= 140  # 90 are to be expected, with a deviation of 8
    assert statuses.count(200) == 300 - statuses.count(500)


def test_sidecars_make_the_trouble_that_is_asked_for(world: Live):
    with Sidecars(world) as sidecars:
        check(sidecars)
    with LocalSidecars(world) as sidecars:
        check(sidecars)


def test_the_library_makes_the_same_trouble(world: Live):
    with Libraries(world) as libraries:
        check(libraries)
        with Sidecars(world) as sidecars:
            check_placement(libraries, sidecars, EVERY)


@pytest.mark.root
def test_a_node_makes_the_same_trouble(world: Live):
    with machine(world) as found, Nodes(found, is_local=True) as nodes:
        check(nodes)


def test_a_gateway_makes_the_same_trouble(world: Live):
    to = world.standing[EDGE].gateway(80)
    assert to
    said = [http1(to, "GET", "/", "a.example", headers) for headers in ((), (TROUBLE,))]
    assert [each.status for each in said] == [200, 503]
    assert said[1].body == b"fault filter abort"


def test_trouble_comes_and_goes_for_who_is_connected_already(world: Live):
    calm = "---".join(part for part in here(MESH).split("---") if "FaultPolicy" not in part)
    world.load(read_mesh(calm, file="mesh.yaml"), {WEB})
    with Sidecars(world) as sidecars:
        assert sidecars.ask(EVERY[1]).status == 200
        world.change(read_mesh(here(MESH), file="mesh.yaml"))
        assert 503 in [sidecars.ask(EVERY[1]).status for _ in range(5)]
        world.change(read_mesh(calm, file="mesh.yaml"))
        assert sidecars.ask(EVERY[1]).status == 200
