"""Requests that go straight: nobody can tell which way a request went, whatever becomes of it."""

import asyncio
import gzip
import ssl
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest
from yarl import URL

from library.answering import Answer, Answering, hang_up
from library.test_aiohttp import settled, until
from library.town import Town, to
from masche.library.aiohttp import client_session
from masche.library.core.aiohttp_straight import Session, Straight
from masche.model.view import HeaderChange, RequestMatch, Retry, Route

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Mine: a\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nok"
ANSWERS = {
    "usual": OK,
    "a denial": b"HTTP/1.1 403 No\r\nContent-Length: 2\r\nx-masche-denied: some/policy\r\n\r\nno",
    "not found": b"HTTP/1.1 404 Not Here\r\nContent-Length: 2\r\n\r\nno",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "packed": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 22\r\n\r\n"
    + gzip.compress(b"ok", mtime=0),
    "cookies": b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\nok",
    "nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
    "no words": b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok",
    "an older HTTP": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "told to close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    "limited": b"HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\n\r\nno",
    "broken": b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno",
    "refused": b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno",
    "hidden": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nx-masche-service-us: 12\r\nX-Gone: 1\r\n\r\nok",
}

AT_A_GLANCE = {"usual", "not found", "no words", "hidden"}

Way = list[str]
"""What became of requests that went straight, one after the other; of those that went as ever there is nothing."""


