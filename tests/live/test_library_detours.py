"""The library takes detours as a sidecar does: through a real gateway, which carries what it cannot read.

Each client, on a loop or in a thread, with the compiler's own bytes; the instance stands behind a real Envoy.
"""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import aiohttp
import httpx
import httpx2
import pytest
import requests

from live.library import Kept, facade
from live.mesh import Live, living
from live.test_detours import CARRIER, PORT, WEB, _until, carried, carrier, orders, spread, tunnelled, zones
from masche.compiler.east_west import authority
from masche.library import tcp
from masche.library.aiohttp import client_session
from masche.library.core.facade import Facade
from masche.library.httpx import AsyncTransport, Transport
from masche.library.requests import Adapter
from masche.model.refs import Name, PortRef

ME = "spiffe://mesh.local/ns/shop/sa/web"
Get = Callable[[str], tuple[int, dict[str, object]]]


@pytest.fixture(scope="module")
def living_zones() -> Iterator[Live]:
    with living() as live:
        yield live


@pytest.fixture
def live(living_zones: Live) -> Live:
    """Three zones in which the only way from web to orders is the detour."""
    living_zones.load(zones(), {WEB})
    by(living_zones, direct=0, detour=1)
    living_zones.forget()
    return living_zones


def by(live: Live, *, direct: int, detour: int) -> None:
    live.instead = {PORT: spread(live.mesh, direct=direct, detour=detour)}
    live.change(live.mesh)


@contextmanager
def looped(facade: Facade, make: Callable[[Facade], object], get: Callable[..., object]) -> Iterator[Get]:
    """A client of a loop, asked from outside of it."""
    with asyncio.Runner() as runner:

        async def made() -> object:
            return make(facade)

        client = runner.run(made())
        try:
            yield lambda path: runner.run(get(client, path))  # type: ignore[arg-type] # it is a coroutine
        finally:
            runner.run(client.close() if isinstance(client, aiohttp.ClientSession) else client.aclose())


async def get_aiohttp(session: aiohttp.ClientSession, path: str) -> tuple[int, dict[str, object]]:
    async with session.get(f"http://orders{path}") as answer:
        return answer.status, await answer.json()


async def get_httpx(client: httpx.AsyncClient, path: str) -> tuple[int, dict[str, object]]:
    answer = await client.get(f"http://orders{path}")
    return answer.status_code, answer.json()


@contextmanager
def in_requests(facade: Facade) -> Iterator[Get]:
    with requests.Session() as session:
        session.mount("http://", Adapter(facade))

        def get(path: str) -> tuple[int, dict[str, object]]:
            answer = session.get(f"http://orders{path}")
            return answer.status_code, answer.json()

        yield get


@contextmanager
def in_httpx(facade: Facade) -> Iterator[Get]:
    with httpx.Client(transport=Transport(facade=facade)) as client:

        def get(path: str) -> tuple[int, dict[str, object]]:
            answer = client.get(f"http://orders{path}")
            return answer.status_code, answer.json()

        yield get


CLIENTS = {
    "aiohttp": partial(looped, make=client_session, get=get_aiohttp),
    "httpx on a loop": partial(
        looped, make=lambda mesh: httpx.AsyncClient(transport=AsyncTransport(facade=mesh)), get=get_httpx
    ),
    "httpx2 on a loop": partial(
        looped, make=lambda mesh: httpx2.AsyncClient(transport=AsyncTransport(facade=mesh)), get=get_httpx
    ),
    "httpx": in_httpx,
    "requests": in_requests,
}
FAILURES = (aiohttp.ClientError, httpx.ConnectError, httpx2.ConnectError, requests.ConnectionError)


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> Callable[[Facade], object]:
    return CLIENTS[request.param]


def test_an_instance_that_the_library_calls_by_a_detour_sees_who_calls(live: Live, client) -> None:
    before, kept = carried(live), Kept()
    with client(facade(live, WEB, kept)) as get:
        answers = [get("/a?b=c") for _ in range(3)]
    assert [(status, echo["peer"], echo["path"]) for status, echo in answers] == [(200, ME, "/a?b=c")] * 3
    assert carried(live) == before + 1, "one connection, which was used again"
    assert {each.address for each in kept.tries} == {f"{orders(live)}@{authority(*carrier(live))}"}


def test_the_gateway_sees_who_calls_which_instance_and_no_more_of_it(live: Live) -> None:
    before = len(tunnelled(live))
    with in_requests(facade(live, WEB)) as get:
        assert get("/secret-path")[0] == 200
    seen = (ME, orders(live))
    # Its log is written every ten seconds.
    _until(lambda: seen in {(line["peer"], line["authority"]) for line in tunnelled(live)[before:]})
    assert "secret-path" not in live.proxy(CARRIER).log


def test_a_large_body_passes_both_ways(live: Live) -> None:
    with requests.Session() as session:
        session.mount("http://", Adapter(facade(live, WEB)))
        answer = session.post("http://orders/?padding=300000", data=b"x" * 300_000)
        assert (answer.status_code, len(answer.content) > 300_000) == (200, True)


