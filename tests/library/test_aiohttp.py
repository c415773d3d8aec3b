"""aiohttp through the mesh: what a user of it sees, and what the services behind see."""

import asyncio
import contextlib
import io
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from library.answering import hang_up
from library.issuing import bare_client, bare_server
from library.town import Town, changing, never_idle, never_repeating, repeating, service, settled, within
from masche.library.aiohttp import Connector, client_session, mesh
from masche.model.calling import UNSAID, Hedging


@pytest.fixture
async def session(town: Town) -> AsyncIterator[aiohttp.ClientSession]:
    async with client_session(town.facade) as made:
        yield made
    await until(lambda: town.is_quiet)
    for _ in range(3):  # what the other side has closed is read, told and closed here
        await asyncio.sleep(0)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


def app(name: str) -> web.Application:
    """An application that says who it is, echoes, and speaks WebSocket."""

    async def who(_request: web.Request) -> web.Response:
        return web.Response(text=name)

    async def echo(request: web.Request) -> web.Response:
        body = await request.read()
        return web.Response(body=body, content_type=request.content_type, headers={"x-length": str(len(body))})

    async def talk(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(str(message.data))
        return socket

    made = web.Application()
    made.add_routes([web.get("/", who), web.post("/echo", echo), web.get("/ws", talk)])
    return made


@asynccontextmanager
async def serving(application: web.Application, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@asynccontextmanager
async def app_in(town: Town, name: str, application: web.Application) -> AsyncIterator[None]:
    """An application as an instance of a service."""
    async with serving(application, town.issuing.certificates(name).server_context()) as port:
        town.told[name] = service(name, town.issuing.name(name), f"127.0.0.1:{port}")
        yield


async def test_a_name_of_the_mesh_is_called_over_mutual_tls(town: Town, session: aiohttp.ClientSession) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    async with session.get("http://orders/items?q=a%20b") as answer:
        assert await answer.text() == "orders"
        assert str(answer.url) == "http://orders/items?q=a%20b"
    assert orders.peers == [town.identity.spiffe_id]
    [head] = orders.received
    assert head.startswith(b"GET /items?q=a%20b HTTP/1.1\r\nHost: orders\r\n")


async def test_connections_are_used_again(town: Town, session: aiohttp.ClientSession) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    for _ in range(5):
        async with session.get("http://orders/") as answer:
            await answer.read()
    assert orders.accepted == 1


async def text(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url) as answer:
        return await answer.text()


async def test_another_service_at_the_same_address_is_connected_to_anew(
    town: Town, session: aiohttp.ClientSession
) -> None:
    """The instance of one service has ended and its address is another's; the old connection is still open."""
    orders = town.instance("orders")
    town.serve("orders", orders)
    assert await text(session, "http://orders/") == "orders"
    orders.stop_listening()
    carts = town.instance("carts", port=orders.port)
    town.serve("carts", carts)
    assert await text(session, "http://carts/") == "carts"
    assert len(orders.received) == 1


async def test_one_address_expected_as_two_services_lets_only_the_right_one_be_called(
    town: Town, session: aiohttp.ClientSession
) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    town.serve("carts", orders)
    assert await text(session, "http://orders/") == "orders"
    with pytest.raises(aiohttp.ClientConnectorCertificateError, match=r"carts; spiffe://.*/orders answered"):
        await text(session, "http://carts/")
    assert len(orders.received) == 1


async def test_a_new_certificate_is_shown_from_the_next_connection_on(
    town: Town, session: aiohttp.ClientSession
) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    await text(session, "http://orders/")
    town.issuing.renew(town.identity, "web")
    await text(session, "http://orders/")
    assert orders.accepted == 2


async def test_nobody_there_is_aiohttps_own_error(town: Town, session: aiohttp.ClientSession) -> None:
    gone = town.instance("orders")
    town.serve("orders", gone)
    gone.stop_listening()
    with pytest.raises(aiohttp.ClientConnectorError):
        await text(session, "http://orders/")
    assert settled(town)


async def test_a_service_without_instances_is_answered_by_the_mesh(town: Town, session: aiohttp.ClientSession) -> None:
    town.serve("orders")
    async with session.get("http://orders/") as answer:
        assert answer.status == 503
        assert "no healthy upstream" in await answer.text()
        assert answer.headers["content-type"] == "text/plain"
        assert str(answer.url) == "http://orders/"
    assert settled(town)


async def test_a_broken_connection_leads_to_another_instance_if_the_request_may_be_repeated(
    town: Town, session: aiohttp.ClientSession
) -> None:
    bad, good = town.instance("orders", answer=lambda _head: b""), town.instance("orders")
    town.serve("orders", bad, good, route=repeating("orders"))
    found = {await text(session, "http://orders/") for _ in range(6)}
    assert found == {"orders"}


async def test_what_is_not_repeated_by_the_mesh_is_not_repeated_by_aiohttp_either(
    town: Town, session: aiohttp.ClientSession
) -> None:
    bad = town.instance("orders", answer=hang_up)
    town.serve("orders", bad, route=never_repeating("orders"))
    with pytest.raises(aiohttp.ClientError):
        await text(session, "http://orders/")
    assert len(bad.received) == 1
    assert settled(town)


async def test_when_nothing_is_known_in_time_aiohttp_says_so_and_nothing_is_sent(
    town: Town, session: aiohttp.ClientSession
) -> None:
    town.silent.add("orders")
    with pytest.raises(aiohttp.ClientConnectionError, match=r"nothing is known of orders .* the control plane"):
        await text(session, "http://orders/")


async def test_a_cancelled_call_leaves_nothing_behind(town: Town, session: aiohttp.ClientSession) -> None:
    silent = town.instance("orders", answer=lambda _head: b"")
    town.serve("orders", silent)
    call = asyncio.ensure_future(text(session, "http://orders/"))
    await until(lambda: bool(silent.received))
    assert not settled(town)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert settled(town)


async def test_the_clients_own_timeout_holds(town: Town, session: aiohttp.ClientSession) -> None:
    silent = town.instance("orders", answer=lambda _head: b"")
    town.serve("orders", silent)
    with pytest.raises(TimeoutError):
        await session.get("http://orders/", timeout=aiohttp.ClientTimeout(total=0.1))
    assert settled(town)


async def test_a_routes_timeout_is_a_timeout_of_aiohttps(town: Town, session: aiohttp.ClientSession) -> None:
    silent = town.instance("orders", answer=lambda _head: b"")
    town.serve("orders", silent, route=within("orders", 0.1))
    with pytest.raises(aiohttp.ServerTimeoutError):
        await text(session, "http://orders/")
    assert settled(town)


async def test_a_routes_timeout_ends_a_body_that_does_not_end(town: Town, session: aiohttp.ClientSession) -> None:
    half = town.instance("orders", answer=lambda _head: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    town.serve("orders", half, route=within("orders", 0.2))
    async with session.get("http://orders/") as answer:
        with pytest.raises(aiohttp.ServerTimeoutError):
            await answer.read()
    assert settled(town)


async def test_a_body_in_which_nothing_moves_is_given_up(town: Town, session: aiohttp.ClientSession) -> None:
    half = town.instance("orders", answer=lambda _head: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    town.serve("orders", half, route=never_idle("orders", 0.1))
    async with session.get("http://orders/") as answer:
        with pytest.raises(aiohttp.ServerTimeoutError):
            await answer.read()
    assert settled(town)


async def test_a_body_that_is_not_read_counts_as_under_way_until_it_is_closed(
    town: Town, session: aiohttp.ClientSession
) -> None:
    half = town.instance("orders", answer=lambda _head: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    town.serve("orders", half)
    async with session.get("http://orders/") as answer:
        assert await answer.content.read(4) == b"half"
        assert not settled(town)
    assert settled(town)
    assert town.counted.calls[-1].bytes_received == 4


async def test_what_is_not_of_the_mesh_goes_out_as_ever(town: Town, session: aiohttp.ClientSession) -> None:
    """By plain HTTP, and by aiohttp's own TLS."""
    async with serving(app("outside")) as plain:
        assert await text(session, f"http://localhost:{plain}/") == "outside"
    chain, key = town.issuing.pair("x")
    own = bare_client(town.issuing.roots, chain, key)
    async with (
        serving(app("outside"), bare_server(chain, key, town.issuing.roots)) as secure,
        session.get(f"https://127.0.0.1:{secure}/", ssl=own) as answer,
    ):
        assert await answer.text() == "outside"
    assert town.counted.calls == []


async def test_an_idempotent_request_outside_is_repeated_by_aiohttps_rule(
    town: Town, session: aiohttp.ClientSession
) -> None:
    """A connection that was kept is found closed by the other side: the request goes again, once, as ever."""
    hits = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal hits
        hits += 1
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            if hits > 1:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    async with server:
        assert await text(session, f"http://outside.test:{server.sockets[0].getsockname()[1]}/") == "ok"
    assert hits == 2


@pytest.fixture(autouse=True)
def _names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name outside of the mesh that leads to this host."""
    real = aiohttp.ThreadedResolver.resolve

    async def resolve(self: aiohttp.ThreadedResolver, host: str, *rest: int, **named: int) -> object:
        return await real(self, "127.0.0.1" if host == "outside.test" else host, *rest, **named)  # type: ignore[arg-type] # of any arguments

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)


async def test_a_redirect_of_a_service_leads_through_the_mesh_again(town: Town, session: aiohttp.ClientSession) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://carts/new\r\nContent-Length: 0\r\n\r\n"
    carts = town.instance("carts")
    town.serve("orders", town.instance("orders", answer=lambda _head: moved))
    town.serve("carts", carts)
    async with session.get("http://orders/old") as answer:
        assert await answer.text() == "carts"
        assert str(answer.url) == "http://carts/new"
        assert [each.status for each in answer.history] == [302]
    async with session.get("http://orders/old", allow_redirects=False) as answer:
        assert answer.status == 302


async def test_bodies_of_every_kind_arrive(town: Town, session: aiohttp.ClientSession) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"a", b"b" * 70_000, b"c"):
            yield piece

    async with app_in(town, "orders", app("orders")):
        for data in (b"x" * 100_000, "text", pieces(), io.BytesIO(b"file"), {"form": "1"}):
            async with session.post("http://orders/echo", data=data) as answer:
                assert answer.status == 200
                length = int(answer.headers["x-length"])
                assert length == len(await answer.read())
                assert length > 0
        async with session.post("http://orders/echo", json={"a": 1}) as answer:
            assert await answer.json() == {"a": 1}
        async with session.head("http://orders/") as answer:
            assert answer.status == 200
    assert settled(town)


async def test_a_web_socket_goes_through_the_mesh(town: Town, session: aiohttp.ClientSession) -> None:
    async with app_in(town, "orders", app("orders")), session.ws_connect("http://orders/ws") as socket:
        await socket.send_str("hello")
        assert (await socket.receive_str()) == "hello"
        assert not settled(town)
    await until(lambda: settled(town))


async def test_a_routes_changes_are_what_the_application_sees_its_cookies_too(
    town: Town, session: aiohttp.ClientSession
) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders, route=changing("orders"))
    async with session.get("http://orders/") as answer:
        assert answer.headers["X-Added"] == "1"
        assert answer.cookies["stick"].value == "here"
        assert (b"x-added", b"1") in answer.raw_headers
    async with session.get("http://orders/") as answer:
        await answer.read()
    assert b"stick=here" in orders.received[-1]
    assert b"x-sent: 2" in orders.received[-1]
    assert orders.received[-1].startswith(b"GET /v2/ HTTP/1.1\r\nHost: other")


async def test_the_slow_of_two_instances_is_hedged(town: Town, session: aiohttp.ClientSession) -> None:
    slow, fast = town.instance("orders", answer=lambda _head: b""), town.instance("orders")
    town.serve(
        "orders", slow, fast, traffic=replace(UNSAID, hedging=Hedging(enabled=True, max_percent=100, after=0.05))
    )
    found = [await asyncio.wait_for(text(session, "http://orders/"), 5) for _ in range(4)]
    assert found == ["orders"] * 4
    await until(lambda: settled(town))


async def test_a_requests_own_middlewares_do_not_get_around_the_mesh(
    town: Town, session: aiohttp.ClientSession
) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    seen: list[str] = []

    async def mine(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        seen.append(str(request.url))
        request.headers["x-mine"] = "1"
        return await handler(request)

    with pytest.raises(aiohttp.ClientConnectionError, match=r"add masche.library.aiohttp.mesh as the last"):
        await session.get("http://orders/", middlewares=(mine,))
    async with session.get("http://orders/", middlewares=(mine, mesh)) as answer:
        assert await answer.text() == "orders"
    async with client_session(town.facade, middlewares=(mine,)) as another:
        assert await text(another, "http://orders/") == "orders"
    assert seen == ["http://orders/"] * 3
    assert all(b"x-mine: 1" in head for head in orders.received)


async def test_a_proxy_of_the_environment_is_not_asked_for_names_of_the_mesh(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    town.serve("orders", town.instance("orders"))
    async with client_session(town.facade, trust_env=True) as session:
        assert await text(session, "http://orders/") == "orders"


async def test_what_could_lose_the_mesh_is_refused(town: Town) -> None:
    with pytest.raises(TypeError, match=r"must be a masche.library.aiohttp.Connector, not TCPConnector"):
        client_session(town.facade, connector=aiohttp.TCPConnector())
    town.serve("orders", town.instance("orders"))
    async with client_session(connector=Connector(town.facade, limit=2)) as session:
        assert session.connector is not None
        assert session.connector.limit == 2
        assert await text(session, "http://orders/") == "orders"
    async with aiohttp.ClientSession(middlewares=(mesh,)) as bare:
        with pytest.raises(aiohttp.ClientConnectionError, match=r"has no masche.library.aiohttp.Connector"):
            await bare.get("http://orders/")


async def test_a_session_has_as_many_connections_as_the_service_allows(town: Town) -> None:
    """More than aiohttp's 100: all are answered together, once the last of them has come."""
    most = 101
    everybody = asyncio.Event()
    here = 0

    async def meet(_request: web.Request) -> web.Response:
        nonlocal here
        here += 1
        if here == most:
            everybody.set()
        await everybody.wait()
        return web.Response(text="met")

    application = web.Application()
    application.add_routes([web.get("/", meet)])
    async with app_in(town, "orders", application), client_session(town.facade) as session:
        async with asyncio.TaskGroup() as tasks:
            calls: list[asyncio.Task[str]] = []
            for number in range(1, most + 1):
                calls.append(tasks.create_task(text(session, "http://orders/")))
                await until(lambda number=number: here == number)
        assert {each.result() for each in calls} == {"met"}


async def test_a_request_goes_out_in_the_same_words_whether_aiohttp_writes_it_or_not(
    town: Town, session: aiohttp.ClientSession
) -> None:
    """Who traces its requests wants aiohttp to write them; all others that have no body need no more than a line."""
    orders = town.instance("orders")
    town.serve("orders", orders, route=changing("orders"))
    sent = {"X-Mine": "1", "X-Tab": "a\tb", "X-Text": "Zürich", "Accept": "text/plain"}
    connector = session.connector
    async with client_session(
        town.facade, connector=connector, connector_owner=False, trace_configs=[aiohttp.TraceConfig()]
    ) as traced:
        for asking in (session, traced):
            for headers in (sent, {name: value for name, value in sent.items() if name != "X-Tab"}, {}):
                for method in ("GET", "DELETE", "OPTIONS"):
                    async with asking.request(method, "http://orders/a%20b?c=d", headers=headers) as answer:
                        assert str(answer.request_info.real_url) == "http://orders/a%20b?c=d"
    heads = [re.sub(rb"(x-request-id|traceparent): [0-9a-f-]+", rb"\1", head) for head in orders.received]
    assert heads[:9] == heads[9:]
    assert b"X-Tab" not in heads[0]
    assert b"x-tab: a\tb\r\n" in heads[0]
    assert orders.accepted == 1, "they are all of the same connections"


async def test_what_could_be_read_as_two_headers_is_not_sent(town: Town, session: aiohttp.ClientSession) -> None:
    orders = town.instance("orders")
    town.serve("orders", orders)
    for value in ("a\r\nx-other: b", "a\nb", "a\0b"):
        with contextlib.suppress(ValueError, aiohttp.ClientError):
            async with session.get("http://orders/", headers={"x-mine": value}) as answer:
                assert answer.status == 400
    assert orders.received == []
    assert settled(town)
