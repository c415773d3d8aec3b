"""What is shown of calls of a node's workloads: whose they are, and which of them stay within the machine."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control.plant import Agent, Plant, plant, service, sidecar
from control.test_measures import ORDERS, latency
from control.test_nodes import node, occupant
from masche.api.explaining import WhyRequest
from masche.api.traffic import Edge, Way
from masche.control.samples import divided
from masche.link.messages import EdgeReport, EndpointReport, Histogram, Occupant, ProxyReport, Report
from masche.model.refs import Name, PortRef
from masche.telemetry.series import Sample
from masche.testing.clock import Clock
from masche.xds.verdict import Rejection

TLS = """---
apiVersion: masche.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {sameMachine: tls}
"""


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
async def shop(tmp_path: Path, clock: Clock) -> AsyncIterator[Plant]:
    async with plant(tmp_path, now=clock) as mesh:
        await mesh.write(service("web") + service("cart") + service("orders"))
        yield mesh


def of(app: str, number: int = 1, address: str = "10.1.0.1") -> Occupant:
    return occupant(f"{app}-{number}", labels={"app": app}, address=address)


def orders_at(one: Occupant) -> str:
    return f"{one.address}:{one.ports[0].mesh_port}"


def called(app: str, times: int) -> EdgeReport:
    return EdgeReport(
        direction="outbound",
        workload=Name("shop", f"{app}-1"),
        service=ORDERS,
        codes={200: times},
        latency=latency(times, 2000),
    )


def reached(one: Occupant, times: int, errors: int = 0) -> EndpointReport:
    return EndpointReport(
        service=ORDERS, endpoint=orders_at(one), requests=times, errors=errors, latency=latency(times, 2000)
    )


async def report(shop: Plant, agent: Agent, *proxies: ProxyReport, sequence: int = 1) -> None:
    said = Report(machine=agent.machine, epoch="e", sequence=sequence, proxies=proxies)
    await shop.parts.agents.report(agent.peer, said)


async def edges(shop: Plant) -> dict[str, Edge]:
    shop.parts.world.now.advance(1.0)
    return {each.source: each for each in (await shop.plane.edges(window=60.0)).edges}


# -- whose calls they are -----------------------------------------------------------------------------------------


async def test_each_workload_of_a_node_is_a_caller_of_its_own(shop: Plant) -> None:
    async with shop.agent() as agent:
        await agent.enrols(node(of("web"), of("cart"), of("orders")))
        proxy = ProxyReport(
            proxy="node~m1",
            edges=(called("web", 30), called("cart", 10)),
            endpoints=(reached(of("orders"), 40, errors=4),),
        )
        await report(shop, agent, proxy)
        found = await edges(shop)
    assert {source: round(60 * each.rate.requests_per_second) for source, each in found.items()} == {
        "shop/web": 30,
        "shop/cart": 10,
    }
    served = {source: round(60 * each.endpoints[0].rate.requests_per_second) for source, each in found.items()}
    assert served == {"shop/web": 30, "shop/cart": 10}
    assert all(each.endpoints[0].rate.success == pytest.approx(0.9) for each in found.values())


async def test_what_is_told_late_of_an_instance_is_divided_as_the_calls_were(shop: Plant) -> None:
    async with shop.agent() as agent:
        await agent.enrols(node(of("web"), of("cart"), of("orders")))
        await report(shop, agent, ProxyReport(proxy="node~m1", edges=(called("web", 10), called("cart", 10))))
        late = ProxyReport(proxy="node~m1", endpoints=(reached(of("orders"), 20),))
        await report(shop, agent, late, sequence=2)
        found = await edges(shop)
    assert [len(each.endpoints) for each in found.values()] == [1, 1]


async def test_a_node_is_heard_only_of_its_own_workloads(shop: Plant) -> None:
    async with shop.agent() as agent:
        await agent.enrols(node(of("web"), of("orders")), sidecar("cart-1", app="cart", port=30000))
        await report(shop, agent, ProxyReport(proxy="node~m1", edges=(called("web", 1), called("cart", 9))))
        assert set(await edges(shop)) == {"shop/web"}


async def test_what_a_workload_said_last_counts_though_it_has_left_its_node(shop: Plant) -> None:
    async with shop.agent() as agent:
        await agent.enrols(node(of("web"), of("orders")))
        await agent.enrols(node(of("orders")))
        await report(shop, agent, ProxyReport(proxy="node~m1", edges=(called("web", 7),)))
        assert set(await edges(shop)) == {"shop/web"}


def test_a_divided_sample_adds_up() -> None:
    parts = dict(divided(Sample(requests=10, failures=1), {"a": 1, "b": 1, "c": 1}))
    assert [part.requests for part in parts.values()] == [3, 3, 4]
    assert sum(part.failures for part in parts.values()) == 1
    assert dict(divided(Sample(requests=10), {})) == {}


# -- which stay within the machine --------------------------------------------------------------------------------


async def placed(shop: Plant, first: Agent, second: Agent) -> None:
    """web and an instance of orders on one machine, cart and another on a second."""
    far = "10.2.0.1"
    await first.enrols(node(of("web"), of("orders")))
    await second.enrols(node(of("cart", address=far), of("orders", 2, far), machine="m2"))


async def both_called(shop: Plant, first: Agent) -> None:
    endpoints = (reached(of("orders"), 10), reached(of("orders", 2, "10.2.0.1"), 10))
    await report(shop, first, ProxyReport(proxy="node~m1", edges=(called("web", 20),), endpoints=endpoints))


async def test_an_edge_says_which_of_its_instances_are_called_within_the_machine(shop: Plant) -> None:
    async with shop.agent("m1") as first, shop.agent("m2") as second:
        await placed(shop, first, second)
        await both_called(shop, first)
        edge = (await edges(shop))["shop/web"]
        assert {end.workload: end.way for end in edge.endpoints} == {
            "shop/orders-1": Way.LOCAL,
            "shop/orders-2": Way.TLS,
        }
        assert (edge.way, edge.is_mtls) == (Way.MIXED, False)
        assert [each.way for each in (await shop.plane.graph(window=60.0)).edges] == [Way.MIXED]


async def test_an_edge_whose_calls_all_stay_within_the_machine_is_local(shop: Plant) -> None:
    async with shop.agent() as agent:
        await agent.enrols(node(of("web"), of("orders")))
        proxy = ProxyReport(proxy="node~m1", edges=(called("web", 5),), endpoints=(reached(of("orders"), 5),))
        await report(shop, agent, proxy)
        edge = (await edges(shop))["shop/web"]
    assert (edge.way, edge.is_mtls) == (Way.LOCAL, False)


async def test_where_the_same_machine_means_tls_no_edge_is_local(shop: Plant) -> None:
    await shop.write(TLS)
    async with shop.agent("m1") as first, shop.agent("m2") as second:
        await placed(shop, first, second)
        await both_called(shop, first)
        edge = (await edges(shop))["shop/web"]
    assert (edge.way, edge.is_mtls) == (Way.TLS, True)
    assert {end.way for end in edge.endpoints} == {Way.TLS}


async def test_a_sidecar_beside_a_node_is_called_by_mutual_tls(shop: Plant) -> None:
    async with shop.agent() as agent:
        await agent.enrols(node(of("web")), sidecar("orders-1", app="orders", port=30000))
        await report(shop, agent, ProxyReport(proxy="node~m1", edges=(called("web", 5),)))
        assert (await edges(shop))["shop/web"].way is Way.TLS


# -- why ----------------------------------------------------------------------------------------------------------


async def why(shop: Plant, source: str) -> str:
    found = await shop.plane.why(WhyRequest(source=source, destination="orders.shop"))
    [sentence] = [step.text for step in found.steps if step.stage == "mtls"]
    return sentence


async def test_why_says_by_which_way_and_how_the_caller_is_known(shop: Plant) -> None:
    async with shop.agent("m1") as first, shop.agent("m2") as second:
        await first.enrols(node(of("web"), of("orders")))
        await second.enrols(node(of("cart", address="10.2.0.1"), machine="m2"))
        assert "within the machine, not encrypted (sameMachine: local)" in await why(shop, "shop/web")
        assert "by its network namespace as spiffe://mesh.local/ns/shop/sa/web" in await why(shop, "shop/web")
        assert "is called with mutual TLS; port 8080 is STRICT" in await why(shop, "shop/cart")
        await shop.write(TLS)
        assert "with mutual TLS within the machine (sameMachine: tls)" in await why(shop, "shop/web")


async def test_what_encrypting_within_a_machine_changes_is_told_before_it_is_done(shop: Plant) -> None:
    async with shop.agent() as agent:
        await agent.enrols(node(of("web")), sidecar("orders-1", app="orders", port=30000))
        found = await shop.apply(TLS, dry_run=True)
        assert {each.workload: each.sentences for each in found.impact} == {
            "shop/web-1": ("calls within its machine: by mutual TLS from now on",)
        }
        await shop.apply(TLS)
        again = await shop.apply(TLS.replace("tls", "local"), dry_run=True)
        assert [each.sentences for each in again.impact] == [("calls within its machine: not encrypted any more",)]


# -- status -------------------------------------------------------------------------------------------------------


async def test_status_names_each_workload_of_a_node_with_what_is_refused_of_it(shop: Plant) -> None:
    async with shop.agent() as agent:
        await agent.enrols(node(of("web"), of("orders")))
        proxy = shop.parts.world.proxy("node~m1")
        names = ("inbound/shop/web-1/8080", "outbound/shop/orders/80")
        proxy.progress.heard(Rejection(type_url="t", name=name, version="1", why="no") for name in names)
        found = (await shop.plane.status()).proxies
    assert [(each.workload, each.proxy, each.placement, each.machine) for each in found] == [
        ("shop/orders-1", "node~m1", "node", "m1"),
        ("shop/web-1", "node~m1", "node", "m1"),
    ]
    assert [[each.name for each in status.rejections] for status in found] == [list(names[1:]), list(names)]


async def test_nothing_is_remembered_of_calls_to_services_that_are_not_there(shop: Plant) -> None:
    nobody = PortRef("shop", "nobody", 80)
    async with shop.agent() as agent:
        await agent.enrols(node(of("web"), of("orders")))
        edge = EdgeReport(direction="outbound", workload=Name("shop", "web-1"), service=nobody, codes={200: 1})
        odd = EndpointReport(service=nobody, endpoint="10.0.0.1:1", requests=1, latency=Histogram())
        await report(shop, agent, ProxyReport(proxy="node~m1", edges=(edge,), endpoints=(odd,)))
        assert await edges(shop) == {}
        assert not any(shop.parts.measures._last_calls.values())
