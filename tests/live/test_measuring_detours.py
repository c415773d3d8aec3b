"""A detour is measured apart from the direct way, and what the instance behind it says is believed all the same."""

from collections.abc import Iterator

import pytest

from live.client import http1
from live.mesh import Live, living
from live.test_detours import ORDERS, PORT, WEB, spread, zones
from live.watched import Watched
from masche.compiler.east_west import gateways


@pytest.fixture
def both_ways() -> Iterator[Live]:
    """Three zones in which every other call takes the detour."""
    with living() as live:
        mesh = zones()
        live.load(mesh, {WEB})
        live.instead = {PORT: spread(mesh, direct=1, detour=1)}
        live.change(mesh)
        yield live


def test_two_ways_to_one_instance_are_told_apart_and_both_say_what_it_took(both_ways: Live):
    watched, calls = Watched(both_ways.proxy(WEB)), 12
    to = both_ways.standing[WEB].local(PORT)
    assert [http1(to, "GET", "/?delay=20ms", "orders").status for _ in range(calls)] == [200] * calls
    seen = watched.until_seen(PORT, tries=calls)
    spec = both_ways.mesh.workloads[ORDERS].spec
    endpoint = f"{spec.address}:{spec.ports[0].mesh_port}"
    assert seen.ways == {(endpoint, ""), (endpoint, gateways(both_ways.mesh)["c"][0].via)}
    assert set(watched.standing()) == {(PORT, *way) for way in seen.ways}
    assert seen.service_time.count == calls
    assert seen.service_time.quantile(0.0) >= 18_000
