"""What is remembered of who called whom: for a day, within a bound, by service account, over a restart."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from control.plant import Plant, eventually, plant, service, sidecar
from control.test_measures import called, report
from masche.control import habits
from masche.control.habits import DAY, FILE, Memory
from masche.link.messages import EdgeReport, Scope
from masche.model.refs import Name, PortRef
from masche.wire.types import CLUSTER

WEB, ORDERS, STOCK = (Name("shop", name) for name in ("web", "orders", "stock"))
CONFIG = """---
apiVersion: masche.dev/v1
kind: MeshConfig
metadata: {name: default}
spec: {onDemandAbove: 1}
"""


def test_a_call_is_news_once_and_forgotten_after_a_day_without_another():
    memory = Memory()
    assert memory.note(WEB, ORDERS, at=0.0)
    assert not memory.note(WEB, ORDERS, at=10.0)
    memory.forget(now=DAY + 5.0)
    assert memory.habits() == {WEB: {ORDERS}}
    memory.forget(now=DAY + 10.0)
    assert memory.habits() == {}


def test_equal_habits_are_the_same_object():
    memory = Memory()
    memory.note(WEB, ORDERS, at=0.0)
    before = memory.habits()
    memory.note(WEB, ORDERS, at=1.0)
    assert memory.habits() is before
    memory.note(ORDERS, STOCK, at=1.0)
    assert memory.habits()[WEB] is before[WEB]


def test_of_too_many_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(habits, "PAIRS", 2)
    memory = Memory()
    for at, name in enumerate((ORDERS, STOCK, WEB)):
        memory.note(WEB, name, at=float(at))
    memory.forget(now=3.0)
    assert memory.habits() == {WEB: {STOCK, WEB}}


def test_what_is_written_is_what_is_read():
    memory = Memory()
    memory.note(WEB, ORDERS, at=5.0)
    memory.note(STOCK, ORDERS, at=6.0)
    assert Memory.decode(memory.encode()).habits() == memory.habits()


async def enrolled(shop: Plant) -> None:
    await shop.write(CONFIG + service("web") + service("orders") + service("stock"))
    async with shop.agent() as agent:
        await agent.enrols(sidecar("web-1", app="web"), sidecar("web-2", app="web", port=24000))


def offers(shop: Plant, proxy: str) -> bool:
    wanted = shop.parts.world.proxies[proxy].wanted
    return wanted is not None and wanted.table(CLUSTER).offers("outbound/shop/orders/80")


async def test_what_one_replica_called_is_given_to_all_and_again_after_a_restart(tmp_path: Path):
    async with plant(tmp_path) as shop:
        await enrolled(shop)
        assert not offers(shop, "web-2-proxy")
        shop.parts.measures.count(report(edges=(called({200: 1}),)))
        await eventually(lambda: offers(shop, "web-1-proxy") and offers(shop, "web-2-proxy"))
        await eventually((tmp_path / FILE).exists)
        assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    async with plant(tmp_path) as again:
        await enrolled(again)
        assert offers(again, "web-2-proxy")


async def test_a_mistake_in_what_follows_from_a_call_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(habits, "SETTLING", 0.01)
    async with plant(tmp_path) as shop:
        await enrolled(shop)
        with monkeypatch.context() as broken:
            broken.setattr(shop.parts.world, "recall", lambda _habits: 1 / 0)
            shop.parts.measures.count(report(edges=(called({200: 1}),)))
            await eventually(lambda: "is not given to them unasked" in caplog.text)
        shop.parts.measures.count(report(edges=(replace(called({200: 1}), service=PortRef("shop", "stock", 80)),)))
        await eventually(lambda: offers(shop, "web-1-proxy"), "what comes later is given, and what came before")


async def test_a_file_that_nobody_can_read_is_as_if_it_were_not_there(tmp_path: Path):
    (tmp_path / FILE).write_bytes(b"{nonsense")
    async with plant(tmp_path) as shop:
        await enrolled(shop)
        assert not offers(shop, "web-1-proxy")


async def test_only_calls_out_to_services_of_the_mesh_are_learned(tmp_path: Path):
    async with plant(tmp_path) as shop:
        await enrolled(shop)
        web = Name("shop", "web-1")
        stranger = EdgeReport(direction="outbound", workload=web, service=PortRef("shop", "no", 80), codes={200: 1})
        silent = EdgeReport(direction="outbound", workload=web, service=PortRef("shop", "stock", 80))
        inbound = EdgeReport(direction="inbound", workload=web, service=PortRef("shop", "stock", 80), codes={200: 1})
        shop.parts.measures.count(report(edges=(stranger, silent, inbound, called({200: 1}))))
        await eventually(lambda: offers(shop, "web-1-proxy"))
        assert shop.parts.world.compilation.habits == {WEB: {ORDERS}}


async def test_a_workload_gets_local_ports_for_what_its_like_called(tmp_path: Path):
    async with plant(tmp_path) as shop:
        await enrolled(shop)
        shop.parts.measures.count(report(edges=(called({200: 1}),)))
        await eventually(lambda: offers(shop, "web-1-proxy"))
        async with shop.agent("m2") as agent:
            await agent.enrols(sidecar("web-3", app="web", port=25000), sidecar("other-1", app="stock", port=26000))
            scope = await agent.hears(Scope, proxy="web-3-proxy")
            assert [each.port.service for each in scope.services] == ["orders"]
            assert (await agent.hears(Scope, proxy="other-1-proxy")).services == ()
