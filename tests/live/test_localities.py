"""How a real Envoy shares calls out among zones, and what it does with the share of a zone that is down."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from live.client import http1
from live.mesh import Live, here, living
from live.test_detours import SERVICE, workload
from masche.model.mesh import Mesh
from masche.model.refs import Name, PortRef
from masche.model.view import Endpoints, EndpointView, Health, Locality
from stories.loader import read_mesh

PORT = PortRef("shop", "orders", 80)
WEB = Name("shop", "web-1")
CALLS = 300


def _mesh() -> Mesh:
    instances = "".join(
        workload(f"orders-{zone}{number}", 20 + 2 * index + number, zone, label="app: orders")
        for index, zone in enumerate("abc")
        for number in (0, 1)
    )
    return read_mesh(here(SERVICE + workload("web", 11, "a", label="app: web") + instances), file="zones.yaml")


@pytest.fixture(scope="module")
def running() -> Iterator[Live]:
    with living() as live:
        live.load(_mesh(), {WEB})
        yield live


class Zones:
    """Six instances in three zones, and calls to them."""

    def __init__(self, live: Live) -> None:
        self.live = live

    def instances(self, zone: str, health: Health = Health.HEALTHY) -> tuple[EndpointView, ...]:
        found = [each for each in self.live.mesh.workloads.values() if each.spec.zone == zone and each.name != WEB]
        return tuple(
            EndpointView(
                address=each.spec.address,
                port=each.spec.ports[0].mesh_port or 0,
                workload=str(each.name),
                health=health,
            )
            for each in found
        )

    def shared(self, *localities: Locality) -> Counter[str]:
        """Which zones answer, when so many calls are shared out in this way; each call must be answered."""
        self.live.instead = {PORT: Endpoints(service=PORT, localities=localities)}
        self.live.change(self.live.mesh)
        found: Counter[str] = Counter()
        for _ in range(CALLS):
            answer = http1(self.live.standing[WEB].local(PORT), "GET", "/", "orders")
            assert answer.status == 200
            found[answer.backend.removeprefix("shop/orders-")[:1]] += 1
        return found

    def at(self, zone: str, weight: int, health: Health = Health.HEALTHY) -> Locality:
        return Locality(zone=zone, priority=0, weight=weight, endpoints=self.instances(zone, health))


@pytest.fixture
def zones(running: Live) -> Zones:
    return Zones(running)


def test_each_zone_gets_the_share_that_its_weight_says(zones: Zones):
    found = zones.shared(zones.at("a", 80), zones.at("b", 15), zones.at("c", 5))
    assert found["a"] == pytest.approx(CALLS * 0.80, abs=CALLS * 0.04)
    assert found["b"] == pytest.approx(CALLS * 0.15, abs=CALLS * 0.04)
    assert found["c"] > 0


def test_zones_of_which_nobody_says_anything_count_by_their_instances(zones: Zones):
    found = zones.shared(zones.at("a", 0), replace(zones.at("b", 0), endpoints=zones.instances("b")[:1]))
    assert found["a"] == pytest.approx(CALLS * 2 / 3, abs=CALLS * 0.05)


def test_instances_without_a_zone_are_called_alike(zones: Zones):
    everybody = tuple(each for zone in "abc" for each in zones.instances(zone))
    found = zones.shared(Locality(zone="", priority=0, endpoints=everybody))
    assert found.keys() == {"a", "b", "c"}
    assert min(found.values()) > CALLS * 0.2


def test_the_share_of_a_zone_that_is_down_goes_to_the_others(zones: Zones):
    found = zones.shared(zones.at("a", 80, Health.UNHEALTHY), zones.at("b", 15), zones.at("c", 5))
    assert found["a"] == 0
    assert found["b"] == pytest.approx(CALLS * 0.75, abs=CALLS * 0.05)


def test_when_every_zone_is_down_all_of_them_are_tried(zones: Zones):
    found = zones.shared(*(zones.at(zone, 10, Health.UNHEALTHY) for zone in "abc"))
    assert found.keys() == {"a", "b", "c"}


def test_a_zone_that_is_drained_gets_nothing_new(zones: Zones):
    found = zones.shared(zones.at("a", 80, Health.DRAINING), zones.at("b", 10), zones.at("c", 10))
    assert found["a"] == 0
