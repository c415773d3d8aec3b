"""The library's aiohttp and requests call a service whose instance stands behind a real Envoy."""

from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
import requests

from library.core.scripted import Counted
from library.town import service
from live.mesh import Live, here, living
from live.test_detours import SERVICE, workload
from masche.library.aiohttp import client_session
from masche.library.core.facade import Facade
from masche.library.core.ports import Known
from masche.library.core.tls import Certificates
from masche.library.requests import Adapter
from masche.model.refs import Name
from stories.loader import read_mesh

WEB, ORDERS = "spiffe://mesh.local/ns/shop/sa/web", "spiffe://mesh.local/ns/shop/sa/orders"


@pytest.fixture(scope="module")
def running() -> Iterator[Live]:
    """A sidecar of ``orders``; nobody else has one."""
    with living() as live:
        live.load(read_mesh(here(SERVICE + workload("orders", 12, "a", label="app: orders")), file="m.yaml"), set())
        yield live


class Told:
    """Knows one service, at the Envoy's own address, and who is to be expected there."""

    def __init__(self, live: Live, identity: str) -> None:
        where = live.mesh.workloads[Name("shop", "orders-1")].spec
        self._known = service("orders", identity, f"{where.address}:{where.ports[0].mesh_port}")

    def known(self, authority: str) -> Known:
        return self._known

    def want(self, authority: str) -> Any:
        raise AssertionError("it is known already")

    def waiting_for(self) -> str:
        return ""


def facade(live: Live, expected: str = ORDERS) -> Facade:
    certificates = Certificates()
    certificates.put(*live.issue(WEB))
    return Facade(knowledge=Told(live, expected), identity=certificates, recorder=Counted())


async def test_aiohttp_calls_a_sidecar_which_proves_who_called(running: Live) -> None:
    running.forget()
    async with client_session(facade(running)) as session:
        for _ in range(3):
            async with session.post("http://orders/a?b=c", data=b"x" * 100_000) as answer:
                assert answer.status == 200
                assert (await answer.json())["path"] == "/a?b=c"
    assert [each.peer for each in running.backends.log] == [WEB] * 3


def test_requests_calls_a_sidecar_which_proves_who_called(running: Live) -> None:
    running.forget()
    with requests.Session() as session:
        session.mount("http://", Adapter(facade(running)))
        for _ in range(3):
            answer = session.post("http://orders/a?b=c", data=b"x" * 100_000)
            assert (answer.status_code, answer.json()["path"]) == (200, "/a?b=c")
    assert [each.peer for each in running.backends.log] == [WEB] * 3


def test_an_application_behind_a_sidecar_is_asked_how_busy_it_is_and_its_answer_comes_through(running: Live) -> None:
    running.forget()
    told = facade(running)
    with requests.Session() as session:
        session.mount("http://", Adapter(told))
        says = {"x-echo-set-header": "endpoint-load-metrics:TEXT named_metrics.in_flight=4"}
        for _ in range(2):  # who says something before anybody is picked is not known yet
            answer = session.get("http://orders/", headers=says)
            assert (answer.status_code, "endpoint-load-metrics" in answer.headers) == (200, False)
        says["endpoint-load-metrics-format"] = "text"
        assert session.get("http://orders/", headers=says).headers["endpoint-load-metrics"].endswith("in_flight=4")
    assert [each.values("endpoint-load-metrics-format") for each in running.backends.log] == [["text"]] * 3
    (channel,) = told.channels.all()
    assert "1 words" in repr(channel.callee.balancer)


async def test_a_sidecar_of_another_workload_is_refused_before_it_learns_anything(running: Live) -> None:
    running.forget()
    other = facade(running, "spiffe://mesh.local/ns/shop/sa/carts")
    async with client_session(other) as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match=f"sa/carts; {ORDERS} answered"):
            await session.get("http://orders/")
    with requests.Session() as blocking:
        blocking.mount("http://", Adapter(other))
        with pytest.raises(requests.exceptions.SSLError, match=f"sa/carts; {ORDERS} answered"):
            blocking.get("http://orders/")
    assert running.backends.log == []
