"""Requests that might go straight, but that a rare option, or something unasked for, makes others'."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractCookieJar
from yarl import URL

from library.answering import Answering
from library.test_aiohttp import until
from library.test_aiohttp_straight import OK, in_two, plain, saying, visiting, warm
from library.town import Town, service
from masche.library.aiohttp import Connector
from masche.library.core.aiohttp_straight import Straight

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
STALE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstale"


@pytest.fixture
def began(monkeypatch: pytest.MonkeyPatch) -> list[Straight]:
    """The requests that began to go straight."""
    found: list[Straight] = []
    sent = Straight.sent

    def noting(self: Straight) -> Any:
        found.append(self)
        return sent(self)

    monkeypatch.setattr(Straight, "sent", noting)
    return found


@pytest.mark.parametrize("is_warm", [True, False])
async def test_headers_that_can_be_read_once_are_sent(town: Town, is_warm: bool) -> None:
    orders = town.instance("orders", answer=saying(OK))
    async with visiting(town) as session:
        await warm(town, session, orders)
        for name in ("x-a", "x-b") if is_warm else ("x-a",):
            async with session.get("http://orders/", headers=zip([name], ["1"], strict=True)) as answer:
                assert await answer.text() == "ok"
            assert f"{name}: 1".encode() in orders.received[-1].lower()


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        ({"max_line_size": 10}, OK.replace(b"OK", b"As Long As It Is Wide")),
        ({"max_field_size": 50}, OK.replace(b"X-Mine: a", b"X-Mine: " + b"a" * 60)),
        ({"max_headers": 2}, OK),
    ],
)
async def test_what_a_session_takes_for_too_much_is_refused(town: Town, option: dict[str, Any], answer: bytes) -> None:
    orders = town.instance("orders", answer=saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    async with visiting(town, **option) as session:
        town.serve("orders", orders, route=plain("orders"))
        async with session.get("http://orders/") as found:
            assert await found.text() == "ok"
        orders.answer = saying(answer)
        with pytest.raises(aiohttp.ClientResponseError):
            await session.get("http://orders/")


@pytest.fixture
def in_plaintext(town: Town) -> Iterator[Answering]:
    running = Answering(None, saying(OK))
    yield running
    running.close()


async def test_a_large_body_that_came_at_once_is_read_in_pieces(town: Town, in_plaintext: Answering) -> None:
    body = b"b" * 200_000
    in_plaintext.answer = saying(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + body)
    told = service("orders", "", f"127.0.0.1:{in_plaintext.port}", tls=False)
    plainly = {name: replace(each, is_tls=False) for name, each in told.destinations.items()}
    async with visiting(town) as session:
        town.told["orders"] = replace(told, destinations=plainly)
        for _ in range(5):
            async with session.get("http://orders/") as answer:
                assert b"".join([each async for each in answer.content.iter_any()]) == body


async def test_a_connection_that_its_instance_means_to_close_is_not_kept(town: Town) -> None:
    """As llhttp reads it, which takes the one word for the other."""
    orders = town.instance("orders", answer=saying(OK))
    async with visiting(town) as session:
        await warm(town, session, orders)
        orders.answer = saying(OK.replace(b"X-Mine: a", b"Proxy-Connection: close"))
        for _ in range(2):
            async with session.get("http://orders/") as answer:
                assert await answer.text() == "ok"
        assert orders.accepted == 2


@pytest.mark.parametrize("total", [0, -1, None])
async def test_what_aiohttp_takes_for_no_limit_is_none(town: Town, began: list[Straight], total: float | None) -> None:
    goes_on = threading.Event()
    orders = town.instance("orders", answer=saying(OK))
    async with visiting(town) as session:
        await warm(town, session, orders)
        orders.answer = in_two(orders, OK[:20], goes_on, OK[20:])
        asyncio.get_running_loop().call_later(0.05, goes_on.set)
        async with session.get("http://orders/", timeout=aiohttp.ClientTimeout(total=total)) as answer:
            assert await answer.text() == "ok"
        assert len(began) == 1


def test_a_session_of_another_loop_sends_nothing(town: Town) -> None:
    orders = town.instance("orders", answer=saying(OK))

    async def called(session: aiohttp.ClientSession) -> str:
        async with session.get("http://orders/") as answer:
            return await answer.text()

    async def begun() -> tuple[Any, aiohttp.ClientSession]:
        visit = visiting(town)
        session = await visit.__aenter__()
        await warm(town, session, orders)
        return visit, session

    with asyncio.Runner() as own, asyncio.Runner() as other:
        visit, session = own.run(begun())
        with pytest.raises(RuntimeError):
            other.run(called(session))
        assert orders.received == []
        assert own.run(called(session)) == "ok"
        own.run(visit.__aexit__(None, None, None))


@pytest.mark.parametrize("again", ["straight", "as ever"])
async def test_what_nobody_asked_for_after_an_answer_in_chunks_is_nobodys_answer(town: Town, again: str) -> None:
    orders = town.instance("orders", answer=saying(OK))
    async with visiting(town) as session:
        await warm(town, session, orders)
        async with session.delete("http://orders/") as answer:
            assert await answer.text() == "ok"
        goes_on = threading.Event()
        orders.answer = in_two(orders, CHUNKED, goes_on, STALE)
        async with session.get("http://orders/") as answer:
            assert await answer.text() == "ok"
        goes_on.set()
        connector: Any = session.connector
        ((rests, _),) = [each for conns in connector._conns.values() for each in conns]
        await until(lambda: bool(rests._buffer) or rests.transport is None)
        orders.answer = saying(CHUNKED)
        method = "DELETE" if again == "straight" else "GET"
        async with session.request(method, "http://orders/") as answer:
            assert await answer.text() == "ok"
        assert orders.accepted == 2


async def test_who_makes_a_connector_of_his_own_is_asked_for_connections(town: Town) -> None:
    asked: list[str] = []

    class Counting(Connector):
        def connect(self, req: aiohttp.ClientRequest, *rest: Any, **more: Any) -> Any:
            asked.append(req.method)
            return super().connect(req, *rest, **more)

    orders = town.instance("orders", answer=saying(OK))
    async with visiting(town, connector=Counting(town.facade)) as session:
        await warm(town, session, orders)
        asked.clear()
        for _ in range(2):
            async with session.get("http://orders/") as answer:
                assert await answer.text() == "ok"
    assert asked == ["GET"] * 2


async def test_a_password_of_nothing_is_one(town: Town) -> None:
    orders = town.instance("orders", answer=saying(OK))
    async with visiting(town) as session:
        await warm(town, session, orders)
        async with session.get("http://:@orders/") as answer:
            assert await answer.text() == "ok"
        assert b"authorization: basic og==" in orders.received[-1].lower()


async def test_a_jar_of_another_kind_is_asked_once(town: Town) -> None:
    asked: list[URL] = []

    class Jar(aiohttp.DummyCookieJar):
        def filter_cookies(self, request_url: URL) -> Any:
            asked.append(request_url)
            return super().filter_cookies(request_url)

    jar: AbstractCookieJar = Jar()
    orders = town.instance("orders", answer=saying(OK))
    async with visiting(town, cookie_jar=jar) as session:
        await warm(town, session, orders)
        asked.clear()
        orders.answer = saying(CHUNKED)
        for _ in range(2):
            async with session.get("http://orders/") as answer:
                assert await answer.text() == "ok"
    assert len(asked) == 2


async def test_a_connection_of_an_older_certificate_is_not_used(town: Town, began: list[Straight]) -> None:
    orders = town.instance("orders", answer=saying(OK))
    async with visiting(town) as session:
        await warm(town, session, orders)
        for renews, accepted in ((False, 1), (True, 2), (False, 2)):
            if renews:
                town.issuing.renew(town.identity, "web")
            async with session.get("http://orders/") as answer:
                assert await answer.text() == "ok"
            assert orders.accepted == accepted
    assert len(began) == 3


async def test_a_connection_to_whom_nobody_expects_any_more_is_not_used(town: Town, began: list[Straight]) -> None:
    orders = town.instance("orders", answer=saying(OK))
    async with visiting(town) as session:
        await warm(town, session, orders)
        others = service("orders", town.issuing.name("others"), f"127.0.0.1:{orders.port}", route=plain("orders"))
        town.told["orders"] = others
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.get("http://orders/")
    assert len(began) == 1
    assert orders.received == []


async def test_an_answer_that_has_begun_to_come_is_read_though_the_certificate_ended(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = Straight.came

    def ending(self: Straight, usual: Any) -> None:
        came(self, usual)
        town.identity.begin_afresh()

    orders = town.instance("orders", answer=saying(OK))
    async with visiting(town) as session:
        await warm(town, session, orders)
        orders.answer = saying(CHUNKED)
        monkeypatch.setattr(Straight, "came", ending)
        async with session.get("http://orders/") as answer:
            assert await answer.text() == "ok"
