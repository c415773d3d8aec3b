"""What agents report becomes edges of services, the last success of each instance, weights and Prometheus' counters."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control.plant import Plant, eventually, plant, service, sidecar
from masche.api.traffic import Edge
from masche.link.messages import EdgeReport, EndpointReport, Histogram, ProxyReport, Report, Synced, Verdict
from masche.model.refs import Name, PortRef
from masche.telemetry import histogram, names
from masche.telemetry.prometheus import parse
from masche.testing.clock import Clock

ORDERS = PortRef("shop", "orders", 80)
WINDOW = 60.0


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
async def shop(tmp_path: Path, clock: Clock) -> AsyncIterator[Plant]:
    """A caller and two instances of orders, behind proxies of one machine; time stands still."""
    async with plant(tmp_path, now=clock) as mesh:
        await mesh.write(service("web") + service("orders"))
        async with mesh.agent() as agent:
            await agent.enrols(
                sidecar("web-1", app="web"),
                sidecar("orders-1", app="orders", port=22000),
                sidecar("orders-2", app="orders", port=23000),
            )
        yield mesh


async def edges(shop: Plant) -> tuple[Edge, ...]:
    """The edges as they are seen when the second of the last Report is over."""
    shop.parts.world.now.advance(1.0)
    return (await shop.plane.edges(window=WINDOW)).edges


def latency(count: int, us: int) -> Histogram:
    made = histogram.Histogram()
    made.record(us, count)
    return Histogram(buckets=dict(made.buckets), sum_us=count * us)


def called(codes: dict[int, int], us: int = 2000, **more: int) -> EdgeReport:
    return EdgeReport(
        direction="outbound",
        workload=Name("shop", "web-1"),
        service=ORDERS,
        codes=codes,
        latency=latency(sum(codes.values()), us),
        **more,
    )


def instance(port: int, requests: int, us: int, *, errors: int = 0, is_ejected: bool = False) -> EndpointReport:
    return EndpointReport(
        service=ORDERS,
        endpoint=f"127.0.0.1:{port}",
        requests=requests,
        errors=errors,
        is_ejected=is_ejected,
        latency=latency(requests, us),
    )


def report(proxy: str = "web-1-proxy", machine: str = "m1", **parts: tuple[object, ...]) -> Report:
    return Report(machine=machine, epoch="e", sequence=1, proxies=(ProxyReport(proxy=proxy, **parts),))


async def test_calls_are_counted_by_service_whatever_the_instance_of_the_caller(shop: Plant) -> None:
    shop.parts.measures.count(report(edges=(called({200: 9, 503: 1}),)))
    [edge] = await edges(shop)
    assert (edge.source, edge.destination, edge.port) == ("shop/web", "shop/orders", 80)
    assert edge.rate.success == pytest.approx(0.9)
    assert edge.rate.p50_ms == pytest.approx(2, rel=0.05)


async def test_an_answer_that_never_came_is_a_failure_and_a_refusal_is_none(shop: Plant) -> None:
    shop.parts.measures.count(report(edges=(called({0: 1, 404: 2, 200: 1}),)))
    [edge] = await edges(shop)
    assert edge.rate.success == pytest.approx(0.75)


async def test_denied_calls_are_put_on_the_edge_of_their_caller(shop: Plant) -> None:
    denied = EdgeReport(
        direction="inbound",
        workload=Name("shop", "orders-1"),
        peer="spiffe://mesh.local/ns/shop/sa/web",
        rule="no-admin",
        codes={403: 5},
    )
    plaintext = EdgeReport(direction="inbound", workload=Name("shop", "orders-1"), rule="strict", codes={403: 1})
    shop.parts.measures.count(report("orders-1-proxy", edges=(denied, plaintext)))
    found = {edge.source: edge for edge in await edges(shop)}
    assert found["shop/web"].denied_per_second == pytest.approx(5 / WINDOW)
    assert found["(plaintext)"].destination == "shop/orders"


async def test_what_no_workload_of_the_mesh_reports_is_counted_nowhere(shop: Plant) -> None:
    stranger = EdgeReport(direction="outbound", workload=Name("shop", "nobody"), service=ORDERS, codes={200: 1})
    shop.parts.measures.count(report("unknown", edges=(stranger,), endpoints=(instance(22000, 5, 100),)))
    assert await edges(shop) == ()
    assert shop.parts.measures.last_success() == {}


@pytest.mark.parametrize(
    "port", [PortRef("shop", "ghost", 80), PortRef("shop", "orders", 81), PortRef("shop", "web", 80)], ids=str
)
async def test_what_a_proxy_invents_of_services_and_instances_is_counted_nowhere(shop: Plant, port: PortRef) -> None:
    """Neither a Service or a port that is not there, nor an instance that is another Service's."""
    edge = EdgeReport(direction="outbound", workload=Name("shop", "web-1"), service=port, codes={200: 1})
    endpoint = EndpointReport(service=port, endpoint="127.0.0.1:22000", requests=9, is_ejected=True)
    is_there = port == PortRef("shop", "web", 80)
    shop.parts.measures.count(report(edges=() if is_there else (edge,), endpoints=(endpoint,)))
    shop.parts.measures.verdict(
        Verdict(proxy="web-1-proxy", service=port, endpoint="127.0.0.1:22000", is_ejected=True), "m1"
    )
    assert await edges(shop) == ()
    assert shop.parts.measures.last_success() == {}
    assert len(shop.parts.measures._ejections) == 0
    assert dict(shop.parts.measures.helm.sightings.taken()) == {}


