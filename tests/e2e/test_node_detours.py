"""Workloads of a node that are captured take a detour over the gateway of a third zone, each as who it is.

Three machines: the callers' one, the callee's, and one with nothing but the gateway between zones.
"""

import statistics
import time
from collections.abc import Generator
from dataclasses import dataclass

import pytest

from e2e.calling import Answer, call
from e2e.load import Load
from e2e.machines import Country, country
from e2e.mesh import APP, NAMESPACE, ON_THE_NODE, Instance, service
from e2e.waiting import until

pytestmark = [pytest.mark.alone, pytest.mark.root, pytest.mark.timeout(400)]

URL = "http://orders/"
CALLERS = ("web", "jobs")
DELAY = 0.15
"""Seconds that the slow line adds, each way."""


@dataclass(frozen=True)
class Detour:
    """Two callers in Vienna, orders in Milan, the gateway in Zurich."""

    three: Country
    callers: tuple[Instance, ...]

    def share(self, zone: str, via: str = "") -> float:
        """What part of Vienna's calls to orders is meant to go there by that way; 0 when all is as usual."""
        shifts = self.three.mesh.client.zones(window=3).shifts
        found = [part for each in shifts if each.caller_zone == "vienna" for part in each.shares]
        return sum(part.share for part in found if (part.zone, part.via) == (zone, via))

    def is_slow(self, *, is_slow: bool) -> None:
        """Make the straight line slow, or well again."""
        self.three.machines.switch.delay("vienna", "milan", DELAY if is_slow else 0.0)


@pytest.fixture(scope="module")
def detour(tmp_path_factory: pytest.TempPathFactory) -> Generator[Detour, None, None]:
    with country(tmp_path_factory.mktemp("m"), namespaces=(NAMESPACE, "masche-system")) as three:
        mesh = three.mesh
        mesh.apply(service("orders"))
        mesh.east_west("carrier", data=three["zurich"].data)
        orders = mesh.run("orders", APP, data=three["milan"].data, options=ON_THE_NODE)
        callers = tuple(mesh.run(name, APP, data=three["vienna"].data, options=ON_THE_NODE) for name in CALLERS)
        mesh.await_ready(orders, *callers)
        until(lambda: all("detour" in each.admin.dump()["listeners"] for each in callers), "the way is known")
        yield Detour(three, callers)


def asked(caller: Instance) -> Answer:
    return caller.within(lambda: call(URL))


def timed(caller: Instance, calls: int = 9) -> float:
    """What a call of it takes, typically, in seconds."""
    took: list[float] = []
    for _ in range(calls):
        began = time.monotonic()
        assert asked(caller).status == 200
        took.append(time.monotonic() - began)
    return statistics.median(took)


def test_captured_calls_leave_a_slow_line_by_a_detour_each_as_who_it_is_and_take_the_line_again(detour: Detour) -> None:
    wire = detour.three.wire
    loads = [Load(URL, rate=50, namespace=each.netns) for each in detour.callers]
    with loads[0], loads[1]:
        until(lambda: all(each.made() > 150 for each in loads), "callers know how it is when all is well")
        before = wire.lines["zurich", "milan"]
        detour.is_slow(is_slow=True)
        try:
            until(lambda: detour.share("milan", "zurich") > 0.5, "a detour is taken", within=90)
            for each in detour.callers:
                until(lambda each=each: timed(each) < DELAY, "calls are fast again", within=60)
                heard = [asked(each).seen_header("x-forwarded-client-cert") for _ in range(10)]
                wanted = f"URI=spiffe://mesh.local/ns/shop/sa/{each.service}"
                assert all(wanted in shown for (shown,) in heard), heard
            assert wire.lines["zurich", "milan"] > before + 50, "the gateway carried nothing"
        finally:
            detour.is_slow(is_slow=False)
        until(lambda: detour.share("milan", "zurich") < 0.5, "the line is taken again", within=120)
    for each in loads:
        each.assert_none_failed()
    assert wire.carried(b"HTTP/1.1", b"x-forwarded", b"content-length") == []