def test_each_way_has_its_own_connections(live: Live, client) -> None:
    """What was connected directly never carries what is to take the detour, nor the other way round."""
    by(live, direct=1, detour=1)
    kept = Kept()
    with client(facade(live, WEB, kept)) as get:
        before = carried(live)
        _until(lambda: get("/")[0] == 200 and len({each.address for each in kept.tries}) == 2)
        direct = sum("@" not in each.address for each in kept.tries)
        assert carried(live) == before + 1
        assert 0 < direct < len(kept.tries)


def test_a_gateway_that_is_none_of_the_mesh_is_refused_before_it_is_asked(live: Live, client) -> None:
    """Here the instance itself, which shows another identity."""
    (locality,) = spread(live.mesh, direct=0, detour=1).localities
    wrong = tuple(replace(each, via=orders(live)) for each in locality.endpoints)
    live.instead = {PORT: replace(live.instead[PORT], localities=(replace(locality, endpoints=wrong),))}
    with client(facade(live, WEB)) as get, pytest.raises(FAILURES, match=r"sa/orders answered"):
        get("/")
    assert live.backends.log == []


def test_an_instance_that_is_somebody_else_is_refused_behind_a_gateway_too(live: Live, client) -> None:
    told = live.instead[PORT]
    (locality,) = told.localities
    ledger = live.mesh.workloads[Name("shop", "ledger-1")].spec
    other = tuple(
        replace(each, address=ledger.address, port=ledger.ports[0].mesh_port or 0) for each in locality.endpoints
    )
    live.instead = {PORT: replace(told, localities=(replace(locality, endpoints=other),))}
    with client(facade(live, WEB)) as get, pytest.raises(FAILURES, match=r"sa/ledger answered"):
        get("/")
    assert live.backends.log == []


def test_an_instance_to_which_the_gateway_does_not_lead_is_not_reached(live: Live, client) -> None:
    told = live.instead[PORT]
    (locality,) = told.localities
    nowhere = tuple(replace(each, port=9) for each in locality.endpoints)
    live.instead = {PORT: replace(told, localities=(replace(locality, endpoints=nowhere),))}
    with client(facade(live, WEB)) as get, pytest.raises(FAILURES, match=r"does not carry us to .*answered 404"):
        get("/")


@pytest.mark.parametrize(("direct", "detour"), [(1, 9), (5, 995)])
def test_when_the_gateway_dies_no_call_is_lost(live: Live, client, direct: int, detour: int) -> None:
    """Calls that may be repeated all succeed; they go the direct way, and a gateway that is back is used again."""
    by(live, direct=direct, detour=detour)
    found: Counter[int] = Counter()
    is_over = threading.Event()
    mesh = facade(live, WEB)
    kept = mesh.recorder
    assert isinstance(kept, Kept)

    def keep_calling() -> None:
        with client(mesh) as get:
            while not is_over.is_set():
                try:
                    found[get("/")[0]] += 1
                except FAILURES as error:
                    found[str(error)] += 1  # type: ignore[index] # it is shown

    callers = [threading.Thread(target=keep_calling) for _ in range(2)]
    for each in callers:
        each.start()
    try:
        _until(lambda: found[200] > 100)
        with live.without(CARRIER):
            before = found[200]
            _until(lambda: found[200] > before + 200)
            assert "1 ejected" in repr(mesh.channels)
            assert "1 by a detour" in repr(mesh.channels)
        live.change(live.mesh)
        by_detour = sum("@" in each.address and each.outcome.is_success for each in kept.tries)
        _until(lambda: sum("@" in each.address and each.outcome.is_success for each in kept.tries) > by_detour)
    finally:
        is_over.set()
        for each in callers:
            each.join()
    assert set(found) == {200}, found


LEDGER = PortRef("shop", "ledger", 81)


def told_of_ledger(live: Live, *, direct: int, detour: int) -> Facade:
    live.instead = {LEDGER: spread(live.mesh, direct=direct, detour=detour, service=LEDGER)}
    return facade(live, WEB)


@pytest.mark.parametrize("detour", [0, 1])
async def test_connections_to_tcp_services_reach_sidecars_by_either_way(live: Live, detour: int) -> None:
    before = carried(live)
    reader, writer = await tcp.open("ledger", 81, facade=told_of_ledger(live, direct=1 - detour, detour=detour))
    writer.write(b"hello")
    assert json.loads(await reader.read())["workload"] == "ledger-1"
    writer.close()
    await writer.wait_closed()
    assert carried(live) == before + detour


@pytest.mark.parametrize("detour", [0, 1])
def test_and_so_do_those_of_a_thread(live: Live, detour: int) -> None:
    mesh = told_of_ledger(live, direct=1 - detour, detour=detour)
    with tcp.connect("ledger.shop.svc.cluster.local", 81, timeout=10, facade=mesh) as connection:
        assert connection.peer == "spiffe://mesh.local/ns/shop/sa/ledger"
        connection.sendall(b"hello")
        with connection.makefile("rb") as file:
            assert json.loads(file.read())["workload"] == "ledger-1"


def test_a_service_that_speaks_http_is_not_connected_to(live: Live) -> None:
    with pytest.raises(tcp.NotConnectedError, match="it speaks HTTP"):
        tcp.connect("orders", 80, facade=facade(live, WEB))