@pytest.fixture(params=["straight", "as ever"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> Way:
    found: Way = []
    came, failed = Straight.came, Straight.failed

    def noting_came(self: Straight, usual: Any) -> None:
        came(self, usual)
        found.append("answered" if self.answer is not None else "goes on")

    def noting_failed(self: Straight, error: Exception) -> None:
        found.append(type(error).__name__)
        failed(self, error)

    monkeypatch.setattr(Straight, "came", noting_came)
    monkeypatch.setattr(Straight, "failed", noting_failed)
    return found


@asynccontextmanager
async def visiting(town: Town, *, is_straight: bool = True, **options: Any) -> AsyncGenerator[aiohttp.ClientSession]:
    """A session, of which nothing is left behind."""
    async with client_session(town.facade, **options) as made:
        vars(made)["is_straight"] = is_straight and cast("Session", made).is_straight
        yield made
    await until(lambda: town.is_quiet)
    for _ in range(3):  # what the other side has closed is read, told and closed here
        await asyncio.sleep(0)
    assert settled(town)


@pytest.fixture
async def session(town: Town, way: str, gone: Way) -> AsyncIterator[aiohttp.ClientSession]:
    async with visiting(town, is_straight=way == "straight") as made:
        yield made


async def test_usual_sessions_of_this_aiohttp_go_straight(town: Town) -> None:
    """Where this fails, aiohttp has changed: calls still go as ever; see what of aiohttp_straight holds no longer."""
    async with visiting(town) as made:
        assert cast("Session", made).is_straight


def plain(name: str, *, attempts: int = 0, timeout: float = 5.0, per_try: float = 0.0, **more: Any) -> Route:
    """A route that does the same with every request."""
    retry = Retry(attempts=attempts, codes=(503,), any_method=True, max_backoff=0.01)
    return Route(
        name=name,
        match=RequestMatch(),
        action=to(name, timeout=timeout, per_try_timeout=per_try, retry=retry),
        **more,
    )


def saying(said: bytes) -> Answer:
    return lambda _head: said


async def warm(town: Town, session: aiohttp.ClientSession, *instances: Answering, route: Route | None = None) -> None:
    """Let a connection rest to each, by requests that went as ever."""
    for each in instances:
        town.serve("orders", each, route=route or plain("orders"))
        kept, each.answer = each.answer, saying(OK)
        async with session.get("http://orders/") as answer:
            assert await answer.read() == b"ok"
        each.answer = kept
        each.received.clear()
    town.serve("orders", *instances, route=route or plain("orders"))
    town.counted.calls.clear()
    town.counted.attempts.clear()


def in_two(instance: Answering, first: bytes, goes_on: threading.Event, rest: bytes) -> Answer:
    """Send something, and the rest later. For one connection."""

    def answer(_head: bytes) -> bytes:
        next(each for each in instance.open if isinstance(each, ssl.SSLSocket)).sendall(first)
        assert goes_on.wait(10)
        return rest

    return answer


def told(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """All that an application can see of an answer."""
    info = answer.request_info
    return {
        "status": (answer.status, answer.reason, answer.version, answer.ok, answer.method),
        "urls": (answer.url, answer.real_url, answer.host),
        "headers": (tuple(answer.headers.items()), answer.raw_headers, answer.content_type, answer.charset),
        "links": (answer.links, answer.content_disposition, answer.cookies.output()),
        "asked": (info.url, info.method, tuple(info.headers.items()), info.real_url),
        "history": answer.history,
        "repr": repr(answer),
    }


async def asked_for(session: aiohttp.ClientSession, **options: Any) -> tuple[dict[str, Any], bytes, str]:
    """What is seen of an answer, first and last."""
    async with session.get("http://orders/items?c=d%20e", **options) as answer:
        seen = told(answer)
        body = await answer.read()
        again = await answer.text()
    assert answer.closed
    assert answer.connection is None
    return seen, body, again


def recorded(town: Town) -> list[tuple[Any, ...]]:
    calls = [(each.cluster, each.rule, each.status, each.flag, each.bytes_received) for each in town.counted.calls]
    return [*calls, *[(each.cluster, each.outcome, each.service_seconds) for each in town.counted.attempts]]


def words(instance: Answering) -> list[bytes]:
    """What was received, without what is drawn by chance, or measured."""
    by_chance = (b"x-request-id", b"traceparent", b"x-envoy-expected-rq-timeout-ms")
    return [
        b"\r\n".join(line for line in each.split(b"\r\n") if not line.startswith(by_chance))
        for each in instance.received
    ]


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_is_the_same_whichever_way_it_was_asked_for(town: Town, gone: Way, name: str) -> None:
    found: list[Any] = []
    for is_straight in (True, False):
        async with visiting(town, is_straight=is_straight) as session:
            orders = town.instance("orders", answer=saying(ANSWERS[name]))
            hiding = HeaderChange(remove=("x-gone",))
            await warm(town, session, orders, route=plain("orders", attempts=1, response_headers=hiding))
            gone.clear()
            seen = [await asked_for(session) for _ in range(3)]
            cookies = session.cookie_jar.filter_cookies(URL("http://orders/")).output()
            assert is_straight == bool(gone)
            if is_straight and name in AT_A_GLANCE:
                assert gone == ["answered"] * 3
            assert settled(town)
            found.append((seen, cookies, recorded(town), words(orders)))
    assert found[0] == found[1]


async def test_headers_and_a_timeout_of_its_own_do_not_keep_a_request_from_going_straight(
    town: Town, session: aiohttp.ClientSession, gone: Way, way: str
) -> None:
    orders = town.instance("orders", answer=saying(OK))
    await warm(town, session, orders)
    options: dict[str, Any] = {"headers": {"X-Sent": "1"}, "timeout": aiohttp.ClientTimeout(total=5)}
    await asked_for(session, **options)
    seen, _, _ = await asked_for(session, **options)
    assert ("X-Sent", "1") in seen["asked"][2]
    assert [b"x-sent: 1" in each for each in words(orders)] == [True, True]
    assert gone == (["answered"] if way == "straight" else [])


async def test_a_redirect_is_followed_and_remembered(
    town: Town, session: aiohttp.ClientSession, gone: Way, way: str
) -> None:
    def answer(head: bytes) -> bytes:
        moved = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 2\r\n\r\nno"
        return moved if head.startswith(b"GET /here") else OK

    orders = town.instance("orders", answer=answer)
    await warm(town, session, orders)
    async with session.get("http://orders/here") as found:
        assert await found.text() == "ok"
        assert found.url.path == "/there"
        assert [(each.status, each.url.path) for each in found.history] == [(302, "/here")]
    async with session.get("http://orders/here", allow_redirects=False) as found:
        assert (found.status, await found.text(), found.headers["location"]) == (302, "no", "/there")
    assert [each.split(b" ")[1] for each in orders.received] == [b"/here", b"/there", b"/here"]
    assert [each.status for each in town.counted.calls] == [302, 200, 302]
    assert gone == (["goes on", "goes on"] if way == "straight" else [])


async def test_a_cookie_that_a_route_sets_is_kept(town: Town, session: aiohttp.ClientSession) -> None:
    orders = town.instance("orders", answer=saying(OK))
    baking = HeaderChange(add=(("set-cookie", "stick=here"), ("x-added", "ü")))
    await warm(town, session, orders, route=plain("orders", response_headers=baking))
    session.cookie_jar.clear()
    async with session.get("http://orders/") as answer:
        assert answer.cookies["stick"].value == "here"
        assert answer.headers["x-added"] == "ü"
        assert (b"x-added", "ü".encode()) in answer.raw_headers
        assert await answer.text() == "ok"
    async with session.get("http://orders/") as answer:
        await answer.read()
    assert [b"stick=here" in each for each in orders.received] == [False, True]


async def test_what_is_not_answered_well_is_asked_again_elsewhere(town: Town, session: aiohttp.ClientSession) -> None:
    bad, good = town.instance("orders", answer=saying(ANSWERS["refused"])), town.instance("orders", answer=saying(OK))
    await warm(town, session, bad, good, route=plain("orders", attempts=2))
    for _ in range(6):
        async with session.get("http://orders/") as answer:
            assert answer.status == 200
    assert [each.status for each in town.counted.calls] == [200] * 6
    assert len(town.counted.attempts) == 6 + len(bad.received)


@pytest.mark.parametrize("attempts", [0, 1])
async def test_a_connection_that_breaks_is_told_and_repeated_as_the_route_says(
    town: Town, session: aiohttp.ClientSession, gone: Way, way: str, attempts: int
) -> None:
    orders = town.instance("orders", answer=saying(OK))
    broken = Retry(attempts=attempts, codes=(503,), any_method=True, max_backoff=0.01)
    route = Route(name="orders", match=RequestMatch(), action=to("orders", timeout=5.0, retry=broken))
    await warm(town, session, orders, route=route)
    orders.answer = hang_up
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await session.get("http://orders/")
    assert [(each.status, each.flag) for each in town.counted.calls] == [(0, "UF")]
    assert len(orders.received) == 1 + attempts
    assert gone == (["ServerDisconnectedError"] if way == "straight" else [])
    assert settled(town)


async def test_a_connection_that_broke_while_it_rested_is_not_used(town: Town, session: aiohttp.ClientSession) -> None:
    orders = town.instance("orders", answer=saying(OK))
    await warm(town, session, orders)
    orders.hang_up()
    await until(lambda: town.is_quiet)
    await asyncio.sleep(0.05)
    async with session.get("http://orders/") as answer:
        assert await answer.text() == "ok"
    assert orders.accepted == 2


async def test_the_users_own_time_is_up(town: Town, session: aiohttp.ClientSession, gone: Way, way: str) -> None:
    orders = town.instance("orders", answer=saying(b""))
    await warm(town, session, orders)
    with pytest.raises(aiohttp.ServerTimeoutError):
        await session.get("http://orders/", timeout=aiohttp.ClientTimeout(total=0.1))
    assert settled(town)
    assert [(each.status, each.flag) for each in town.counted.calls] == [(0, "UT")]
    assert gone == (["OutOfTimeError"] if way == "straight" else [])


async def test_the_users_own_time_holds_for_all_attempts_together(town: Town, session: aiohttp.ClientSession) -> None:
    orders = town.instance("orders", answer=saying(b""))
    await warm(town, session, orders, route=plain("orders", attempts=50, per_try=0.2))
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError):
        await session.get("http://orders/", timeout=aiohttp.ClientTimeout(total=0.5))
    assert 0.4 < loop.time() - began < 5
    assert settled(town)


async def test_a_routes_time_is_up(town: Town, session: aiohttp.ClientSession) -> None:
    orders = town.instance("orders", answer=saying(b""))
    await warm(town, session, orders, route=plain("orders", timeout=0.1))
    with pytest.raises(aiohttp.ServerTimeoutError):
        await session.get("http://orders/")
    assert settled(town)
    assert [(each.status, each.flag) for each in town.counted.calls] == [(0, "UT")]


@pytest.mark.parametrize("body", [b"", b"ok"])
async def test_an_answer_in_pieces_is_read_as_ever(
    town: Town, session: aiohttp.ClientSession, gone: Way, way: str, body: bytes
) -> None:
    """The head in two pieces, or the body after it; until that has come, the request is under way."""
    pieces = [OK[:20], OK[20:]] if not body else [OK[:-2], body]
    orders = town.instance("orders", answer=saying(OK))
    await warm(town, session, orders)
    goes_on = threading.Event()
    orders.answer = in_two(orders, pieces[0], goes_on, pieces[1])
    call = asyncio.ensure_future(session.get("http://orders/").__aenter__())
    await until(lambda: bool(gone) or way == "as ever")
    await asyncio.sleep(0.02)
    assert not settled(town)
    goes_on.set()
    answer = await call
    assert await answer.text() == "ok"
    assert settled(town)
    assert [(each.status, each.bytes_received) for each in town.counted.calls] == [(200, 2)]
    assert orders.accepted == 1


async def test_a_head_that_only_begins_to_come_has_no_more_time_than_any_other(
    town: Town, session: aiohttp.ClientSession
) -> None:
    orders = town.instance("orders", answer=saying(OK))
    await warm(town, session, orders, route=plain("orders", timeout=0.2))
    orders.answer = saying(OK[:20])
    with pytest.raises(aiohttp.ServerTimeoutError):
        await session.get("http://orders/")
    assert settled(town)


async def test_a_body_that_does_not_end_is_ended_by_the_users_time(town: Town, session: aiohttp.ClientSession) -> None:
    orders = town.instance("orders", answer=saying(OK))
    await warm(town, session, orders)
    orders.answer = saying(OK[:-1])
    async with session.get("http://orders/", timeout=aiohttp.ClientTimeout(total=0.2)) as answer:
        with pytest.raises(TimeoutError):
            await answer.read()
    assert settled(town)


async def test_who_is_cancelled_leaves_nothing_behind(
    town: Town, session: aiohttp.ClientSession, gone: Way, way: str
) -> None:
    orders = town.instance("orders", answer=saying(b""))
    await warm(town, session, orders)
    call = asyncio.ensure_future(session.get("http://orders/").__aenter__())
    await until(lambda: bool(orders.received))
    assert not settled(town)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert settled(town)
    assert [(each.status, each.flag) for each in town.counted.calls] == [(0, "DC")]
    await until(lambda: town.is_quiet)
    assert gone == []


@pytest.mark.parametrize("answer", [OK, OK[:-1], ANSWERS["chunked"], ANSWERS["refused"]])
async def test_cancellation_at_every_step_leaves_nothing_behind(
    town: Town, session: aiohttp.ClientSession, answer: bytes
) -> None:
    orders = town.instance("orders", answer=saying(answer))
    await warm(town, session, orders, route=plain("orders", attempts=1))

    async def called() -> None:
        async with session.get("http://orders/") as found:
            await found.content.readany()

    for steps in range(40):
        task = asyncio.ensure_future(called())
        for _ in range(steps):
            await asyncio.sleep(0 if steps < 20 else 0.001)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None
        assert settled(town), steps


async def test_a_session_that_is_closed_ends_its_requests(town: Town, way: str) -> None:
    orders = town.instance("orders", answer=saying(b""))
    async with visiting(town, is_straight=way == "straight") as session:
        await warm(town, session, orders)
        call = asyncio.ensure_future(session.get("http://orders/").__aenter__())
        await until(lambda: bool(orders.received))
    with pytest.raises(aiohttp.ClientError):
        await call
    assert settled(town)
    with pytest.raises(RuntimeError, match="Session is closed"):
        await session.get("http://orders/")


async def test_what_nobody_asked_for_is_not_taken_for_the_next_answer(
    town: Town, session: aiohttp.ClientSession
) -> None:
    orders = town.instance("orders", answer=saying(OK))
    await warm(town, session, orders)
    goes_on = threading.Event()
    orders.answer = in_two(orders, OK, goes_on, ANSWERS["not found"])
    async with session.get("http://orders/") as answer:
        await answer.read()
    goes_on.set()
    await until(lambda: town.is_quiet)
    orders.answer = saying(OK)
    async with session.get("http://orders/") as answer:
        assert answer.status == 200
    assert orders.accepted == 2


async def test_as_many_are_under_way_as_ever_and_each_has_its_own_answer(
    town: Town, session: aiohttp.ClientSession
) -> None:
    def answer(head: bytes) -> bytes:
        said = head.split(b" ")[1]
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said)

    orders = town.instance("orders", answer=answer)
    await warm(town, session, orders)

    async def one(number: int) -> bool:
        async with session.get(f"http://orders/{number}") as found:
            return await found.text() == f"/{number}"

    for _ in range(3):
        assert all(await asyncio.gather(*[one(number) for number in range(30)]))
    assert settled(town)
    assert orders.accepted <= 30


async def test_who_stands_in_aiohttps_place_is_asked(
    town: Town, session: aiohttp.ClientSession, gone: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those do that answer for others in tests, or watch requests."""
    orders = town.instance("orders", answer=saying(OK))
    await warm(town, session, orders)
    seen: list[str] = []
    own: Any = aiohttp.ClientSession._request  # pyright: ignore[reportPrivateUsage] # as they do

    async def watched(self: Any, method: str, url: Any, **options: Any) -> aiohttp.ClientResponse:
        seen.append(method)
        return await own(self, method, url, **options)

    monkeypatch.setattr("aiohttp.client.ClientSession._request", watched)
    async with session.get("http://orders/") as answer:
        assert answer.status == 200
    assert seen == ["GET"]
    assert gone == []


async def through(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    return await handler(request)


SPECIAL: dict[str, Any] = {
    "trace_configs": [aiohttp.TraceConfig()],
    "raise_for_status": True,
    "base_url": "http://orders/",
    "trust_env": True,
    "version": aiohttp.HttpVersion10,
    "skip_auto_headers": ["user-agent"],
    "middlewares": (through,),
    "proxy": "http://proxy/",
    "cookies": {"a": "b"},
    "timeout": aiohttp.ClientTimeout(sock_read=3),
}


@pytest.mark.parametrize("name", SPECIAL)
async def test_a_session_that_asks_for_something_special_has_it_as_ever(town: Town, gone: Way, name: str) -> None:
    options = {name: SPECIAL[name]}
    orders = town.instance("orders", answer=saying(OK))
    async with visiting(town, **options) as session:
        for _ in range(3):
            town.serve("orders", orders, route=plain("orders"))
            async with session.get("/" if "base_url" in options else "http://orders/") as answer:
                assert await answer.text() == "ok"
    assert gone == []


SPECIALLY: dict[str, Any] = {
    "params": {"a": "b"},
    "cookies": {"a": "b"},
    "data": b"body",
    "ssl": False,
    "read_until_eof": False,
    "timeout": aiohttp.ClientTimeout(sock_read=3),
}


@pytest.mark.parametrize("name", SPECIALLY)
async def test_a_request_that_asks_for_something_special_has_it_as_ever(
    town: Town, session: aiohttp.ClientSession, gone: Way, name: str
) -> None:
    orders = town.instance("orders", answer=saying(OK))
    await warm(town, session, orders)
    for url in ("http://orders/", "http://a:b@orders/", "http://orders/#there"):
        async with session.get(url, **{name: SPECIALLY[name]}) as answer:
            assert await answer.text() == "ok"
    assert gone == []


@pytest.mark.parametrize("url", ["http://a:b@orders/", "http://orders/#there", "http://orders/%2e%2e/a", "http://:1"])
async def test_an_unusual_url_goes_as_ever(town: Town, session: aiohttp.ClientSession, gone: Way, url: str) -> None:
    orders = town.instance("orders", answer=saying(OK))
    await warm(town, session, orders)
    if url == "http://:1":
        with pytest.raises(aiohttp.InvalidURL):
            await session.get(url)
        return
    async with session.get(url) as answer:
        assert await answer.text() == "ok"
    assert gone == [] or url.endswith("a")
