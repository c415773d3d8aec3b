"""The connections of an httpx client on an event loop: which of them are used again, and when each is closed."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from library.answering import Answering, hang_up, who
from library.town import Town, never_repeating, service, settled
from masche.library.core import h11_pools
from masche.library.core.httpcore_pools import KEPT_ALIVE
from masche.library.core.pool import MAX_IDLE
from masche.library.core.tls import Certificates
from masche.library.httpx import AsyncTransport


@pytest.fixture
async def calling(town: Town) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=AsyncTransport(facade=town.facade)) as made:
        yield made
    await until(lambda: town.is_quiet)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


def clear(text: str, answer: Callable[[bytes], bytes] | None = None) -> Answering:
    """A server that takes plaintext."""
    return Answering(None, answer or who(text))


def in_the_clear(town: Town, *instances: Answering) -> None:
    """Tell of a service whose instances take plaintext, as the mesh itself says."""
    for each in instances:
        town.keep(each)
    known = service("orders", town.issuing.name("orders"), *[f"127.0.0.1:{each.port}" for each in instances], tls=False)
    [destination] = known.destinations.values()
    cluster = destination.cluster
    object.__setattr__(cluster, "has_plaintext", True)
    town.told["orders"] = known


async def test_what_one_answer_has_ended_with_the_next_request_goes_on_with(
    town: Town, calling: httpx.AsyncClient
) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    async with asyncio.TaskGroup() as tasks:
        for _ in range(4):
            tasks.create_task(calling.get("http://orders/"))
    opened = orders.accepted
    for _ in range(8):
        assert (await calling.get("http://orders/")).text == "orders"
    assert orders.accepted == opened <= 4


async def test_who_was_closed_while_idle_is_not_asked_again(town: Town, calling: httpx.AsyncClient) -> None:
    """Not even once, for what is not idempotent could not be sent again."""
    orders = town.instance("orders")
    town.serve("orders", orders, route=never_repeating("orders"))
    for times in range(1, 4):
        assert (await calling.post("http://orders/", content=b"x")).status_code == 200
        assert orders.accepted == times
        orders.hang_up()
        await until(lambda: not orders.open)


async def test_an_idle_connection_ends_in_time(
    town: Town, calling: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h11_pools, "_SWEEP", 0.01)
    monkeypatch.setattr(h11_pools, "KEPT_ALIVE", 0.05)
    orders = town.instance("orders")
    town.serve("orders", orders)
    assert (await calling.get("http://orders/")).text == "orders"
    await until(lambda: town.is_quiet)
    assert (await calling.get("http://orders/")).text == "orders"
    assert orders.accepted == 2


async def test_who_was_idle_for_too_long_is_not_asked_before_anybody_swept(
    town: Town, calling: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    await calling.get("http://orders/")
    loop = asyncio.get_running_loop()
    later = loop.time() + KEPT_ALIVE + 1
    monkeypatch.setattr(loop, "time", lambda: later)
    await calling.get("http://orders/")
    assert orders.accepted == 2


async def test_a_place_that_nobody_asks_for_is_forgotten_with_its_connections(
    town: Town, calling: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders, carts = town.instance("orders"), town.instance("carts")
    town.serve("orders", orders)
    town.serve("carts", carts)
    await calling.get("http://orders/")
    now = town.facade.now()
    transport: Any = calling._transport  # pyright: ignore[reportPrivateUsage] # the only way to its pools
    monkeypatch.setattr(transport.pools(None)._tls, "_now", lambda: now + MAX_IDLE + 1)
    await calling.get("http://carts/")
    await until(lambda: not orders.open)
    assert carts.open


async def test_connections_end_with_their_certificate_and_answers_do_not(
    town: Town, calling: httpx.AsyncClient
) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    await calling.get("http://orders/")
    async with calling.stream("GET", "http://orders/") as before:
        assert orders.accepted == 1
        town.issuing.renew(town.identity, "web")
        assert (await calling.get("http://orders/")).text == "orders"
        assert orders.accepted == 2
        assert await before.aread() == b"orders"
    await until(lambda: len(orders.open) == 2)  # the one connection, plain and encrypted


async def test_an_address_that_is_called_as_two_services_has_connections_for_each(
    town: Town, calling: httpx.AsyncClient
) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    town.told["carts"] = service("carts", town.issuing.name("orders"), f"127.0.0.1:{orders.port}")
    town.told["thieves"] = service("thieves", town.issuing.name("thieves"), f"127.0.0.1:{orders.port}")
    await calling.get("http://orders/")
    await calling.get("http://carts/")
    assert orders.accepted == 1, "the same identity at the same address"
    with pytest.raises(httpx.ConnectError, match="thieves"):
        await calling.get("http://thieves/")
    assert len(orders.received) == 2


async def test_an_answer_that_was_not_read_to_its_end_takes_its_connection_along(
    town: Town, calling: httpx.AsyncClient
) -> None:
    orders = town.instance("orders", lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nord")
    town.serve("orders", orders)
    async with calling.stream("GET", "http://orders/") as answer:
        assert answer.status_code == 200
    await until(lambda: town.is_quiet)
    assert settled(town)


async def test_an_answer_that_is_forgotten_leaves_no_connection(town: Town, calling: httpx.AsyncClient) -> None:
    orders = town.instance("orders", lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nord")
    town.serve("orders", orders)
    answer = await calling.send(calling.build_request("GET", "http://orders/"), stream=True)
    assert orders.open
    transport: Any = calling._transport  # pyright: ignore[reportPrivateUsage] # the only way to its pools
    assert "1 connections in use" in repr(transport)
    del answer
    gc.collect()
    await until(lambda: town.is_quiet)
    assert "0 connections in use, 0 idle" in repr(transport)


async def test_cancelling_at_any_moment_closes_what_was_begun(town: Town) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders, route=never_repeating("orders"))
    for turns in range(40):
        async with httpx.AsyncClient(transport=AsyncTransport(facade=town.facade)) as calling:
            task = asyncio.create_task(calling.get("http://orders/"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        assert settled(town)
    gc.collect()
    await until(lambda: town.is_quiet)


async def test_a_client_that_is_closed_ends_what_it_carries(town: Town) -> None:
    orders = town.instance("orders", lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nord")
    town.serve("orders", orders)
    calling = httpx.AsyncClient(transport=AsyncTransport(facade=town.facade))
    answer = await calling.send(calling.build_request("GET", "http://orders/"), stream=True)
    await calling.aclose()
    with pytest.raises(httpx.TransportError):
        await answer.aread()
    await until(lambda: town.is_quiet)
    assert settled(town)


async def test_plaintext_goes_where_the_mesh_says_so_and_its_connections_are_kept_less_long(
    town: Town, calling: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h11_pools, "_SWEEP", 0.01)
    monkeypatch.setattr(h11_pools, "KEPT_ALIVE_PLAIN", 0.05)
    open_one = clear("orders")
    in_the_clear(town, open_one)
    for _ in range(2):
        assert (await calling.get("http://orders/")).text == "orders"
    await until(lambda: not open_one.open)
    assert (await calling.get("http://orders/")).text == "orders"
    assert open_one.accepted >= 2


async def test_a_large_body_comes_whole_however_slowly_it_is_read(town: Town, calling: httpx.AsyncClient) -> None:
    body = bytes(range(256)) * 8192
    town.serve(
        "orders", town.instance("orders", lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    )
    for _ in range(2):
        async with calling.stream("GET", "http://orders/") as answer:
            parts: list[bytes] = []
            async for part in answer.aiter_raw():
                await asyncio.sleep(0.001)
                parts.append(part)
        assert b"".join(parts) == body


async def test_a_body_that_comes_in_parts_is_sent_in_chunks(town: Town, calling: httpx.AsyncClient) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        yield b""
        yield b"two"

    assert (await calling.post("http://orders/", content=parts())).status_code == 200
    await until(lambda: b"0\r\n\r\n" in b"".join(orders.received))
    assert b"3\r\none\r\n" in b"".join(orders.received)
    assert b"3\r\ntwo\r\n" in b"".join(orders.received)


async def test_what_is_no_answer_is_the_clients_own_exception(town: Town, calling: httpx.AsyncClient) -> None:
    town.serve("orders", town.instance("orders", hang_up), route=never_repeating("orders"))
    with pytest.raises(httpx.RemoteProtocolError, match="disconnected without sending"):
        await calling.get("http://orders/")
    town.serve("carts", town.instance("carts", lambda _: b"what?\r\n\r\n"), route=never_repeating("carts"))
    with pytest.raises(httpx.RemoteProtocolError):
        await calling.get("http://carts/")
    assert settled(town)


async def test_a_protocol_that_was_switched_has_the_connection_for_itself(
    town: Town, calling: httpx.AsyncClient
) -> None:
    """It is what clients for WebSockets over httpx stand on."""
    switched = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nhello"
    orders = town.instance("orders", lambda head: switched if head.startswith(b"GET /") else b"and " + head)
    town.serve("orders", orders)
    asked = {"Connection": "upgrade", "Upgrade": "echo"}
    async with calling.stream("GET", "http://orders/", headers=asked) as answer:
        assert answer.status_code == 101
        stream = answer.extensions["network_stream"]
        assert stream.get_extra_info("ssl_object").version() == "TLSv1.3"
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", orders.port)
        assert await stream.read(3) == b"hel"
        assert await stream.read(10) == b"lo"
        await stream.write(b"back\r\n\r\n")
        assert await stream.read(100, timeout=10) == b"and back"
        with pytest.raises(httpx.ReadTimeout):
            await stream.read(100, timeout=0.01)
    await until(lambda: town.is_quiet)


async def test_who_waits_for_ever_is_not_ended_by_the_limit_of_a_wait_before(
    town: Town, calling: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answered = threading.Event(), threading.Event()

    def answer(head: bytes) -> bytes:
        if head.startswith(b"GET /later"):
            asked.set()
            answered.wait(10)
        return who("orders")(head)

    orders = town.instance("orders", answer)
    town.serve("orders", orders, route=never_repeating("orders"))
    await calling.get("http://orders/", timeout=3)
    later = asyncio.create_task(calling.get("http://orders/later", timeout=None))
    await until(asked.is_set)
    loop = asyncio.get_running_loop()
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + 3)
    for _ in range(3):
        await asyncio.sleep(0)
    answered.set()
    assert (await later).text == "orders"
    assert orders.accepted == 1


def test_who_calls_from_one_loop_after_the_other_has_connections_of_each(town: Town) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    transport = AsyncTransport(facade=town.facade)
    calling = httpx.AsyncClient(transport=transport)

    async def call() -> str:
        return (await calling.get("http://orders/")).text

    with asyncio.Runner() as runner:
        assert runner.run(call()) == "orders"
        with asyncio.Runner() as another:
            assert another.run(call()) == "orders"
            assert another.run(call()) == "orders"
            another.run(calling.aclose())
        runner.run(asyncio.sleep(0.01))
    assert orders.accepted == 2


async def test_without_a_certificate_nothing_goes_out(town: Town) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    town.facade.identity = Certificates()
    async with httpx.AsyncClient(transport=AsyncTransport(facade=town.facade)) as calling:
        with pytest.raises(httpx.ConnectError, match="no certificate of the mesh yet"):
            await calling.get("http://orders/")
    assert orders.accepted == 0
