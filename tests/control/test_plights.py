"""What agents say of their own instances: whom it concerns, who is heard, and for how long."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control.plant import Plant, eventually, plant, service, sidecar
from control.test_steering import ORDERS, instance, look, second, told
from masche.control.plights import HELD, Plights
from masche.link.messages import Plight, ProxyGone
from masche.model.refs import Name
from masche.model.view import Health
from masche.testing.clock import Clock

NUMBERS = {22000: "orders-a", 23000: "orders-b", 24000: "orders-c", 25000: "orders-d"}


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Plant]:
    """A caller and four instances of orders; the caller was answered by all. Time stands still."""
    async with plant(tmp_path, now=Clock(1000.0)) as mesh:
        await mesh.write(service("web") + service("orders") + service("more", port=81, app="orders"))
        async with mesh.agent() as agent:
            instances = (sidecar(name, app="orders", port=port) for port, name in NUMBERS.items())
            await agent.enrols(sidecar("web-a", app="web", port=21000), *instances)
            second(mesh, "web-a", *(instance(port, 1000) for port in NUMBERS))
            look(mesh)
            yield mesh


def plight(name: str = "orders-a", *, is_well: bool = False, proxy: str = "", port: int = 8080) -> Plight:
    cause = "" if is_well else "GET /: status 503"
    return Plight(proxy=proxy or f"{name}-proxy", workload=Name("shop", name), port=port, is_well=is_well, cause=cause)


def health(shop: Plant, name: str = "orders-a") -> Health:
    return told(shop, "")[f"shop/{name}"][1]


async def test_callers_are_told_at_once_and_again_at_once_when_it_is_well(shop: Plant) -> None:
    async with shop.agent("m1") as agent:
        agent.say(plight())
        await eventually(lambda: health(shop) is Health.UNHEALTHY, "it is kept off")
        assert shop.happened("ejected") == [
            "shop/orders-a is taken off until it answers again, because it fails whatever it is asked "
            "(GET /: status 503)"
        ]
        agent.say(plight(is_well=True))
        await eventually(lambda: told(shop, "")["shop/orders-a"] == (100, Health.HEALTHY), "it has its share again")
    assert shop.happened("readmitted") == ["shop/orders-a is back among the instances of shop/orders:80"]


async def test_a_machine_is_heard_about_who_sits_at_its_own_proxies_alone(shop: Plant) -> None:
    shop.parts.measures.judge(plight(), "m2")
    shop.parts.measures.judge(plight(proxy="orders-b-proxy"), "m1")
    look(shop)
    assert health(shop) is Health.HEALTHY


async def test_another_port_of_the_application_concerns_nobody(shop: Plant) -> None:
    shop.parts.measures.judge(plight(port=9090), "m1")
    look(shop)
    assert health(shop) is Health.HEALTHY


async def test_an_agent_that_falls_silent_takes_its_word_with_it(shop: Plant) -> None:
    shop.parts.measures.judge(plight(), "m1")
    for _ in range(int(HELD)):
        second(shop, "web-a", *(instance(port, 1000) for port in NUMBERS if port != 22000))
        look(shop)
        assert health(shop) is Health.UNHEALTHY
    look(shop)
    assert health(shop) is Health.HEALTHY


async def test_who_comes_back_by_the_name_of_one_that_suffered_begins_afresh(shop: Plant) -> None:
    async with shop.agent("m1") as agent:
        await agent.enrols(sidecar("orders-e", app="orders", port=26000))
        agent.say(plight("orders-e"))
        await eventually(lambda: len(shop.parts.measures.helm.plights) == 1, "it suffers")
        agent.say(ProxyGone(proxy="orders-e-proxy"))
        await eventually(lambda: not shop.parts.measures.helm.plights, "nobody does")
        await agent.enrols(sidecar("orders-e", app="orders", port=26000))
        look(shop)
        assert health(shop, "orders-e") is Health.HEALTHY


async def test_who_suffers_is_an_instance_of_every_service_that_leads_there(shop: Plant) -> None:
    held = Plights()
    held.note(plight(), at=0.0)
    ports = sorted({ORDERS, ORDERS._replace(service="more", port=81), ORDERS._replace(service="web")})
    assert set(held.by_port(shop.parts.world.mesh, ports)) == {ORDERS, ORDERS._replace(service="more", port=81)}


def test_a_word_that_is_repeated_is_no_news() -> None:
    held = Plights()
    assert [held.note(each, at=0.0) for each in (plight(), plight(), plight(is_well=True), plight(is_well=True))] == [
        True, False, True, False,
    ]  # fmt: skip
    held.note(plight(), at=0.0)
    held.keep_only((), now=0.0)
    assert not held, "nor of who is gone"