async def test_instances_are_told_apart_and_who_still_answers_is_remembered(shop: Plant) -> None:
    endpoints = (instance(22000, 10, 1000), instance(23000, 4, 1000, errors=4))
    shop.parts.measures.count(report(edges=(called({200: 10, 503: 4}),), endpoints=endpoints))
    [edge] = await edges(shop)
    rates = {each.workload: each.rate.success for each in edge.endpoints}
    assert rates == {"shop/orders-1": 1.0, "shop/orders-2": 0.0}
    assert set(shop.parts.measures.last_success()) == {Name("shop", "orders-1")}


async def test_an_instance_is_ejected_while_any_caller_ejects_it(shop: Plant) -> None:
    async with shop.agent("m2") as agent:
        await agent.enrols(sidecar("web-2", app="web", port=24000))

    async def is_ejected() -> bool:
        [edge] = await edges(shop)
        return {each.workload: each.is_ejected for each in edge.endpoints}["shop/orders-2"]

    calls = (called({200: 1}),)
    shop.parts.measures.count(report(edges=calls, endpoints=(instance(23000, 1, 1000, is_ejected=True),)))
    shop.parts.measures.count(report("web-2-proxy", "m2", endpoints=(instance(23000, 1, 1000),)))
    assert await is_ejected()
    shop.parts.measures.count(report(endpoints=(instance(23000, 1, 1000),)))
    assert not await is_ejected()


async def test_a_verdict_holds_before_the_next_report_and_only_of_the_machines_own_proxies(shop: Plant) -> None:
    async def state() -> tuple[bool, str]:
        [edge] = await edges(shop)
        found = next(each for each in edge.endpoints if each.workload == "shop/orders-2")
        return found.is_ejected, found.reason

    def says(machine: str, *, is_ejected: bool, cause: str = "") -> None:
        shop.parts.measures.verdict(
            Verdict(
                proxy="web-1-proxy", service=ORDERS, endpoint="127.0.0.1:23000", is_ejected=is_ejected, cause=cause
            ),
            machine,
        )

    shop.parts.measures.count(report(edges=(called({200: 2}),), endpoints=(instance(23000, 1, 1000),)))
    says("m2", is_ejected=True)
    assert await state() == (False, "")
    says("m1", is_ejected=True, cause="consecutive server errors")
    is_ejected, reason = await state()
    assert is_ejected
    assert "consecutive server errors" in reason
    says("m1", is_ejected=False)
    assert await state() == (False, "")


