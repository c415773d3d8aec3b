"""Three zones on one machine, with links between them that are slow when we say so; everything else is real."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from e2e.mesh import Instance, Mesh, service
from e2e.waiting import until
from masche.cli.links import Link, Links, in_a_thread
from taken_ports import NETWORK

DELAY = 0.1


@dataclass(frozen=True)
class Zones:
    links: Links
    web: Instance
    orders: Instance

    def took(self) -> float:
        """Seconds of one call from zone a to zone b."""
        began = time.monotonic()
        assert self.web.call("orders").status == 200
        return time.monotonic() - began


@pytest.fixture(scope="module")
def zones(mesh: Mesh) -> Iterator[Zones]:
    with in_a_thread(Links(["a", "b", "c"], block=NETWORK)) as links:
        mesh.apply(service("orders"))
        orders = mesh.run("orders", options=links.run_options("b"))
        web = mesh.run("web", options=links.run_options("a"))
        mesh.await_ready(orders, web)
        found = Zones(links, web, orders)
        until(lambda: web.reaches("orders"), "web reaches orders over the link")
        yield found


def test_an_instance_is_reached_where_it_says_and_listens_elsewhere(mesh: Mesh, zones: Zones) -> None:
    said = zones.orders.status()
    assert said is not None
    assert said.address == zones.links.outside("b")
    assert (zones.links.inside("b"), zones.orders.mesh_port) in {
        (address, port) for _, address, port in zones.orders.admin.listening()
    }
    assert f"{zones.links.outside('b')}:{zones.orders.mesh_port}" in {
        address for some in zones.web.admin.endpoints().values() for address in some
    }


def test_a_call_is_as_slow_as_the_link_it_takes(zones: Zones) -> None:
    until(lambda: zones.took() < DELAY, "the link is well")
    zones.links.set_both("a", "b", Link(delay=DELAY))
    until(lambda: zones.took() >= 2 * DELAY, "the link is slow")
    zones.links.set_both("a", "b", Link())
    until(lambda: zones.took() < DELAY, "the link is well again")


def test_mutual_tls_is_whole_over_a_link(zones: Zones) -> None:
    (seen,) = zones.web.call("orders").seen_header("x-forwarded-client-cert")
    assert "URI=spiffe://mesh.local/ns/shop/sa/web" in seen
