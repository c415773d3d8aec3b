"""httpx and httpx2 through the mesh, over real mutual TLS on loopback: the same for clients of both, async and not."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import httpx2
import pytest

from library.answering import hang_up
from library.town import Town, changing, never_repeating, repeating, settled, within
from masche.library.core.facade import Facade
from masche.library.core.httpcore_pools import SyncPools
from masche.library.core.httpx_modules import module as module_of
from masche.library.httpx import AsyncTransport, Transport

BOTH = pytest.mark.parametrize("module", [httpx, httpx2], ids=["httpx", "httpx2"])
"""Modules are Any here: what is tested is that one transport serves both."""


def client(module: Any, facade: Facade, **options: Any) -> Any:
    return module.Client(transport=Transport(facade=facade), **options)


def async_client(module: Any, facade: Facade, **options: Any) -> Any:
    return module.AsyncClient(transport=AsyncTransport(facade=facade), **options)


@BOTH
async def test_a_name_of_the_mesh_is_called_over_mutual_tls(town: Town, module: Any) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    async with async_client(module, town.facade) as calling:
        answer = await calling.get("http://orders/items?q=a%20b")
    assert isinstance(answer, module.Response)
    assert (answer.status_code, answer.text) == (200, "orders")
    assert orders.peers == [town.identity.spiffe_id]
    [head] = orders.received
    assert head.startswith(b"GET /items?q=a%20b HTTP/1.1\r\nHost: orders\r\n")
    assert settled(town)


@BOTH
def test_so_it_is_without_an_event_loop(town: Town, module: Any) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    with client(module, town.facade) as calling:
        for _ in range(3):
            assert calling.get("http://orders/items").text == "orders"
        assert calling.post("http://orders/", json={"a": 1}).status_code == 200
    assert orders.accepted == 1, "a connection is used again"
    assert settled(town)


@BOTH
async def test_connections_are_used_again_and_never_for_another_identity(town: Town, module: Any) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    town.serve("carts", orders)
    async with async_client(module, town.facade) as calling:
        for _ in range(3):
            assert (await calling.get("http://orders/")).text == "orders"
        assert orders.accepted == 1
        with pytest.raises(module.ConnectError, match="carts"):
            await calling.get("http://carts/")
    assert len(orders.received) == 3
    assert settled(town)


@BOTH
def test_a_connection_of_one_identity_is_not_used_for_another_in_threads_either(town: Town, module: Any) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    town.serve("carts", orders)
    with client(module, town.facade) as calling:
        assert calling.get("http://orders/").text == "orders"
        with pytest.raises(module.ConnectError, match="carts"):
            calling.get("http://carts/")
    assert len(orders.received) == 1


async def test_a_new_certificate_makes_new_connections_and_breaks_no_answer(town: Town) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    async with async_client(httpx, town.facade) as calling, calling.stream("GET", "http://orders/") as before:
        town.issuing.renew(town.identity, "web")
        assert (await calling.get("http://orders/")).text == "orders"
        assert orders.accepted == 2
        assert await before.aread() == b"orders"
    assert settled(town)


@BOTH
async def test_who_cannot_be_reached_is_the_clients_own_exception(town: Town, module: Any) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    orders.close()
    async with async_client(module, town.facade) as calling:
        with pytest.raises(module.ConnectError):
            await calling.get("http://orders/")
    with client(module, town.facade) as calling, pytest.raises(module.ConnectError):
        calling.get("http://orders/")
    assert settled(town)


@BOTH
async def test_a_connection_that_ends_instead_of_an_answer_is_repeated_elsewhere(town: Town, module: Any) -> None:
    bad, good = town.instance("orders", hang_up), town.instance("orders")
    town.serve("orders", bad, good, route=repeating("orders"))
    async with async_client(module, town.facade) as calling:
        for _ in range(6):
            assert (await calling.get("http://orders/")).text == "orders"
    with client(module, town.facade) as calling:
        for _ in range(6):
            assert calling.get("http://orders/").text == "orders"


@BOTH
async def test_a_body_that_was_read_once_is_not_sent_again(town: Town, module: Any) -> None:
    bad = town.instance("orders", hang_up)
    town.serve("orders", bad, route=repeating("orders"))

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"

    async with async_client(module, town.facade) as calling:
        with pytest.raises((module.RemoteProtocolError, module.ReadError)):
            await calling.put("http://orders/", content=parts())
    assert bad.accepted == 1
    with client(module, town.facade) as calling, pytest.raises((module.RemoteProtocolError, module.ReadError)):
        calling.put("http://orders/", content=iter([b"one"]))
    assert bad.accepted == 2
    assert settled(town)


def silent(_head: bytes) -> bytes:
    return b""


@BOTH
async def test_silence_is_the_clients_own_timeout(town: Town, module: Any) -> None:
    town.serve("orders", town.instance("orders", silent), route=within("orders", 0.1))
    async with async_client(module, town.facade) as calling:
        with pytest.raises(module.ReadTimeout):
            await calling.get("http://orders/")
    with client(module, town.facade) as calling, pytest.raises(module.ReadTimeout):
        calling.get("http://orders/")
    assert settled(town)


@BOTH
async def test_the_users_own_timeout_holds_where_it_is_shorter(town: Town, module: Any) -> None:
    town.serve("orders", town.instance("orders", silent), route=within("orders", 60))
    async with async_client(module, town.facade, timeout=0.1) as calling:
        with pytest.raises(module.ReadTimeout):
            await calling.get("http://orders/")
    with client(module, town.facade, timeout=0.1) as calling, pytest.raises(module.ReadTimeout):
        calling.get("http://orders/")


def half(_head: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nord"


@BOTH
async def test_a_body_that_does_not_come_ends_with_the_route(town: Town, module: Any) -> None:
    town.serve("orders", town.instance("orders", half), route=within("orders", 0.2))
    async with async_client(module, town.facade) as calling:
        with pytest.raises(module.ReadTimeout):
            await calling.get("http://orders/")
    with client(module, town.facade) as calling, pytest.raises(module.ReadTimeout):
        calling.get("http://orders/")
    assert settled(town)


@BOTH
async def test_a_request_is_active_until_its_body_was_closed(town: Town, module: Any) -> None:
    town.serve("orders", town.instance("orders"))
    async with async_client(module, town.facade) as calling, calling.stream("GET", "http://orders/") as answer:
        assert not settled(town)
        assert town.counted.calls == []
        await answer.aclose()
        assert settled(town)
    assert [each.status for each in town.counted.calls] == [200]


@BOTH
async def test_what_the_route_changes_is_sent_and_answered(town: Town, module: Any) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders, route=changing("orders"))
    async with async_client(module, town.facade) as calling:
        answer = await calling.get("http://orders/items")
        assert answer.headers["x-added"] == "1"
        assert calling.cookies["stick"] == "here"
    [head] = orders.received
    assert head.startswith(b"GET /v2/items HTTP/1.1\r\nHost: other\r\n")
    assert b"x-sent: 2\r\n" in head


@BOTH
async def test_what_the_mesh_answers_is_the_clients_response(town: Town, module: Any) -> None:
    town.serve("orders")
    async with async_client(module, town.facade) as calling:
        answer = await calling.get("http://orders/")
    assert (answer.status_code, answer.text) == (503, "no healthy upstream\n")
    with client(module, town.facade) as calling:
        assert calling.get("http://orders/").text == "no healthy upstream\n"


@BOTH
async def test_before_anything_is_known_the_error_says_for_what_it_waited(town: Town, module: Any) -> None:
    town.silent.add("orders")
    async with async_client(module, town.facade) as calling:
        with pytest.raises(module.ConnectError, match="waiting for the control plane"):
            await calling.get("http://orders/")
    with client(module, town.facade) as calling, pytest.raises(module.ConnectError, match="not called in plaintext"):
        calling.get("http://orders/")


@BOTH
async def test_strangers_are_called_as_without_the_mesh(town: Town, module: Any) -> None:
    seen: list[str] = []

    def outside(request: Any) -> Any:
        seen.append(str(request.url))
        return module.Response(200, text="outside")

    mock = module.MockTransport(outside)
    async with module.AsyncClient(transport=AsyncTransport(facade=town.facade, outside=mock)) as calling:
        assert (await calling.get("https://example.org/a")).text == "outside"
    with module.Client(transport=Transport(facade=town.facade, outside=mock)) as calling:
        assert calling.get("http://localhost:9/b").text == "outside"
    assert seen == ["https://example.org/a", "http://localhost:9/b"]
    assert town.counted.calls == []


async def test_cancelling_at_any_moment_leaves_nothing_behind(town: Town) -> None:
    town.serve("orders", town.instance("orders"), route=never_repeating("orders"))
    async with async_client(httpx, town.facade) as calling:
        for turns in range(30):
            assert (await calling.get("http://orders/")).text == "orders"
            task = asyncio.create_task(calling.get("http://orders/"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
    gc.collect()
    assert settled(town)


def test_a_transport_says_what_it_has(town: Town) -> None:
    town.serve("orders", town.instance("orders"))
    transport = Transport(facade=town.facade)
    assert repr(transport) == "<Transport not used yet>"
    with httpx.Client(transport=transport) as calling:
        calling.get("http://orders/")
        assert repr(transport) == "<Transport <Pools: 1 of 1 sets of identities>, 0 active in plaintext>"


def test_threads_that_begin_together_share_one_pool(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a second one nobody would ever close the connections."""
    together = threading.Barrier(4)

    class Slow(SyncPools):
        def __init__(self, *about: Any) -> None:
            time.sleep(0.05)
            super().__init__(*about)

    monkeypatch.setattr("masche.library.httpx.SyncPools", Slow)
    with Transport(facade=town.facade) as transport, ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda _: (together.wait(10), transport.pools(module_of("httpx")))[1], range(4))
        assert len({id(each) for each in found}) == 1