def seconds(shop: Plant, number: int, *endpoints: EndpointReport) -> None:
    """Let so many seconds pass, with the same Report and a look in each."""
    for _ in range(number):
        shop.parts.measures.count(report(edges=(called({200: 20}),), endpoints=endpoints))
        shop.parts.measures.helm.look()
        shop.parts.world.now.advance(1.0)


def weights(shop: Plant, port: PortRef = ORDERS, zone: str = "") -> dict[str, int]:
    found = shop.parts.world.compilation.endpoints(port, zone)
    return {each.workload: each.weight for locality in found.localities for each in locality.endpoints}


async def test_traffic_moves_to_whoever_answers_fastest_and_back(shop: Plant) -> None:
    revision = shop.parts.world.revision
    seconds(shop, 20, instance(22000, 10, 1000), instance(23000, 10, 50_000))
    assert weights(shop)["shop/orders-2"] * 5 < weights(shop)["shop/orders-1"], "a slow one gets less"
    assert any("shop/orders-2" in message for message in shop.happened("steered"))
    seconds(shop, 60, instance(22000, 10, 1000), instance(23000, 10, 1000))
    assert weights(shop)["shop/orders-2"] == weights(shop)["shop/orders-1"], "a fast one gets its share back"
    assert shop.parts.world.revision == revision, "steering makes no revision"


async def test_the_page_for_prometheus_has_edges_and_the_state_of_the_mesh(shop: Plant) -> None:
    shop.parts.measures.count(
        report(edges=(called({200: 9, 503: 1}, connections=2, bytes_sent=10, bytes_received=20),))
    )
    samples = {
        (each.name, tuple(sorted(each.labels.items()))): each.value for each in parse(shop.parts.exposition.page())
    }
    edge = (("destination", "shop/orders"), ("port", "80"), ("source", "shop/web"))

    def requests(outcome: str) -> float:
        return samples["masche_requests_total", tuple(sorted((*edge, ("outcome", outcome))))]

    assert (requests("success"), requests("failure")) == (9, 1)
    assert samples["masche_request_duration_seconds_count", edge] == 10
    assert samples["masche_connections_total", edge] == 2
    assert samples["masche_sent_bytes_total", edge] == 10
    assert samples["masche_received_bytes_total", edge] == 20
    assert samples["masche_revision", ()] == shop.parts.world.revision
    assert samples["masche_resources", (("kind", "Service"),)] == 2
    assert samples["masche_workloads", (("state", "READY"),)] == 3
    assert samples["masche_proxies", (("state", "absent"),)] == 3
    assert samples["masche_leases_held", ()] == 0
    assert samples["masche_events_total", (("kind", "machine-connected"),)] == 1


async def test_every_metric_that_is_named_is_on_the_page_once_it_happened(shop: Plant) -> None:
    shop.parts.measures.count(report(edges=(called({200: 1}, connections=1),)))
    counters = shop.parts.exposition
    page = counters.page()
    missing = {
        metric.name
        for metric in vars(names).values()
        if isinstance(metric, names.Metric) and f"# TYPE {metric.name} " not in page
    }
    assert missing == {"masche_rejections_total", "masche_certificates_issued_total", "masche_series_folded_total"}, (
        "those of the sound mesh that rejected, signed and folded nothing"
    )


async def test_what_left_is_remembered_nowhere(shop: Plant) -> None:
    shop.parts.measures.count(report(edges=(called({200: 1}),), endpoints=(instance(23000, 1, 1000, is_ejected=True),)))
    async with shop.agent() as agent:
        agent.say(Synced())
        await eventually(lambda: not shop.parts.world.mesh.workloads)
    await eventually(lambda: not shop.parts.measures.last_success())
    await eventually(lambda: not len(shop.parts.measures._ejections))
