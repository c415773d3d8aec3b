"""The steering loop: what reports and verdicts move, for whom, how soon, and what is told of it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from control.plant import Plant, eventually, plant, service, sidecar
from masche.api.explaining import Step, WhyRequest
from masche.api.traffic import EdgeEndpoint, InstanceState
from masche.control import helm as module
from masche.control.ejections import Ejections
from masche.link.messages import EdgeReport, EndpointReport, Histogram, ProxyGone, ProxyReport, Report, Verdict
from masche.model.refs import Name, PortRef
from masche.model.view import Health
from masche.telemetry import histogram
from masche.testing.clock import Clock

ORDERS = PortRef("shop", "orders", 80)
ZONES = {22000: "a", 23000: "b", 25000: "c"}
NAMES = {22000: "shop/orders-a", 23000: "shop/orders-b", 25000: "shop/orders-c"}


def policy(steering: str) -> str:
    return f"""---
apiVersion: masche.dev/v1
kind: TrafficPolicy
metadata: {{name: orders, namespace: shop}}
spec:
  targetRefs: [{{kind: Service, name: orders}}]
  steering: {steering}
"""


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Plant]:
    """A caller in each of the zones a and b, and an instance of orders in each of a, b and c; time stands still."""
    async with plant(tmp_path, now=Clock(1000.0)) as mesh:
        await mesh.write(service("web") + service("orders"))
        async with mesh.agent() as agent:
            await agent.enrols(
                sidecar("web-a", app="web", port=21000, zone="a"),
                sidecar("web-b", app="web", port=21500, zone="b"),
                *(
                    sidecar(NAMES[port].removeprefix("shop/"), app="orders", port=port, zone=zone)
                    for port, zone in ZONES.items()
                ),
            )
            yield mesh


def latency(count: int, us: int) -> Histogram:
    made = histogram.Histogram()
    made.record(us, count)
    return Histogram(buckets=dict(made.buckets), sum_us=count * us)


def instance(
    port: int, us: int, *, own_us: int = 0, requests: int = 100, errors: int = 0, **more: object
) -> EndpointReport:
    return EndpointReport(
        service=ORDERS,
        endpoint=f"127.0.0.1:{port}",
        requests=requests,
        errors=errors,
        latency=latency(requests, us),
        service_time=latency(requests, own_us) if own_us else Histogram(),
        **more,  # type: ignore[arg-type]  # a table of keywords
    )


def second(shop: Plant, caller: str, *endpoints: EndpointReport, machine: str = "m1") -> None:
    """What one caller reports of one second."""
    count = sum(each.requests for each in endpoints)
    edge = EdgeReport(
        direction="outbound",
        workload=Name("shop", caller),
        service=ORDERS,
        codes={200: count},
        latency=latency(count, 9),
    )
    report = ProxyReport(proxy=f"{caller}-proxy", edges=(edge,), endpoints=endpoints)
    shop.parts.measures.count(Report(machine=machine, epoch="e", sequence=1, proxies=(report,)))


def look(shop: Plant) -> None:
    shop.parts.world.now.advance(1.0)  # type: ignore[attr-defined]  # it is a Clock
    shop.parts.measures.helm.look()


def told(shop: Plant, zone: str) -> dict[str, tuple[int, Health]]:
    """The weights and the health of the instances as the callers of a zone are given them."""
    localities = shop.parts.world.compilation.endpoints(ORDERS, zone).localities
    return {each.workload: (each.weight, each.health) for locality in localities for each in locality.endpoints}


def route_to_c_slows(shop: Plant) -> None:
    """Fifteen good seconds, then as many in which the network between the zones a and c takes 200 ms."""
    for us in (1500,) * 15 + (201_000,) * 15:
        second(
            shop,
            "web-a",
            instance(22000, 1200, own_us=1000),
            instance(23000, 1600, own_us=1000),
            instance(25000, us, own_us=1000),
        )
        second(shop, "web-b", instance(22000, 1900, own_us=1000, requests=300), instance(23000, 1100, own_us=1000))
        look(shop)


async def ends(shop: Plant) -> dict[str, EdgeEndpoint]:
    [edge] = (await shop.plane.edges(window=60.0)).edges
    return {each.workload: each for each in edge.endpoints}


def verdict(port: int, *, is_ejected: bool = True, caller: str = "web-a") -> Verdict:
    return Verdict(
        proxy=f"{caller}-proxy",
        service=ORDERS,
        endpoint=f"127.0.0.1:{port}",
        is_ejected=is_ejected,
        cause="5 errors in a row",
    )


async def test_a_verdict_of_one_caller_spares_the_others_at_once(shop: Plant) -> None:
    async with shop.agent("m1") as agent:
        agent.say(verdict(23000))
        await eventually(lambda: told(shop, "a")["shop/orders-b"][1] is Health.UNHEALTHY, "it is kept off")
    assert "shop/orders-b" in shop.happened("ejected")[0]


async def test_an_ejected_instance_shows_its_state_its_end_and_its_reason_though_nobody_calls_it(shop: Plant) -> None:
    second(shop, "web-a", instance(22000, 1000))
    shop.parts.measures.verdict(verdict(23000), "m1")
    look(shop)
    found = (await ends(shop))["shop/orders-b"]
    assert (found.state, found.is_ejected, found.rate.requests_per_second) == (InstanceState.EJECTED, True, 0.0)
    assert found.until_at > shop.parts.ground.wall()
    assert found.reason
    assert (await ends(shop))["shop/orders-a"].state is InstanceState.ADMITTED


async def endpoint_step(shop: Plant) -> Step:
    explained = await shop.plane.why(WhyRequest(source="shop/web-a", destination="orders"))
    return next(step for step in explained.steps if step.stage == "endpoint")


async def test_why_names_what_each_instance_gets_and_the_reason(shop: Plant) -> None:
    shop.parts.measures.verdict(verdict(23000), "m1")
    look(shop)
    route_to_c_slows(shop)
    step = await endpoint_step(shop)
    assert step.text == "shop/orders:80: 3 instances take traffic", "the ejection is over by now"
    shares = [line for line in step.details if " % of the calls go to zone " in line]
    assert [line.rpartition(" ")[2] for line in shares] == ["a", "b", "c"]
    for _ in range(5):
        look(shop)  # until nobody's last good answer speaks for it any more
    shop.parts.measures.verdict(verdict(23000), "m1")
    look(shop)
    [told_of] = [line for line in (await endpoint_step(shop)).details if line.startswith("shop/orders-b")]
    assert told_of.startswith("shop/orders-b is unhealthy: EJECTED until ")
    assert "because" in told_of


async def test_why_says_that_calls_go_to_all_when_nobody_is_healthy(shop: Plant) -> None:
    async with shop.agent("m1") as agent:
        for port, zone in ZONES.items():
            name = NAMES[port].removeprefix("shop/")
            await agent.enrols(sidecar(name, app="orders", port=port, zone=zone, phase="UNHEALTHY", reason="503"))
        step = await endpoint_step(shop)
    assert step.text == "shop/orders:80: no healthy instance; calls go to all 3 of them"
    assert "shop/orders-a is unhealthy" in step.details


async def test_what_a_caller_keeps_off_is_shown_where_steering_is_off(shop: Plant) -> None:
    await shop.write(policy("Off"))
    second(shop, "web-a", instance(22000, 1000))
    shop.parts.measures.verdict(verdict(23000), "m1")
    look(shop)
    found = (await ends(shop))["shop/orders-b"]
    assert (found.state, found.until_at) == (InstanceState.EJECTED, 0.0)
    assert found.reason == "1 caller has cut it off: 5 errors in a row"
    shop.parts.measures.verdict(verdict(23000, is_ejected=False), "m1")
    assert "shop/orders-b" not in await ends(shop)


async def test_an_instance_whose_detour_alone_is_cut_off_is_not(shop: Plant) -> None:
    """Nor is one that answers by a detour while the direct way to it is cut off: nobody keeps off it."""
    by_way = {"": instance(25000, 1000), "127.0.0.1:23000": instance(25000, 1000, via="127.0.0.1:23000")}
    for cut in by_way:
        reports = (replace(each, is_ejected=via == cut) for via, each in by_way.items())
        second(shop, "web-a", instance(22000, 1000), *reports)
        assert not shop.parts.measures._ejections.of(ORDERS)
    shop.parts.measures.verdict(replace(verdict(25000), via="127.0.0.1:23000"), "m1")
    assert not shop.parts.measures._ejections.of(ORDERS)
    second(shop, "web-a", *(replace(each, is_ejected=True) for each in by_way.values()))
    assert shop.parts.measures._ejections.of(ORDERS) == (Name("shop", "orders-c"),)


async def test_many_verdicts_are_one_look(shop: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def steps() -> Iterator[None]:
        looks.append(shop.parts.world.now())
        yield

    monkeypatch.setattr(shop.parts.measures.helm, "_steps", steps)
    monkeypatch.setattr(module, "INTERVAL", 30.0)
    shop.parts.measures.helm.hurry()
    await eventually(lambda: looks, "the last look was long ago")
    looks.clear()
    for number in range(20):
        shop.parts.measures.verdict(verdict(23000, is_ejected=not number % 2), "m1")
    await eventually(lambda: looks, "they are looked at long before the next interval")
    shop.parts.measures.verdict(verdict(22000), "m1")
    await eventually(lambda: len(looks) == 2, "and a later one, too")


async def test_a_machine_is_heard_about_its_own_proxies_alone(shop: Plant) -> None:
    shop.parts.measures.verdict(verdict(23000), "m2")
    second(shop, "web-a", instance(23000, 1000, is_ejected=True), machine="m2")
    look(shop)
    assert told(shop, "a")["shop/orders-b"][1] is Health.HEALTHY
    assert (await shop.plane.edges(window=60.0)).edges == ()
    assert shop.parts.measures.last_success() == {}


async def test_a_slow_instance_gets_less_and_it_is_said_with_what_it_costs(shop: Plant) -> None:
    for _ in range(15):
        slow = instance(23000, 60_000, own_us=59_000)
        second(shop, "web-a", instance(22000, 1500, own_us=1000), slow, instance(25000, 1600, own_us=1000))
        look(shop)
    found = (await ends(shop))["shop/orders-b"]
    [view] = found.callers
    assert view.zone == "a"
    assert view.service_ms == pytest.approx(59, rel=0.1)
    assert view.network_ms == pytest.approx(1, rel=0.1)
    assert found.reason
    assert any("shop/orders-b" in each.message for each in shop.parts.events.after(0) if each.severity == "warning")


async def test_nothing_moves_where_steering_is_off_and_a_dry_run_only_tells(shop: Plant) -> None:
    for mode, kinds in (("Off", set[str]()), ("DryRun", {"dry-run"})):
        await shop.write(policy(mode))
        before, seen = told(shop, "a"), shop.parts.events.latest
        route_to_c_slows(shop)
        assert told(shop, "a") == before
        mine = {"steered", "ejected", "probing", "readmitted", "zone-moved", "detoured", "dry-run"}
        assert {event.kind for event in shop.parts.events.after(seen)} & mine == kinds


async def test_callers_of_each_zone_are_told_apart_and_links_are_measured(shop: Plant) -> None:
    route_to_c_slows(shop)
    zones = await shop.plane.zones(window=10.0)
    links = {(each.source, each.destination): each for each in zones.links}
    assert set(links) == {("a", "a"), ("a", "b"), ("a", "c"), ("b", "a"), ("b", "b")}
    assert links["a", "c"].network_ms == pytest.approx(200, rel=0.05)
    assert links["b", "a"].network_ms == pytest.approx(0.9, rel=0.05)
    assert (links["b", "a"].share, links["b", "b"].share) == (0.75, 0.25)
    assert links["a", "c"].is_bad
    assert not links["b", "a"].is_bad
    [shift] = [each for each in zones.shifts if each.caller_zone == "a"]
    shares = {each.zone: each.share for each in shift.shares}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["c"] < 0.1
    assert any("from c" in message for message in shop.happened("zone-moved"))


async def test_a_way_by_a_gateway_is_a_link_of_its_own(shop: Plant) -> None:
    second(shop, "web-a", instance(23000, 5000, via="127.0.0.1:25000"), instance(23000, 9000, requests=300))
    look(shop)
    links = (await shop.plane.zones(window=10.0)).links
    assert [(each.source, each.destination, each.via, each.share) for each in links] == [
        ("a", "b", "", 0.75),
        ("a", "b", "c", 0.25),
    ]


async def test_a_service_without_a_healthy_instance_is_told_of_and_so_is_its_end(shop: Plant) -> None:
    panic = "shop/orders:80: no healthy instance; calls go to all 3 of them"
    second(shop, "web-a", instance(22000, 1000))
    async with shop.agent("m1") as agent:
        sick = [
            sidecar(
                NAMES[port].removeprefix("shop/"), app="orders", port=port, zone=zone, phase="UNHEALTHY", reason="503"
            )
            for port, zone in ZONES.items()
        ]
        await agent.enrols(*sick)
        look(shop)
        assert shop.happened("panic") == [panic]
        assert (await shop.plane.status()).plane.panics == (panic,)
        [edge] = (await shop.plane.edges(window=60.0)).edges
        assert edge.panic == panic
        assert [(each.state, each.reason) for each in edge.endpoints] == [(InstanceState.UNHEALTHY, "503")]
        assert "panic" in {each.code for each in (await shop.plane.check()).findings if each.level == "error"}
        await agent.enrols(sidecar("orders-a", app="orders", port=22000, zone="a"))
        look(shop)
    assert len(shop.happened("panic-over")) == 1
    assert (await shop.plane.status()).plane.panics == ()


async def test_the_last_report_of_a_proxy_that_has_left_still_counts(shop: Plant) -> None:
    async with shop.agent("m1") as agent:
        await agent.enrols(sidecar("job-1", port=26000, zone="a"))
        agent.say(ProxyGone(proxy="job-1-proxy"))
        await eventually(lambda: Name("shop", "job-1") not in shop.parts.world.mesh.workloads)
    second(shop, "job-1", instance(22000, 1000))
    shop.parts.world.now.advance(1.0)  # type: ignore[attr-defined]  # it is a Clock
    [edge] = (await shop.plane.edges(window=60.0)).edges
    assert (edge.source, edge.destination, len(edge.endpoints)) == ("shop/job", "shop/orders", 1)


async def test_a_long_look_lets_others_have_the_loop_in_between(shop: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 0.0)
    helm = module.Helm(shop.parts.world, events=shop.parts.events, ejections=Ejections())
    order: list[str] = []

    def steps() -> Iterator[None]:
        for _ in range(3):
            order.append("look")
            yield

    async def another() -> None:
        for _ in range(3):
            order.append("another")
            await asyncio.sleep(0)

    monkeypatch.setattr(helm, "_steps", steps)
    await asyncio.gather(helm._look_in_slices(), another())
    assert order == ["look", "another"] * 3


async def test_a_look_that_fails_is_told_of_once_and_ends_nothing(shop: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL", 0.01)
    monkeypatch.setattr(module, "SHORTEST", 0.01)
    looks: list[int] = []

    def fails() -> Iterator[None]:
        looks.append(1)
        yield
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(shop.parts.measures.helm, "_steps", fails)
    await eventually(lambda: len(looks) > 3)
    assert shop.happened("steering-failed") == [
        "traffic is not steered now, and the last weights stay: ZeroDivisionError: by zero"
    ]
    monkeypatch.undo()
    second(shop, "web-a", instance(22000, 1000))
    look(shop)
    assert (await ends(shop))["shop/orders-a"].callers


async def test_steering_that_cannot_be_carried_out_is_told_of(shop: Plant) -> None:
    shop.parts.world.compilation.unsteered[ORDERS, "a"] = "ZeroDivisionError: by zero"
    look(shop)
    look(shop)
    assert shop.happened("steering-failed") == [
        "traffic is not steered now, and the last weights stay: "
        "the calls of zone 'a' to shop/orders:80, ZeroDivisionError: by zero"
    ]


async def test_a_control_plane_that_starts_amid_a_mesh_says_that_weights_are_fair_at_first(
    shop: Plant, tmp_path: Path
) -> None:
    assert shop.happened("steering-anew") == [], "there was nobody to steer when it started"
    async with plant(tmp_path / "again", store=shop.store, now=Clock(5.0)) as again:
        await eventually(lambda: again.happened("steering-anew"))
        assert told(again, "a") == dict.fromkeys(NAMES.values(), (100, Health.HEALTHY))
