"""A link between two zones becomes slow and well again under load, with real proxies and a gateway in a third zone."""

import os
import time
from collections.abc import Callable, Iterator

import pytest

from e2e import tiers
from e2e.load import Load
from e2e.mesh import Mesh, service
from e2e.waiting import until
from masche.cli.links import Link, Links, in_a_thread
from taken_ports import NETWORK

WELL, OTHERS, SLOW = Link(delay=0.001), Link(delay=0.005), Link(delay=0.1)
SLOW_SECONDS = 2 * SLOW.delay
IS_LONG = os.environ.get("MASCHE_LONG") == "1"
AWAY_SECONDS, BACK_SECONDS = (8.0, 15.0) if IS_LONG else (40.0, 60.0)
"""The benchmark slow-route holds 5 and 10 seconds; tests run beside each other on a machine that may be busy."""
FEW = 0.03 if IS_LONG else 0.3
"""Of a busy machine's calls some take as long as the slow link would."""
pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def links(mesh: Mesh) -> Iterator[Links]:
    """Zones a, b and c: callers in a, a gateway between zones in c."""
    with in_a_thread(Links(["a", "b", "c"], block=NETWORK)) as found:
        for zone in "ab":
            found.set_both(zone, "c", OTHERS)
        found.set_both("a", "b", WELL)
        mesh.apply(service("orders") + service("stock"))
        mesh.east_west("carrier", *found.gateway_options("c"))
        yield found


def caller(mesh: Mesh, links: Links, target: str, zones: str) -> Load:
    """Start instances of a service in these zones, and return a load on it from zone a.

    In the short form a new connection may take long, over the slow link and on a busy machine, without being given up.
    """
    servers = [mesh.run(target, options=links.run_options(zone)) for zone in zones]
    web = mesh.run(f"callers-of-{target}", options=links.run_options("a"))
    mesh.await_ready(*servers, web)
    mesh.apply("" if IS_LONG else tiers.policy(target, timeouts={"connect": "5s"}))
    until(lambda: web.reaches(target), f"{target} is reached")
    return Load(web.url(target, "/"), rate=100.0)


def slow_share(load: Load, seconds: float = 1.5) -> float:
    """The part of the calls that began in the last seconds, and had time to end, which took the slow link."""
    now = time.monotonic()
    took = [call.seconds for call in load.calls if now - seconds <= call.at <= now - 2 * SLOW_SECONDS]
    return sum(each >= SLOW_SECONDS for each in took) / len(took) if took else 1.0


def away_and_back(links: Links, load: Load, is_away: Callable[[], bool]) -> None:
    """Let the link a-b become slow under load, and heal it when few calls take it; none may fail."""
    try:
        with load:
            until(lambda: len(load.calls) > 3 * load.rate, "callers know how it is when all is well")
            links.set_both("a", "b", SLOW)
            until(lambda: is_away() or slow_share(load) > 0.3, "calls are slow")
            until(lambda: is_away() and slow_share(load) < FEW, "calls have left the slow link", within=AWAY_SECONDS)
            links.set_both("a", "b", WELL)
            until(lambda: not is_away(), "calls take the link again", within=BACK_SECONDS)
        assert [call for call in load.calls if not call.is_good] == []
    finally:
        links.set_both("a", "b", WELL)


def shares(mesh: Mesh, target: str) -> dict[tuple[str, str], float]:
    """What part of the calls of zone a each zone and way is meant to have; nothing when all is as usual."""
    shifts = (each for each in mesh.client.zones(window=3).shifts if each.service == f"shop/{target}:80")
    return {(share.zone, share.via): share.share for shift in shifts for share in shift.shares}


def said(mesh: Mesh, kind: str, target: str) -> list[str]:
    return [
        each.message for each in mesh.client.events(limit=1000).events if each.kind == kind and target in each.about
    ]


def test_calls_leave_a_slow_link_by_a_detour_within_seconds_and_take_it_again(mesh: Mesh, links: Links) -> None:
    load = caller(mesh, links, "orders", "b")
    away_and_back(links, load, lambda: shares(mesh, "orders").get(("b", "c"), 0.0) > 0.5)
    assert any("moved to the gateway of c, because a->b takes" in each for each in said(mesh, "detoured", "orders"))


def test_calls_leave_a_slow_link_for_another_zone_within_seconds_and_take_it_again(mesh: Mesh, links: Links) -> None:
    load = caller(mesh, links, "stock", "bc")
    away_and_back(links, load, lambda: 0.0 < shares(mesh, "stock").get(("b", ""), 0.0) < 0.02)
    assert any("of zone a moved from b to c" in each for each in said(mesh, "zone-moved", "stock"))
